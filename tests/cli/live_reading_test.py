"""Other programs can read run.h5 during the run."""

import os
import sys
import time
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tools"))
from espalier_h5 import open_run  # noqa: E402
from support import ProgramTest, finish  # noqa: E402


class LiveReading(ProgramTest):
    def test_what_is_read_meanwhile_is_the_beginning_of_what_is_there_at_the_end(self):
        run = self.path("runs", "live")
        job = self.begin(self.command("run", self.input, "--run.name=live", "--run.rounds=400",
                                      "--checkpoint.every=20", "--record.evaluate_every=50", ranks=3))
        while job.poll() is None and not os.path.exists(os.path.join(run, "run.h5")):
            time.sleep(0.02)
        read = []
        while job.poll() is None:
            read.append(open_run(run))
            time.sleep(0.02)
        done = finish(job, 60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        whole = open_run(run)
        lengths = [len(now.rounds["round"]) for now in read]
        self.assertEqual(lengths, sorted(lengths))
        self.assertGreater(len(set(lengths)), 3)  # the file grew between the reads
        for now in read:
            for table in ("rounds", "tasks", "evaluations", "clients"):
                for column, values in getattr(now, table).items():
                    np.testing.assert_array_equal(values, getattr(whole, table)[column][:len(values)],
                                                  f"{table}/{column}")


if __name__ == "__main__":
    unittest.main()
