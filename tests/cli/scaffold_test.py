"""SCAFFOLD in whole runs: against a loop in NumPy, the same values on any number of ranks and after a kill, and its bytes."""

import os
import unittest

import h5py
import numpy as np
import safetensors.numpy

from support import ProgramTest

CLIENTS, SAMPLES, FEATURES, CLASSES = 5, 24, 6, 3
STEPS, RATE, ROUNDS = 4, 0.5, 6

LINEAR = f"""
[run]
rounds = {ROUNDS}
[data]
name = arrays
file = data
partition = given
[model]
name = mlp
hidden =
init = first.safetensors
[clients]
count = {CLIENTS}
per_round = 2
[method]
name = scaffold
[train]
epochs = {STEPS}
batch = 1000
lr = {RATE}
"""


def gradient(weight, bias, x, y):
    """Of the mean cross-entropy of a linear classifier."""
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    return p.T @ x, p.sum(0)


class AgainstNumPy(ProgramTest):
    """A linear classifier; each step has all samples of its client, so that no order of samples matters."""

    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(3)
        client = np.repeat(np.arange(CLIENTS), SAMPLES + 8)
        split = np.tile(np.arange(SAMPLES + 8) >= SAMPLES, CLIENTS).astype("i8")
        y = (client + draw.integers(0, 2, client.size)) % CLASSES
        x = (draw.normal(size=(client.size, FEATURES)) + y[:, None] * [1, 0, -1, 0.5, 0, 0]).astype("f4")
        os.mkdir(self.path("data"))
        for name, values in (("x", x), ("y", y), ("client", client), ("split", split)):
            np.save(self.path("data", name + ".npy"), values)
        self.data = [(x[(client == c) & (split == 0)].astype(float), y[(client == c) & (split == 0)]) for c in range(CLIENTS)]
        self.first = {"fc1.weight": (0.3 * draw.normal(size=(CLASSES, FEATURES))).astype("f4"),
                      "fc1.bias": (0.1 * draw.normal(size=CLASSES)).astype("f4")}
        safetensors.numpy.save_file(self.first, self.path("first.safetensors"))
        self.input = self.write("linear.ini", LINEAR)

    def scaffold(self, rounds):
        """The model and the server's control variate, with the given clients in each round."""
        w = [self.first["fc1.weight"].astype(float), self.first["fc1.bias"].astype(float)]
        zeros = [np.zeros_like(part) for part in w]
        c, own = zeros, [zeros] * CLIENTS
        for clients in rounds:
            models, changes = [], []
            for i in clients:
                y = [part.copy() for part in w]
                for _ in range(STEPS):
                    g = gradient(*y, *self.data[i])
                    y = [y[j] - RATE * (g[j] - own[i][j] + c[j]) for j in range(2)]
                new = [own[i][j] - c[j] + (w[j] - y[j]) / (STEPS * RATE) for j in range(2)]
                changes.append([new[j] - own[i][j] for j in range(2)])
                own[i] = new
                models.append(y)
            w = [np.mean([m[j] for m in models], 0) for j in range(2)]
            c = [c[j] + np.sum([d[j] for d in changes], 0) / CLIENTS for j in range(2)]
        return w, c, own

    def test_model_and_control_variate(self):
        run = self.run_ok("scaffold")
        client, version = self.column(run, "client"), self.column(run, "base_version")
        rounds = [sorted(client[version == v]) for v in range(ROUNDS)]
        self.assertEqual({len(r) for r in rounds}, {2})
        self.assertGreater(len({tuple(r) for r in rounds}), 2)
        w, c, own = self.scaffold(rounds)
        with h5py.File(self.checkpoint(run)) as file:
            model = [file["model"][name][()] for name in ("fc1.weight", "fc1.bias")]
            control = file["server/merge_rule/control"][()]
        # Entries are padded to 16 floats.
        control = [control[:CLASSES * FEATURES].reshape(CLASSES, FEATURES), control[32:32 + CLASSES]]
        # Values below 4 are rounded by at most 2^-23 in each of 24 steps, and a control variate is a difference of such values
        # divided by 2. No step amplifies an error by more than a factor of 2 over all rounds.
        bound = 2 * STEPS * ROUNDS * 2 * 2.0**-23
        for j in range(2):
            np.testing.assert_allclose(model[j], w[j].ravel(), rtol=0, atol=bound)
            np.testing.assert_allclose(control[j], c[j], rtol=0, atol=bound)
            # The server's control variate is the mean of the clients'.
            np.testing.assert_allclose(c[j], np.mean([o[j] for o in own], 0), rtol=0, atol=1e-12)
        plain = self.run_ok("fedavg", "--method.name=fedavg", "--method.weighting=uniform")
        with h5py.File(self.checkpoint(plain)) as file:
            self.assertGreater(np.abs(file["model/fc1.weight"][()] - w[0].ravel()).max(), 1000 * bound)

    def test_messages_are_twice_as_large(self):
        scaffold, plain = self.run_ok("scaffold"), self.run_ok("fedavg", "--method.name=fedavg")
        more = 4 * (CLASSES * FEATURES + CLASSES)
        for column in ("bytes_down", "bytes_up"):
            np.testing.assert_array_equal(self.column(scaffold, column) - self.column(plain, column), more)


class SameValues(ProgramTest):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        settings = ("--method.name=scaffold", "--method.submodel=rolling", "--method.window=semi_async", "--run.rounds=5",
                    "--method.server_optimizer=sgd", "--method.server_lr=0.9", "--method.personal=fc2.bias")
        self.same_on_ranks_and_after_a_kill(*settings)


class Refused(ProgramTest):
    def test_what_does_not_fit(self):
        for words, settings in (("set method.merge = control_variates", ["--method.merge=average"]),
                                ("use train.optimizer = sgd and train.momentum = 0", ["--train.momentum=0.9"]),
                                ("use train.optimizer = sgd and train.momentum = 0", ["--train.optimizer=adam"])):
            self.assert_refused(2, words, "run", self.input, "--method.name=scaffold", *settings)
        self.assertFalse(os.path.exists(self.path("runs")))


class Input(ProgramTest):
    def test_two_rounds(self):
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "baselines", "scaffold.ini")
        self.assertEqual(len(self.column(self.run_ok("a", "--run.rounds=2"), "round", "rounds")), 2)


if __name__ == "__main__":
    unittest.main()
