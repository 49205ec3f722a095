"""The inputs in inputs/signals/: one or two short rounds of each, with people as clients."""

import os
import unittest

import h5py
import numpy as np

from support import ProgramTest

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "signals")
SPEECH = os.path.join(os.environ.get("ESPALIER_DATA", ""), "spoken-digits", "spoken-digits.h5")


class Inputs(ProgramTest):
    def samples(self, run):
        tasks = self.table(run, "tasks")
        return dict(zip(tasks["client"].tolist(), tasks["samples"].tolist()))

    @unittest.skipUnless(os.path.exists(SPEECH), "skipped: ESPALIER_DATA names no folder with spoken-digits")
    def test_each_speaker_trains_on_the_own_recordings(self):
        self.input = os.path.join(INPUTS, "speech-cnn1d.ini")
        few = ("--run.rounds=1", "--data.test_limit=40", "--data.calibration=40")
        with h5py.File(SPEECH) as file:
            own = np.bincount(file["client"][:][file["split"][:] == 0])
        # Of six speakers the first two.
        two = self.run_ok("two", *few, "--clients.count=2", "--clients.fleet=2*phone")
        self.assertEqual(self.samples(two), {0: own[0], 1: own[1]})
        drawn = self.run_ok("drawn", *few, "--data.samples_per_client=20", ranks=3)
        self.assertEqual(self.samples(drawn), dict.fromkeys(range(6), 20))
        self.assert_refused(2, "clients.count = 7 is more than the 6 clients (0 to 5)", "run", self.input, "--run.name=seven",
                            "--clients.count=7", "--clients.fleet=7*phone", "--check")

    def test_motion_of_people(self):
        """On a stand-in of the same form: the exercise is the frequency."""
        draw = np.random.default_rng(5)
        y, client, split = np.arange(420) % 7, np.arange(420) % 10, np.arange(420) // 350
        waves = np.sin(np.arange(100) * (1 + y[:, None, None]) / 8 + draw.uniform(0, 6, (420, 6, 1)))
        os.makedirs(self.path("data", "motion"))
        for name, values in (("x", waves.astype("f4")), ("y", y), ("client", client), ("split", split)):
            np.save(self.path("data", "motion", name + ".npy"), values)
        self.input = os.path.join(INPUTS, "motion-cnn1d.ini")
        run = self.run_ok("motion", f"--data.dir={self.path('data')}", "--run.rounds=4", "--record.evaluate_every=4")
        self.assertEqual(self.samples(run), dict.fromkeys(range(10), 2 * 35))
        self.assertGreater(self.column(run, "top1", "evaluations")[-1], 3 / 7)


if __name__ == "__main__":
    unittest.main()
