"""Baselines that train parts of a model: neutral settings, the same values on any number of ranks and after a kill."""

import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, __import__("os").path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class BaselineTest(ProgramTest):
    def same(self, *settings):
        return self.same_on_ranks_and_after_a_kill(*settings, ranks=(3, 5), kill="checkpoint.renamed:2", killed_ranks=2)


class FederatedDropout(BaselineTest):
    METHOD = "--method.name=federated_dropout"

    def test_width_1_is_fedavg(self):
        for number, more in enumerate(((), ("--model.name=cnn", "--model.channels=4,8", "--model.features=16", "--model.norm=batch"))):
            fedavg = self.run_ok(f"fedavg{number}", *more)
            self.assert_same(fedavg, self.run_ok(f"dropout{number}", self.METHOD, "--method.widths=1", *more), "--values")

    def test_same_values(self):
        one = self.same(self.METHOD, "--method.widths=1, 0.5", "--method.levels=dynamic",
                        "--clients.per_round=5", "--train.momentum=0.9")
        tasks = self.table(one)
        self.assertEqual(set(tasks["share"]), {1.0, 0.5})
        narrow = tasks["share"] == 0.5
        # Hidden layers of 16 and 8 units.
        self.assertEqual(set(tasks["parameters"][narrow]), {144 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10})
        # Whichever units are drawn, the message has their seed.
        self.assertEqual(len(set(tasks["bytes_down"][narrow])), 1)
        self.assertLess(tasks["peak_bytes"][narrow].max(), 0.6 * tasks["peak_bytes"][~narrow].min())


class SplitMix(BaselineTest):
    METHOD = ("--method.name=splitmix", "--model.members=4", "--method.widths=1, 0.5, 0.25")

    def test_one_member_is_fedavg(self):
        fedavg = self.run_ok("fedavg")
        self.assert_same(fedavg, self.run_ok("one", "--method.name=splitmix", "--model.members=1"), "--values")

    def test_same_values(self):
        one = self.same(*self.METHOD, "--clients.per_round=5", "--train.momentum=0.9", "--model.norm=batch")
        tasks = self.table(one)
        # Of hidden = 32, 16 each member has 8 and 4.
        member = 144 * 8 + 3 * 8 + 8 * 4 + 3 * 4 + 4 * 10 + 10  # weights, biases, norms
        self.assertEqual(set(zip(tasks["share"], tasks["parameters"])), {(1.0, 4 * member), (0.5, 2 * member), (0.25, member)})
        for count in (1, 2, 4):
            self.assertEqual(len(set(tasks["flops"][tasks["share"] == count / 4] // tasks["samples"][tasks["share"] == count / 4])), 1)
        sets = [name.decode() for name in self.column(one, "set", "evaluations")]
        self.assertEqual(sorted(set(sets)), ["mean of 1", "mean of 2", "mean of 3", "test"])

    def test_memory_bounds_the_members(self):
        check = self.espalier("run", self.input, *self.METHOD, "--check", "--clients.memory_fit=width", "--device.slow.memory_mb=0.06")
        self.assertEqual(check.returncode, 0, check.stderr)
        self.assertIn("all 7 clients can hold their task", check.stdout)
        shares = {line.split()[0]: line.split()[2] for line in check.stdout.splitlines() if line.split()[:1] in (["fast"], ["slow"])}
        self.assertEqual(shares["fast"], "1")
        self.assertLess(float(shares["slow"]), 1)

    def test_what_does_not_work(self):
        for words, more in (("lenet has no narrower networks", ("--model.name=lenet",)),
                            ("cannot be cut in two", ("--method.name=splitfed_v1",)),
                            ("not of members", ("--method.name=cos2p", "--clients.time_fit=width"))):
            with self.subTest(words=words):
                self.assert_refused(2, words, "run", self.input, "--run.name=no", *self.METHOD[:2], *more)


class Unstructured(BaselineTest):
    def assert_full_price(self, run, fedavg):
        mine, whole = self.table(run), self.table(fedavg)
        for column in ("bytes_down", "bytes_up", "parameters"):
            self.assertEqual(set(mine[column]), set(whole[column]), column)
        # The client keeps one more buffer of the model's size.
        self.assertGreaterEqual(mine["peak_bytes"].min(), whole["peak_bytes"].min())

    def test_neutral_settings_are_fedavg(self):
        # FIARSE's own merge leaves a value out that an update did not change, so it is compared in tests/method.
        common = ("--method.weighting=uniform", "--train.momentum=0.9", "--model.norm=layer")
        fedavg = self.run_ok("fedavg", *common)
        for name, more in (("fiarse", ("--method.widths=1", "--method.merge=average")),
                           ("prunefl_published", ("--method.adjust_every=0",))):
            other = self.run_ok(name, f"--method.name={name}", *common, *more)
            with h5py.File(self.checkpoint(fedavg)) as a, h5py.File(self.checkpoint(other)) as b:
                self.assertEqual(a["model"].keys(), b["model"].keys())
                for entry, values in a["model"].items():
                    np.testing.assert_array_equal(values[()], b["model"][entry][()], err_msg=f"{name} {entry}")

    def test_fiarse(self):
        one = self.same("--method.name=fiarse", "--method.widths=1, 0.25, 0.0625", "--clients.per_round=5")
        self.assertEqual(set(self.column(one, "share")), {1.0, 0.25, 0.0625})
        self.assert_full_price(one, self.run_ok("fedavg", "--clients.per_round=5"))

    def test_prunefl(self):
        one = self.same("--method.name=prunefl_published", "--method.adjust_every=1",
                        "--method.adjust_constant_s=0.001", "--method.adjust_weight_s=1e-6")
        self.assert_full_price(one, self.run_ok("fedavg"))
        shares = self.column(one, "share")
        self.assertEqual(shares[0], 1)
        self.assertLess(shares[-1], shares[0])
        self.assertGreater(shares[-1], 0.7 ** 2 - 0.01)
        check = self.espalier("run", self.input, "--method.name=prunefl_published", "--check")
        self.assertIn("charged in full", check.stdout)
        self.assert_refused(2, "clients.memory_fit", "run", self.input, "--method.name=prunefl_published",
                            "--clients.memory_fit=width", "--run.name=no")
        # The mask is the zeros of the server's weights, so nothing else may move or lack them.
        for words, more in (("set method.server_optimizer = none", "--method.server_optimizer=adam"),
                            ("leave method.personal out", "--method.personal=head")):
            self.assert_refused(2, words, "run", self.input, "--method.name=prunefl_published", more, "--run.name=no")


if __name__ == "__main__":
    unittest.main()
