"""The share of the model that was ever trained, and the agreement of updates: in a run, on any number of ranks, and
after a kill."""

import sys
import unittest

import numpy as np

sys.path.insert(0, __import__("os").path.dirname(__file__))
from support import ProgramTest  # noqa: E402

# Windows of half the width that roll, and that leave out different parameters in each round.
ROLLING = ("--method.name=fedrolex", "--method.widths=0.5", "--clients.per_round=2", "--record.agreement=true", "--run.rounds=5",
           "--checkpoint.every=1")


class Coverage(ProgramTest):
    def test_of_rolling_windows(self):
        run = self.run_ok("one", *ROLLING)
        ever = self.column(run, "coverage_ever", "rounds")
        held = self.column(run, "parameters")[0]
        # mlp of 144 inputs, 32 and 16 hidden neurons, 10 classes; both windows of a round are the same.
        whole = 144 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10
        self.assertEqual(ever[0], held / whole)
        self.assertTrue((ever[1:] > ever[:-1]).all(), ever)  # the window rolls on by one unit
        self.assertLess(ever[-1], 1)
        agreement = self.column(run, "agreement", "rounds")
        self.assertTrue((abs(agreement) <= 1).all(), agreement)
        for ranks in (2, 3, 5):
            self.assert_same(run, self.run_ok(f"on{ranks}", *ROLLING, ranks=ranks))

    def test_continues_after_a_kill(self):
        run = self.run_ok("straight", *ROLLING)
        words = ("run", self.input, "--run.name=killed", *ROLLING)
        killed = self.espalier(*words, env={"ESPALIER_KILL_AT": "checkpoint.renamed:3"})
        self.assertNotEqual(killed.returncode, 0)
        self.assert_same(run, self.run_ok("killed", *ROLLING, ranks=2))

    def test_whole_models(self):
        run = self.run_ok("whole")
        self.assertEqual(self.column(run, "coverage_ever", "rounds").tolist(), [1, 1, 1])
        self.assertTrue(np.isnan(self.column(run, "agreement", "rounds")).all())  # not asked for


if __name__ == "__main__":
    unittest.main()
