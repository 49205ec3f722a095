"""Personal parameters in whole runs: the same values on any number of ranks and after a kill, bytes, the clients' own values,
refusals."""

import os
import unittest

import h5py
import numpy as np

from support import ProgramTest

HEAD = 16 * 10 + 10


class SameValues(ProgramTest):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        settings = ("--method.name=fedper", "--method.submodel=rolling", "--method.window=semi_async", "--run.rounds=4",
                    "--data.local_test=0.3", "--train.optimizer=adam", "--train.optimizer_state=keep")
        self.same_on_ranks_and_after_a_kill(*settings)

    def test_under_searches_and_feddyn(self):
        masked = ("--method.submodel=masked_depth", "--model.name=vit", "--model.embed=8", "--model.heads=2", "--model.depth=2",
                  "--model.patch=6", "--method.widths=0.75, 0.5", "--method.personal=head")
        for name, settings in (("masked", masked), ("feddyn", ("--method.name=feddyn", "--method.personal=head"))):
            self.assert_same(self.run_ok(name, *settings), self.run_ok(name + "-3", *settings, ranks=3))


class OwnValues(ProgramTest):
    def test_one_client_alone_trains_as_in_fedavg(self):
        alone = ["--clients.count=1", "--clients.fleet=", "--data.local_test=0.3", "--run.rounds=4"]
        fedavg = self.run_ok("fedavg", *alone)
        for name, pattern in (("head", "head"), ("both", "fc1.weight, head"), ("kept", "fc?.bias")):
            own = self.run_ok(name, *alone, f"--method.personal={pattern}")
            for column in ("local_loss", "local_top1", "train_loss"):
                np.testing.assert_array_equal(self.column(fedavg, column), self.column(own, column))
        self.assertEqual(len(np.unique(self.column(fedavg, "local_loss"))), 4)
        own, whole = self.model(self.path("runs", "head")), self.model(fedavg)
        for name, values in whole.items():
            (self.assertFalse if name.startswith("fc3") else self.assertTrue)(np.array_equal(values, own[name]), name)

    def test_the_servers_model_keeps_its_first_values(self):
        first = self.model(self.run_ok("first", "--train.lr=0", "--run.rounds=1"))
        run = self.run_ok("fedper", "--method.name=fedper")
        last = self.model(run)
        for name, values in last.items():
            (self.assertTrue if name.startswith("fc3") else self.assertFalse)(np.array_equal(values, first[name]), name)
        with h5py.File(self.checkpoint(run)) as file:
            heads = [file[f"server/states/{client}"][()].tobytes() for client in range(7)]
        self.assertEqual({len(head) for head in heads}, {8 + 4 * HEAD})  # their number, then the values
        self.assertEqual(len(set(heads)), 7)

    def test_no_merge_rule_changes_the_servers_values(self):
        """A client that joins later begins with them."""
        first = self.model(self.run_ok("first", "--train.lr=0", "--run.rounds=1"))
        listed = self.espalier("list", "methods").stdout.split("merge rules (method.merge)\n")[1].split("\n\n")[0]
        rules = [line.split()[0] for line in listed.splitlines()]
        made = []
        for rule in rules:
            done = self.espalier("run", self.input, f"--run.name={rule}", "--method.name=fedper", "--method.submodel=rolling",
                                 f"--method.merge={rule}", "--clients.per_round=3")
            if done.returncode == 2:
                continue
            self.assertEqual(done.returncode, 0, done.stderr)
            last = self.model(self.path("runs", rule))
            for name, values in last.items():
                self.assertEqual(np.array_equal(values, first[name]), name.startswith("fc3"), f"{rule} {name}")
            made.append(rule)
        self.assertEqual(sorted(set(rules) - set(made)), ["adapter_norms", "pruned_mean"])  # these are refused

    def test_messages_are_smaller(self):
        fedavg, fedper = self.run_ok("fedavg"), self.run_ok("fedper", "--method.name=fedper")
        for column in ("bytes_down", "bytes_up"):
            np.testing.assert_array_equal(self.column(fedavg, column) - self.column(fedper, column), 4 * HEAD)
        self.assertEqual(set(self.column(fedper, "coverage_min", "rounds")), {7.0})
        self.assertEqual(set(self.column(fedper, "coverage_mean", "rounds")), {7.0})

    def test_nobody_personal_is_fedavg(self):
        self.assert_same(self.run_ok("fedavg"), self.run_ok("none", "--method.personal="), "--values")


class Check(ProgramTest):
    def test_says_what_is_personal(self):
        done = self.espalier("run", self.input, "--method.name=fedbn", "--model.norm=batch", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("96 of 5434 parameters stay with each client: norm1.weight, norm1.bias, norm2.weight, norm2.bias", done.stdout)

    def test_refusals(self):
        for words, settings in (("method.personal = ',' names nothing", ["--method.personal=,"]),
                                ("train.freeze = ', ,' names nothing", ["--train.freeze=, ,"]),
                                ("'haed' is no block and no parameter", ["--method.personal=head, haed"]),
                                ("nothing to merge", ["--method.personal=*"]),
                                ("has no norms; set model.norm", ["--method.name=fedbn"])):
            self.assert_refused(2, words, "run", self.input, *settings)
        self.assertFalse(os.path.exists(self.path("runs")))


class Input(ProgramTest):
    def test_two_rounds(self):
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "baselines", "personal.ini")
        self.assertEqual(len(self.column(self.run_ok("a", "--run.rounds=2"), "round", "rounds")), 2)


if __name__ == "__main__":
    unittest.main()
