"""HierFAVG in whole runs: the same values on any number of ranks and after a kill, its neutral settings, a comparison with
PyTorch, and closed forms of times, frequencies, bytes and memory."""

import os
import signal
import unittest

import h5py
import numpy as np
import safetensors.numpy

from support import ProgramTest

try:
    import torch
    NO_TORCH = ""
except ImportError as error:
    NO_TORCH = f"PyTorch cannot be imported: {error}"

INPUT = """
[run]
name = small
rounds = 3
[data]
name = synthetic
synthetic_samples = 360
synthetic_shape = 1, 6, 6
synthetic_noise = 0.5
partition = iid
[model]
name = mlp
hidden = 24, 16
[clients]
count = 12
fleet = 3*fast, 4*middle, 5*slow
[device.fast]
gflops = 0.02
up_mbps = 20
down_mbps = 16
latency_ms = 1
[device.middle]
gflops = 0.004
up_mbps = 8
down_mbps = 11
latency_ms = 2
[device.slow]
gflops = 0.0008
up_mbps = 3
down_mbps = 6
latency_ms = 3
[method]
name = hier_favg
most_iterations = 9
[split]
local_steps = 2
[train]
batch = 5
lr = 0.05
"""

VALUES = 36 * 24 + 24 + 24 * 16 + 16 + 16 * 10 + 10
MODEL = 4 * VALUES
FIXED = "--split.control=fixed"
FEDAVG = "--method.name=fedavg"


class HierTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("hier_favg.ini", INPUT)

    def both(self, run):
        return self.table(run, "split_rounds"), self.table(run, "clusters")

    def plain(self, name, *settings):
        """A run of FedAvg from the same input, without the sections of split training."""
        usual, self.input = self.input, self.write("plain.ini", INPUT.split("[method]")[0] + "[train]" + INPUT.split("[train]")[1])
        try:
            return self.run_ok(name, FEDAVG, *settings)
        finally:
            self.input = usual


class SameValues(HierTest):
    CHANGING = ("--device.slow.modes=1, 0.4", "--device.middle.link_modes=1, 0.3", "--clients.modes_every=2",
                "--method.recluster_every=3", "--data.partition=dirichlet", "--train.momentum=0.9", "--train.optimizer_state=keep",
                "--model.norm=batch", "--record.iterations=true", "--run.rounds=4", "--checkpoint.every=1")

    def test_on_any_number_of_ranks_and_after_a_kill(self):
        one = self.run_ok("one", *self.CHANGING)
        for ranks in (2, 3, 5):
            self.assert_same(one, self.run_ok(f"on-{ranks}", *self.CHANGING, ranks=ranks))
        rounds, clusters = self.both(one)
        self.assertGreater(len({tuple(clusters["host"][clusters["round"] == number]) for number in range(1, 5)}), 1)
        # Within the third round: in the batches of an iteration, and after a mean.
        batches = 2 * rounds["iterations"][rounds["round"] <= 2].sum()
        works = (2 + clusters["iterations"][clusters["round"] <= 2]).sum()
        for point, count, ranks in (("bottom", batches + 13, 2), ("top", works + (clusters["round"] == 3).sum() + 2, 3)):
            done = self.espalier("run", self.input, f"--run.name={point}", *self.CHANGING,
                                 env={"ESPALIER_KILL_AT": f"split.{point}:{count}"})
            self.assertEqual(done.returncode, -signal.SIGKILL, done.stdout + done.stderr)
            made = os.listdir(self.path("runs", point, "checkpoints"))
            self.assertTrue({"ckpt_00000001.h5", "ckpt_00000002.h5"} & set(made), made)
            self.assert_same(one, self.run_ok(point, *self.CHANGING, ranks=ranks))


