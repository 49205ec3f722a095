"""32 regions, dozens of faults and kills of the whole program in one run: nothing is lost, all regions have the same
shared copy, and the faults cost no more time than they take."""

import os
import struct
import unittest

import h5py
import numpy as np

from regions_test import RegionsTest

PERIOD = 8
STATE = struct.calcsize("<14q")  # of a region's state in a checkpoint; then its replica and its shared copy, each after its size
SIZE = struct.calcsize("<q")


class ManyFaults(RegionsTest):
    SIZE = ("--clients.count=32", "--clients.fleet=32*fast", "--data.synthetic_samples=448", "--run.rounds=16",
            "--regions.overlap=3", "--regions.fragment_count=2", "--checkpoint.every=2")
    FAULTS = ("--faults.crash=0.06", "--faults.vanish=0.03", "--faults.vanish_tasks=1", "--faults.lost=0.03")

    def shared_copies(self, run):
        """The shared copy of each region at the end of the run, as bytes."""
        with h5py.File(self.checkpoint(run)) as file:
            values = sum(entry.size for entry in file["model"].values())
            begin = STATE + SIZE + 4 * values + SIZE
            return {int(name): state[()].tobytes()[begin:begin + 4 * values]
                    for name, state in file["regions/residents"].items()}

    def test_32_regions(self):
        free = self.run_ok("free", *self.SIZE, ranks=3)
        whole = self.run_ok("whole", *self.SIZE, *self.FAULTS, ranks=3)
        kills = 0
        for point, ranks in (("region.step:900", 3), ("regions.merged:6", 2), ("checkpoint.half:2", 3),
                             ("regions.version:3", 3), ("region.step:400@1", 3)):
            done = self.espalier("run", self.input, "--run.name=killed", *self.SIZE, *self.FAULTS, ranks=ranks,
                                 env={"ESPALIER_KILL_AT": point})
            self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
            kills += 1
        self.assert_same(whole, self.run_ok("killed", *self.SIZE, *self.FAULTS, ranks=2))

        regions, exchanges = self.table(whole, "regions"), self.table(whole, "exchanges")
        self.assert_every_step_has_a_row(regions, PERIOD)
        failures = int((regions["lost_steps"] > 0).sum())
        messages = int(exchanges["lost"].sum())
        print(f"{failures} periods with a failure, {messages} lost messages, {kills} kills")
        self.assertGreaterEqual(failures + messages + kills, 62)
        copies = self.shared_copies(whole)
        at_end = (regions["period"] == 16) & (regions["steps"] + regions["lost_steps"] == PERIOD)
        there = [copies[region] for region in regions["region"][at_end]]
        self.assertGreater(len(there), 25)
        self.assertEqual(len(set(there)), 1)
        self.assertEqual(len(set(self.shared_copies(free).values())), 1)

        end, end_free = (self.table(run, "evaluations")["virtual_time_s"].max() for run in (whole, free))
        step = (regions["compute_s"].sum() / regions["steps"].sum())
        longest = max(regions["lost_steps"][regions["region"] == region].sum() for region in range(32))
        self.assertLessEqual(end, 1.03 * (end_free + longest * step))


if __name__ == "__main__":
    unittest.main()
