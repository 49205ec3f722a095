"""Baselines that train parts of a model: neutral settings, the same values on any number of ranks and after a kill."""

import signal
import sys
import unittest

sys.path.insert(0, __import__("os").path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class BaselineTest(ProgramTest):
    def same_on_ranks_and_after_a_kill(self, *settings):
        settings = (*settings, "--checkpoint.every=1")
        one = self.run_ok("one", *settings)
        for ranks in (2, 3, 5):
            self.assert_same(one, self.run_ok(f"on{ranks}", *settings, ranks=ranks))
        done = self.espalier("run", self.input, "--run.name=killed", *settings, env={"ESPALIER_KILL_AT": "checkpoint.renamed:2"})
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stdout + done.stderr)
        self.assert_same(one, self.run_ok("killed", *settings, ranks=2))
        return one


class FederatedDropout(BaselineTest):
    METHOD = "--method.name=federated_dropout"

    def test_width_1_is_fedavg(self):
        for number, more in enumerate(((), ("--model.name=cnn", "--model.channels=4,8", "--model.features=16", "--model.norm=batch"))):
            fedavg = self.run_ok(f"fedavg{number}", *more)
            self.assert_same(fedavg, self.run_ok(f"dropout{number}", self.METHOD, "--method.widths=1", *more), "--values")

    def test_same_values(self):
        one = self.same_on_ranks_and_after_a_kill(self.METHOD, "--method.widths=1, 0.5", "--method.levels=dynamic",
                                                  "--clients.per_round=5", "--train.momentum=0.9")
        tasks = self.table(one)
        self.assertEqual(set(tasks["share"]), {1.0, 0.5})
        narrow = tasks["share"] == 0.5
        # Hidden layers of 16 and 8 units.
        self.assertEqual(set(tasks["parameters"][narrow]), {144 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10})
        # Whichever units are drawn, the message has their seed.
        self.assertEqual(len(set(tasks["bytes_down"][narrow])), 1)
        self.assertLess(tasks["peak_bytes"][narrow].max(), 0.6 * tasks["peak_bytes"][~narrow].min())


if __name__ == "__main__":
    unittest.main()