class Neutral(HierTest):
    def test_one_worker_trains_alone(self):
        # Client 1 has the faster link, so it is the host, and its samples are not used.
        random = np.random.default_rng(5)
        x, y = random.standard_normal((70, 1, 6, 6)).astype(np.float32), random.integers(0, 10, 70)
        y[:10] = range(10)
        split, client = np.repeat([0, 0, 1], (33, 17, 20)), np.repeat([0, 1, 0], (33, 17, 20))
        for name, kept in (("two", slice(None)), ("one", client == 0)):
            with h5py.File(self.path(f"{name}.h5"), "w") as file:
                for column, values in (("x", x), ("y", y), ("split", split), ("client", client)):
                    file[column] = values[kept]
        common = ("--data.name=arrays", "--data.partition=given", "--train.momentum=0.9")
        alone = ("--clients.count=1", "--clients.fleet=slow", f"--data.file={self.path('one.h5')}")
        # 3 means of 3 batches each in a round: moments and the order of the samples go on.
        steps = ("--split.local_steps=3", "--method.most_iterations=3")
        hosted = self.run_ok("hosted", *common, *steps, f"--data.file={self.path('two.h5')}", "--clients.count=2",
                             "--clients.fleet=slow, fast", "--method.recluster_every=100")
        self.assertTrue((self.table(hosted, "clusters")["host"] == 1).all())
        plain = self.plain("plain", *common, *alone, "--train.steps=9")
        self.assert_equal_models(hosted, plain)
        # The server as host. 33 samples are 7 batches, so an iteration of 2 has the end of one epoch and the begin of the next.
        served = self.run_ok("served", *common, *alone, FIXED, "--split.iterations=5", "--train.optimizer_state=keep")
        self.assert_equal_models(served, self.plain("kept", *common, *alone, "--train.optimizer_state=keep", "--train.steps=10"))

    def test_one_mean_in_a_round_is_fedavg(self):
        # Clients have 3 to 60 samples, which are the weights.
        for number, more in enumerate((
                ("--train.momentum=0.9", "--train.accumulate=2", "--train.scale_l1=0.01", "--model.norm=batch"),
                ("--train.optimizer=adamw", "--train.optimizer_state=keep", "--train.lr=0.003"))):
            more = ("--data.partition=dirichlet", "--data.alpha=0.5", *more)
            hosted = self.run_ok(f"hier{number}", FIXED, "--split.local_steps=7", "--split.iterations=1", *more)
            self.assert_equal_models(hosted, self.plain(f"fedavg{number}", *more, "--train.steps=7"))
            self.assertEqual(len(self.table(hosted, "clusters")["round"]), 3)

    def test_models_that_cannot_be_cut(self):
        # Blocks that share weights, and a classifier in the first half.
        small = ("--model.embed=16", "--model.heads=2", "--clients.count=3", "--clients.fleet=3*fast", "--data.synthetic_samples=30",
                 "--train.batch=4", "--run.rounds=2")
        for number, family in enumerate((
                ("--model.name=gpt", "--model.depth=2", "--data.synthetic_vocabulary=30", "--data.length=10",
                 "--data.synthetic_labels=next_token"),
                ("--model.name=vit", "--model.depth=4", "--model.patch=3", "--model.exits=4"))):
            hosted = self.run_ok(f"hier{number}", *small, *family, FIXED, "--split.local_steps=3", "--split.iterations=1")
            self.assert_equal_models(hosted, self.plain(f"fedavg{number}", *small, *family, "--train.steps=3"))

    def test_iterations_follow_the_steps_of_a_task(self):
        for steps, iterations in ((6, 3), (7, 4)):
            run = self.run_ok(f"steps{steps}", FIXED, f"--train.steps={steps}", "--run.rounds=1")
            self.assertTrue((self.table(run, "clusters")["iterations"] == iterations).all())


