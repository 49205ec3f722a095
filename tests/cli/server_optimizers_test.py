"""Server optimisers and FedNova in whole runs: the same values on any number of ranks and after a kill, neutral settings,
refusals."""

import os
import unittest

import h5py
import numpy as np

from support import ProgramTest

EQUAL = ["--clients.count=6", "--clients.fleet=", "--data.partition=iid"]  # 100 samples each


class ServerTest(ProgramTest):
    def model(self, run):
        with h5py.File(self.checkpoint(run)) as file:
            return np.concatenate([file["model"][name][()].ravel() for name in sorted(file["model"])])


class SameValues(ServerTest):
    def test_yogi_on_rolling_submodels(self):
        self.same_on_ranks_and_after_a_kill("--run.rounds=4", "--method.name=fedyogi", "--method.submodel=rolling")

    def test_fednova_that_does_not_wait(self):
        self.same_on_ranks_and_after_a_kill("--run.rounds=4", "--method.name=fednova", "--method.window=semi_async",
                                            "--train.momentum=0.9", "--method.server_optimizer=momentum", "--method.server_momentum=0.5")


class Methods(ServerTest):
    def test_differ_from_fedavg_and_from_each_other(self):
        models = [self.model(self.run_ok(name, f"--method.name={name}"))
                  for name in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fednova")]
        for i, a in enumerate(models):
            for b in models[:i]:
                self.assertGreater(np.abs(a - b).max(), 1e-4)


class Neutral(ServerTest):
    def test_rate_one_without_momentum(self):
        fedavg = self.model(self.run_ok("fedavg", "--method.name=heterofl"))
        for name in "sgd", "momentum":
            other = self.run_ok(name, "--method.name=heterofl", f"--method.server_optimizer={name}")
            np.testing.assert_array_equal(fedavg, self.model(other))

    def test_fednova_of_equal_clients_is_fedavg(self):
        fedavg = self.run_ok("fedavg", *EQUAL)
        fednova = self.run_ok("fednova", *EQUAL, "--method.name=fednova")
        np.testing.assert_array_equal(self.model(fedavg), self.model(fednova))
        self.assert_same(fedavg, fednova, "--values")


class Refused(ServerTest):
    def test_what_does_not_fit(self):
        for words, settings in (("use train.optimizer = sgd", ["--method.name=fednova", "--train.optimizer=adam"]),
                                ("use train.optimizer_state = reset", ["--method.name=fednova", "--train.momentum=0.9",
                                                                       "--train.optimizer_state=keep"]),
                                ("method.server_optimizer", ["--method.server_optimizer=lamb"])):
            self.assert_refused(2, words, "run", self.input, *settings)
        self.assertFalse(os.path.exists(self.path("runs")))


class Inputs(ServerTest):
    def test_two_rounds(self):
        for name in "server-optimizers", "fednova":
            self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "baselines", name + ".ini")
            self.assertEqual(len(self.column(self.run_ok(name, "--run.rounds=2"), "round", "rounds")), 2)


if __name__ == "__main__":
    unittest.main()