@unittest.skipIf(NO_TORCH, NO_TORCH)
class AsInPyTorch(HierTest):
    """Rounds of several clusters, written with PyTorch alone, from the same weights on the same samples. Every batch has all
    samples of its client."""

    SAMPLES, RATE, MOMENTUM = (8, 5, 11, 6, 9, 7, 4), 0.1, 0.5

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(3)
        count = sum(self.SAMPLES)
        owner = np.repeat([*range(7), 0], (*self.SAMPLES, 4))
        x, y = random.standard_normal((count + 4, 6)).astype(np.float32), random.integers(0, 4, count + 4)
        y[:4] = range(4)
        os.mkdir(self.path("data"))
        for name, values in (("x", x), ("y", y), ("client", owner), ("split", np.repeat([0, 1], (count, 4)))):
            np.save(self.path("data", name + ".npy"), values)
        self.data = [(torch.tensor(x[:count][owner[:count] == c]), torch.tensor(y[:count][owner[:count] == c])) for c in range(7)]
        self.weights = {}
        for layer, (inputs, outputs) in enumerate(((6, 9), (9, 4)), 1):
            self.weights[f"fc{layer}.weight"] = random.standard_normal((outputs, inputs)).astype(np.float32) / 2
            self.weights[f"fc{layer}.bias"] = random.standard_normal(outputs).astype(np.float32) / 2
        safetensors.numpy.save_file(self.weights, self.path("first.safetensors"))

    def trained(self, name, *settings):
        return self.run_ok(
            name, "--data.name=arrays", f"--data.file={self.path('data')}", "--data.partition=given", "--clients.count=7",
            "--clients.fleet=2*fast, 3*middle, 2*slow", "--model.hidden=9", f"--model.init={self.path('first.safetensors')}",
            "--train.batch=20", f"--train.lr={self.RATE}", f"--train.momentum={self.MOMENTUM}", "--split.local_steps=3",
            "--run.rounds=2", *settings)

    def cluster_mean(self, values, members, weights, iterations):
        """Workers' models after some iterations of 3 steps, each begun with the mean of the one before."""
        workers = []
        for client in members:
            tensors = {name: torch.tensor(array, requires_grad=True) for name, array in values.items()}
            workers.append((client, tensors, torch.optim.SGD(tensors.values(), lr=self.RATE, momentum=self.MOMENTUM)))
        for _ in range(iterations):
            for client, t, optimizer in workers:
                inputs, labels = self.data[client]
                for _ in range(3):
                    optimizer.zero_grad()
                    hidden = torch.relu(torch.nn.functional.linear(inputs, t["fc1.weight"], t["fc1.bias"]))
                    logits = torch.nn.functional.linear(hidden, t["fc2.weight"], t["fc2.bias"])
                    torch.nn.functional.cross_entropy(logits, labels).backward()
                    optimizer.step()
            with torch.no_grad():
                for name in values:
                    mean = sum(w * t[name].double() for (_, t, _), w in zip(workers, weights)) / sum(weights)
                    for _, t, _ in workers:
                        t[name].copy_(mean)
        return {name: tensor.detach().double().numpy() for name, tensor in workers[0][1].items()}

    def expected(self, run, worker_weight, cluster_weight):
        rounds, clusters = self.both(run)
        values = self.weights
        for number in (1, 2):
            means, weights = [], []
            for row in np.flatnonzero(clusters["round"] == number):
                mine = (rounds["round"] == number) & (rounds["cluster"] == clusters["cluster"][row])
                members = list(rounds["client"][mine])
                own = [worker_weight(client) for client in members]
                means.append(self.cluster_mean(values, members, own, clusters["iterations"][row]))
                weights.append(cluster_weight(own, clusters["iterations"][row]))
            values = {name: sum(w * mean[name] for w, mean in zip(weights, means)) / sum(weights) for name in self.weights}
            values = {name: array.astype(np.float32) for name, array in values.items()}
        return values

    def assert_as_expected(self, run, expected):
        ours = self.model(run)
        self.assertEqual(ours.keys(), expected.keys())
        for name, values in expected.items():
            self.assertGreater(np.abs(values - self.weights[name]).max(), 0.01)
            np.testing.assert_allclose(ours[name], values.ravel(), rtol=1e-4, atol=2e-6, err_msg=name)

    def test_two_clusters_with_several_means(self):
        run = self.trained("clusters", "--method.bottom_mbps=0", "--method.most_bottoms=3", "--method.most_iterations=2",
                           "--method.frequencies=fixed", "--method.recluster_every=1")
        clusters = self.table(run, "clusters")
        self.assertTrue((clusters["iterations"] == 2).all())
        self.assertTrue((np.unique(clusters["round"], return_counts=True)[1] >= 2).all())
        self.assertGreater(clusters["workers"].max(), 1)
        self.assert_as_expected(run, self.expected(run, lambda client: 1, lambda own, tau: len(own) * tau))

    def test_one_cluster_with_a_client_as_host(self):
        run = self.trained("one", FIXED, "--split.host=fastest", "--split.iterations=2")
        self.assertTrue((self.table(run, "clusters")["host"] == 0).all())
        self.assert_as_expected(run, self.expected(run, lambda client: self.SAMPLES[client], lambda own, tau: sum(own)))


class Figures(HierTest):
    def test_times_frequencies_and_bytes(self):
        # Any change of an estimate would change the clusters, so what is foreseen is what is observed.
        run = self.run_ok("figures", "--record.iterations=true", "--method.recluster_every=100",
                          "--method.recluster_change=0.001", "--method.pace_quantile=0")
        rounds, clusters = self.both(run)
        iterations = self.table(run, "iterations")
        fleet = {client: dict(zip(("gflops", "up", "down", "latency"), values)) for client, values in enumerate(
            3 * [(0.02, 20, 16, 1)] + 4 * [(0.004, 8, 11, 2)] + 5 * [(0.0008, 3, 6, 3)])}

        def transfer(sender, receiver):
            a, b = fleet[sender], fleet[receiver]
            return max(a["latency"], b["latency"]) * 1e-3 + MODEL * 8e-6 / min(a["up"], b["down"])

        begin = 0
        for number in (1, 2, 3):
            mine = np.flatnonzero(clusters["round"] == number)
            self.assertGreater(len(mine), 1)
            paces, fixed = [], []
            for row in mine:
                own = (rounds["round"] == number) & (rounds["cluster"] == clusters["cluster"][row])
                workers, host, tau = rounds["client"][own], clusters["host"][row], clusters["iterations"][row]
                device = fleet[host]
                # Biases and ReLU are counted beside the products, and small.
                work = rounds["compute_s"][own] / tau
                least = 2 * 5 * 6 * (36 * 24 + 24 * 16 + 16 * 10) / np.array([fleet[w]["gflops"] * 1e9 for w in workers])
                self.assertTrue((work >= least).all() and (work <= 1.05 * least).all())
                ways = np.array([transfer(host, w) + transfer(w, host) for w in workers])
                mean = len(workers) * 2 * VALUES / (device["gflops"] * 1e9)
                pace = (work + ways).max() + mean
                server = 2 * device["latency"] * 1e-3 + MODEL * 8e-6 * (1 / device["down"] + 1 / device["up"])
                np.testing.assert_allclose(clusters["ended_s"][row] - begin, tau * pace + server, rtol=0, atol=1e-7)
                np.testing.assert_allclose(clusters["top_s"][row], tau * mean, rtol=0, atol=1e-7)
                np.testing.assert_allclose(rounds["transfer_s"][own], tau * ways, rtol=0, atol=1e-7)
                # Nobody waits for the last mean.
                np.testing.assert_allclose(rounds["top_s"][own], (tau - 1) * mean, rtol=0, atol=1e-7)
                total = sum(rounds[f"{part}_s"][own] for part in ("begun", "compute", "transfer", "waiting", "top"))
                np.testing.assert_allclose(total, rounds["ended_s"][own], rtol=0, atol=1e-7)
                of_cluster = (iterations["round"] == number) & (iterations["cluster"] == clusters["cluster"][row])
                np.testing.assert_array_equal(iterations["iteration"][of_cluster], np.arange(1, tau + 1))
                np.testing.assert_allclose(np.diff(iterations["stepped_s"][of_cluster]), pace, rtol=0, atol=1e-7)
                # |w| each way over the server's links, whatever the iterations; the rest between devices.
                self.assertEqual((clusters["server_bytes_up"][row], clusters["server_bytes_down"][row]), (MODEL, MODEL))
                self.assertEqual(clusters["device_bytes"][row], 2 * len(workers) * tau * MODEL)
                np.testing.assert_array_equal(rounds["bytes_up"][own], tau * MODEL)
                np.testing.assert_array_equal(rounds["bytes_down"][own], tau * MODEL)
                np.testing.assert_array_equal(rounds["samples"][own], tau * 2 * 5)
                paces.append(pace)
                fixed.append(server)
            # The fastest cluster makes all iterations, others as many as end with it.
            fastest = int(np.argmin(paces))
            end = 9 * paces[fastest] + fixed[fastest]
            np.testing.assert_array_equal(clusters["iterations"][mine],
                                          [max(1, int((end - f) / pace + 1e-6)) for pace, f in zip(paces, fixed)])
            self.assertGreater(len(set(clusters["iterations"][mine])), 1)
            np.testing.assert_array_equal(clusters["host"][mine], clusters["host"][clusters["round"] == 1])
            work = clusters["iterations"][mine] * clusters["workers"][mine]
            np.testing.assert_allclose(clusters["weight"][mine], work / work.sum(), rtol=1e-12)
            begin = clusters["ended_s"][mine].max()

    def test_the_server_as_host(self):
        # Its links and its processor serve one piece of work at a time: 4 equal clients, 2 iterations.
        run = self.run_ok("server", FIXED, "--clients.count=4", "--clients.fleet=4*fast", "--split.iterations=2",
                          "--data.synthetic_samples=120", "--run.rounds=2",
                          "--server.down_mbps=2", "--server.up_mbps=1", "--server.gflops=0.001")
        rounds, clusters = self.both(run)
        self.assertTrue((clusters["host"] == -1).all() and (clusters["device_bytes"] == 0).all())
        np.testing.assert_array_equal(clusters["server_bytes_up"], 4 * 2 * MODEL)
        np.testing.assert_array_equal(clusters["server_bytes_down"], 4 * 2 * MODEL)
        work = rounds["compute_s"][0] / 2
        down, up, mean = MODEL * 8 / 2e6, MODEL * 8 / 1e6, 2 * VALUES / 1e6
        own = 2 * 1e-3 + MODEL * 8e-6 / 16 + MODEL * 8e-6 / 20 + work
        # The first model comes after one way down; the incoming link, the slower one, is busy from then on.
        iteration = down + own + 4 * up + 4 * mean
        np.testing.assert_allclose(clusters["ended_s"], np.array([1, 2]) * (2 * iteration + mean), rtol=0, atol=1e-6)

    def test_memory_is_bounded_and_refused(self):
        big = ("--data.synthetic_shape=1, 28, 28", "--model.hidden=200, 100", "--run.rounds=1", "--train.momentum=0.9",
               "--method.bottom_mbps=0", "--method.most_bottoms=3", "--method.most_iterations=2")
        rounds, clusters = self.both(self.run_ok("peak", *big))
        whole = 4 * (784 * 200 + 200 + 200 * 100 + 100 + 100 * 10 + 10)
        np.testing.assert_array_equal(clusters["peak_bytes"], (clusters["workers"] + 1) * whole)
        check = self.espalier("run", self.input, *big, "--check").stdout
        words = check.split("memory   ")[1].split()
        bounds = {"worker": float(words[0]) * 1e6, "host": float(words[7]) * 1e6}
        for kind, peak in (("worker", rounds["peak_bytes"].max()), ("host", clusters["peak_bytes"].max())):
            self.assertLessEqual(peak, bounds[kind] + 5e3)
            self.assertLessEqual(bounds[kind], 1.25 * peak + 5e3)
        # Weights, gradients and moments, and a model as a message.
        self.assertGreaterEqual(rounds["peak_bytes"].min(), 4 * whole)
        self.assert_refused(2, "with the model needs", "run", self.input, "--run.name=no", *big,
                            f"--device.slow.memory_mb={3.9e-6 * whole}")
        self.assertFalse(os.path.exists(self.path("runs", "no")))
        # A cap for a worker and the host of three, but not of four.
        cap = f"--device.fast.memory_mb={4.5e-6 * whole}"
        four = (FIXED, "--split.host=fastest", "--clients.count=5", "--clients.fleet=5*fast")
        self.assert_refused(2, "client 0 with the models of its workers needs", "run", self.input, "--run.name=no", *big, *four, cap)
        self.assertFalse(os.path.exists(self.path("runs", "no")))
        _, capped = self.both(self.run_ok("capped", *big, "--method.most_bottoms=8", cap))
        self.assertEqual(capped["workers"][capped["host"] < 3].max(), 3)
        self.assertGreater(capped["workers"].max(), 3)


class Refused(HierTest):
    def test_what_does_not_work(self):
        for words, more in (
                ("split.cut has no meaning with split.exchange = models", ("--split.cut=1",)),
                ("split.top has no meaning", ("--split.top=mixup",)),
                ("split.turns has no meaning", ("--split.turns=by_client",)),
                ("split.mixup_alpha has no meaning", ("--split.mixup_alpha=0.5",)),
                ("split.last_batch has no meaning", ("--split.last_batch=drop",)),
                ("server.gflops = 1e-15 the server would be busy", ("--split.control=fixed", "--split.iterations=2", "--server.gflops=1e-15")),
                ("server.up_mbps = 1e-15 the server would be busy", ("--server.up_mbps=1e-15",)),
                ("split.local_steps is for split.exchange = models", ("--split.exchange=features",)),
                ("set split.exchange = features", ("--split.control=mergesfl", "--split.iterations=3")),
                ("faults.crash", ("--faults.crash=0.1",))):
            with self.subTest(words=words):
                self.assert_refused(2, words, "run", self.input, "--run.name=no", *more)

    def test_not_its_own_resolved_file(self):
        printed = self.espalier("run", self.input, "--print-config")
        self.assertEqual(printed.returncode, 0, printed.stderr)
        self.input = self.write("resolved.ini", printed.stdout)
        self.assertEqual(self.espalier("run", self.input, "--check").returncode, 0)


if __name__ == "__main__":
    unittest.main()
