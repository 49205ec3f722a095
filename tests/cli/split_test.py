"""Split training in whole runs: the same values on any number of ranks and after a kill, neutral settings, closed forms
of times and bytes, memory, and a comparison with PyTorch."""

import os
import unittest

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
rounds = 4
[data]
name = synthetic
synthetic_samples = 125
synthetic_shape = 1, 6, 6
synthetic_noise = 0.5
partition = dirichlet
[model]
name = mlp
hidden = 24, 16, 12
[clients]
count = 4
fleet = 2*fast, 2*slow
[device.fast]
gflops = 0.002
up_mbps = 2
down_mbps = 4
latency_ms = 3
[device.slow]
gflops = 0.001
up_mbps = 1
down_mbps = 2
latency_ms = 3
[server]
gflops = 0.01
up_mbps = 3
down_mbps = 5
[method]
name = splitfed_v2
[train]
batch = 7
lr = 0.05
"""

V1 = "--method.name=splitfed_v1"
V2 = "--method.name=splitfed_v2"
MERGED = "--split.top=merged"


class SplitTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("split.ini", INPUT)


class SameValues(SplitTest):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                (),
                (V1, "--train.optimizer=adamw", "--train.optimizer_state=keep", "--train.lr=0.002", "--clients.per_round=3"),
                (MERGED, "--split.host=fastest", "--train.momentum=0.9", "--split.iterations=5", "--model.norm=batch",
                 "--split.cut=1", "--record.iterations=true"))):
            with self.subTest(settings=more):
                more = ("--checkpoint.every=1", *more)
                one = self.run_ok(f"{number}-1", *more)
                for ranks in (2, 3, 5) if number == 0 else (4 - number,):
                    self.assert_same(one, self.run_ok(f"{number}-{ranks}", *more, ranks=ranks))
                points = (("split.bottom:40", 2), ("split.top:9", 3), ("split.version:2", 1), ("checkpoint.renamed:2", 5))
                for point, ranks in points if number == 0 else (points[number], points[number - 1]):
                    name = f"{number}-{point.split(':')[0]}"
                    done = self.espalier("run", self.input, f"--run.name={name}", *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                    self.assert_same(one, self.run_ok(name, *more, ranks=ranks))

    def test_a_stopped_round_is_repeated(self):
        more = ("--train.momentum=0.9", "--train.optimizer_state=keep", "--train.steps=30", "--run.rounds=12",
                "--record.evaluate_every=12")
        whole = self.run_ok("whole", *more)
        job = self.begin(self.command("run", self.input, "--run.name=parts", *more))
        while "round " not in job.stdout.readline():
            self.assertIsNone(job.poll())
        job.terminate()
        job.communicate()
        self.assertFalse(os.path.exists(self.path("runs", "parts", "DONE")))
        self.assert_same(whole, self.run_ok("parts", *more, ranks=2))

    def test_more_rounds_later_are_the_same_run(self):
        whole = self.run_ok("whole", "--run.horizon=4")
        self.run_ok("parts", "--run.horizon=4", "--run.rounds=2", ranks=2)
        self.assert_equal_models(whole, self.run_ok("parts", "--run.horizon=4"))


class LastBatch(SplitTest):
    def test_is_left_out(self):
        """Of 25 samples, in batches of 10."""
        one = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=25", "--data.partition=iid", "--train.batch=10")
        drop = "--split.last_batch=drop"
        samples = [self.table(self.run_ok(name, *one, *more), "split_rounds")["samples"][0] for name, more in (
            ("kept", ("--split.iterations=4",)), ("dropped", ("--split.iterations=4", drop)), ("only", ("--train.batch=40", drop)))]
        self.assertEqual(samples, [35, 40, 25])
        # An epoch is two batches then.
        self.assert_equal_models(self.run_ok("epoch", *one, drop), self.run_ok("two", *one, "--split.iterations=2"))


class Neutral(SplitTest):
    ALONE = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=40", "--data.partition=iid")
    OPTIMIZERS = (("--train.momentum=0.9",),
                  ("--train.optimizer=adamw", "--train.optimizer_state=keep", "--train.lr=0.003"))

    def test_one_worker_trains_as_without_a_cut(self):
        for number, optimizer in enumerate(self.OPTIMIZERS[:1]):
            plain = self.run_ok(f"plain{number}", *self.ALONE, *optimizer, "--method.name=fedavg")
            for cut, method in ((1, (V2,)), (2, (V1,)), (3, (V2, MERGED)), ("layer2", (V2, MERGED))):
                split = self.run_ok(f"split{number}-{cut}", *self.ALONE, *optimizer, *method, f"--split.cut={cut}")
                self.assert_equal_models(plain, split)

    def test_every_family_can_be_cut_anywhere(self):
        image = ("--data.synthetic_shape=3, 32, 32", "--train.batch=5", "--data.synthetic_samples=12")
        text = ("--data.synthetic_vocabulary=30", "--data.length=10", "--data.synthetic_samples=12", "--train.batch=5")
        small = ("--model.depth=2", "--model.embed=16", "--model.heads=2")
        families = (
            (2, ("--model.name=lenet", "--model.norm=batch", *image)),
            (3, ("--model.name=cnn", "--model.channels=4, 6", "--model.features=8", *image)),
            (7, ("--model.name=vgg", "--model.width=2", *image)),
            (4, ("--model.name=resnet", "--model.width=4", *image)),
            (2, ("--model.name=vit", "--model.patch=8", *small, *image)),
            (1, ("--model.name=vit", "--model.patch=8", "--model.exits=2", *small, *image)),
            (3, ("--model.name=gpt", "--model.tied=false", "--data.synthetic_labels=next_token", *small, *text)),
            (1, ("--model.name=encoder", *small, *text)))
        for number, (cut, family) in enumerate(families):
            with self.subTest(family=family[0]):
                common = ("--run.rounds=2", *self.ALONE[:2], "--data.partition=iid", *family)
                plain = self.run_ok(f"plain{number}", *common, "--method.name=fedavg")
                split = self.run_ok(f"split{number}", *common, V2, f"--split.cut={cut}")
                self.assert_equal_models(plain, split)

    def test_version_1_is_fedavg(self):
        for number, optimizer in enumerate(self.OPTIMIZERS):
            more = ("--clients.count=5", "--clients.fleet=5*fast", *optimizer)
            fedavg = self.run_ok(f"fedavg{number}", *more, "--method.name=fedavg")
            self.assert_equal_models(fedavg, self.run_ok(f"v1-{number}", *more, V1))

    def test_one_merged_iteration_is_a_step_on_all_samples(self):
        # All clients have equally many samples, in one batch each.
        common = ("--data.synthetic_samples=100", "--data.partition=iid", "--run.rounds=6", "--train.lr=0.2")
        merged = self.model(self.run_ok("merged", *common, MERGED, "--train.batch=25", "--split.iterations=1"))
        whole = self.model(self.run_ok("whole", *common, "--method.name=fedavg", "--clients.count=1",
                                       "--clients.fleet=fast", "--train.batch=100"))
        for name, values in whole.items():
            np.testing.assert_allclose(merged[name], values, rtol=1e-4, atol=2e-6, err_msg=name)


@unittest.skipIf(NO_TORCH, NO_TORCH)
class AsInPyTorch(SplitTest):
    """A few iterations of SplitFed, written with PyTorch alone, from the same weights on the same samples."""

    SAMPLES, RATE, MOMENTUM, ITERATIONS, ROUNDS = (8, 5, 11), 0.1, 0.5, 4, 2

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(3)
        owner = np.repeat([0, 1, 2, 0], (*self.SAMPLES, 4))
        self.x = random.standard_normal((28, 6)).astype(np.float32)
        self.y = random.integers(0, 4, 28)
        self.y[:4] = range(4)
        self.weights = {}
        for layer, (inputs, outputs) in enumerate(((6, 9), (9, 7), (7, 4)), 1):
            self.weights[f"fc{layer}.weight"] = random.standard_normal((outputs, inputs)).astype(np.float32) / 2
            self.weights[f"fc{layer}.bias"] = random.standard_normal(outputs).astype(np.float32) / 2
        self.parts = [np.flatnonzero(owner[:24] == client) for client in range(3)]
        os.mkdir(self.path("data"))
        for name, values in (("x", self.x), ("y", self.y), ("client", owner), ("split", np.repeat([0, 1], (24, 4)))):
            np.save(self.path("data", name + ".npy"), values)
        safetensors.numpy.save_file(self.weights, self.path("first.safetensors"))

    def trained(self, name, *settings):
        return self.model(self.run_ok(
            name, "--data.name=arrays", f"--data.file={self.path('data')}", "--data.partition=given", "--clients.count=3",
            "--clients.fleet=3*fast", "--model.hidden=9, 7", f"--model.init={self.path('first.safetensors')}",
            "--train.batch=20", f"--train.lr={self.RATE}", f"--train.momentum={self.MOMENTUM}",
            f"--split.iterations={self.ITERATIONS}", f"--run.rounds={self.ROUNDS}", "--split.cut=1", *settings))

    def layers(self, names, values):
        parts = []
        for name in names:
            weight, bias = (torch.tensor(values[f"{name}.{kind}"]) for kind in ("weight", "bias"))
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            parts.append((name, linear))
        model = torch.nn.Sequential()
        for name, linear in parts:
            model.add_module(name, linear)
            if name != "fc3":
                model.add_module(name + "relu", torch.nn.ReLU())
        return model, torch.optim.SGD(model.parameters(), lr=self.RATE, momentum=self.MOMENTUM)

    def round(self, values, separate_tops):
        """One round: every client's bottom sends its features, the top of the client (or of all) steps on them and returns
        their gradient. Returns the weights by name, averaged by samples."""
        bottoms = [self.layers(["fc1"], values) for _ in self.parts]
        tops = [self.layers(["fc2", "fc3"], values) for _ in self.parts] if separate_tops else \
            [self.layers(["fc2", "fc3"], values)] * 3
        for _ in range(self.ITERATIONS):
            for (bottom, bottom_steps), (top, top_steps), samples in zip(bottoms, tops, self.parts):
                features = bottom(torch.tensor(self.x[samples]))
                received = features.detach().requires_grad_()
                top_steps.zero_grad()
                torch.nn.functional.cross_entropy(top(received), torch.tensor(self.y[samples])).backward()
                top_steps.step()
                bottom_steps.zero_grad()
                features.backward(received.grad)
                bottom_steps.step()
        mean = {}
        for models in (bottoms, tops):
            for name in models[0][0].state_dict():
                mean[name] = sum(n * m.state_dict()[name].double() for (m, _), n in zip(models, self.SAMPLES)) / 24
        return {name: values.float().numpy() for name, values in mean.items()}

    def test_both_versions(self):
        for method, separate in ((V1, True), (V2, False)):
            with self.subTest(method=method):
                ours, values = self.trained(method[-2:], method, "--split.turns=by_client"), self.weights
                for _ in range(self.ROUNDS):
                    values = self.round(values, separate)
                self.assertEqual(ours.keys(), values.keys())
                for name, expected in values.items():
                    self.assertGreater(np.abs(expected - self.weights[name]).max(), 0.01)
                    np.testing.assert_allclose(ours[name], expected.ravel(), rtol=1e-4, atol=2e-6, err_msg=name)


class Times(SplitTest):
    """Emulated times and bytes by closed forms: all batches are equal."""

    EQUAL = ("--data.synthetic_samples=140", "--data.partition=iid", "--clients.count=4", "--train.batch=7",
             "--split.cut=2", "--split.iterations=3", "--run.rounds=2")
    BOTTOM, TOP, FEATURES = 36 * 24 + 24 + 24 * 16 + 16, 16 * 12 + 12 + 12 * 10 + 10, 16

    def test_of_a_worker_add_up(self):
        for number, method in enumerate(((V1,), (V2,), (MERGED,), (MERGED, "--split.host=fastest"))):
            run = self.run_ok(f"sum{number}", *method)
            rounds, clusters = self.table(run, "split_rounds"), self.table(run, "clusters")
            total = sum(rounds[f"{part}_s"] for part in ("begun", "compute", "transfer", "waiting", "top"))
            np.testing.assert_allclose(total, rounds["ended_s"], atol=1e-8)
            self.assertTrue((rounds["compute_s"] > 0).all() and (rounds["waiting_s"] >= 0).all())
            np.testing.assert_allclose([rounds["weight"][rounds["round"] == r].sum() for r in (1, 2, 3, 4)], 1, rtol=1e-12)
            self.assertEqual((rounds["waiting_s"] > 0).any(), method != (V1,))
            ends = clusters["ended_s"] + clusters["waiting_s"]
            seen = self.table(run, "evaluations")
            for version, time in zip(seen["version"], seen["virtual_time_s"]):
                np.testing.assert_allclose(ends[clusters["round"] == version], time, atol=1e-8)

    def test_of_an_iteration_with_the_slowest_worker(self):
        # Without queues at the server the slowest worker sets the pace, and waits for nobody.
        run = self.run_ok("pace", *self.EQUAL, MERGED, "--server.up_mbps=0", "--server.down_mbps=0")
        rounds, clusters = self.table(run, "split_rounds"), self.table(run, "clusters")
        messages = 7 * self.FEATURES * 4 + 7 * 4, 7 * self.FEATURES * 4, self.BOTTOM * 4, self.BOTTOM * 4
        # A linear layer makes 2 operations for each weight and sample in its forward pass, and twice as many backward.
        # Biases and ReLU are counted too, and small.
        least = 7 * 6 * (36 * 24 + 24 * 16)
        for client, (up, down, rate) in enumerate(((2e6, 4e6, 2e6), (2e6, 4e6, 2e6), (1e6, 2e6, 1e6), (1e6, 2e6, 1e6))):
            mine = rounds["client"] == client
            transfer = 8 * 0.003 + (3 * messages[0] + messages[2]) * 8 / up + (3 * messages[1] + messages[3]) * 8 / down
            np.testing.assert_allclose(rounds["transfer_s"][mine], transfer, atol=1e-7)
            steps = rounds["compute_s"][mine] * rate / 3
            self.assertTrue((steps >= least).all() and (steps <= 1.05 * least).all(), (steps, least))
            self.assertEqual((rounds["waiting_s"][mine] > 1e-9).all(), client < 2)
            np.testing.assert_array_equal(rounds["bytes_up"][mine], 3 * messages[0] + messages[2])
            np.testing.assert_array_equal(rounds["bytes_down"][mine], 3 * messages[1] + messages[3])
        np.testing.assert_array_equal(clusters["server_bytes_up"], 4 * (3 * messages[0] + messages[2]))
        np.testing.assert_array_equal(clusters["server_bytes_down"], 4 * (3 * messages[1] + messages[3]))
        self.assertTrue((clusters["device_bytes"] == 0).all())
        least = 3 * 28 * 6 * (16 * 12 + 12 * 10) / 0.01e9
        self.assertTrue((clusters["top_s"] >= least).all() and (clusters["top_s"] <= 1.1 * least).all())

    def test_a_slow_link_of_the_server_serves_one_message_at_a_time(self):
        run = self.run_ok("queue", *self.EQUAL, MERGED, "--server.up_mbps=0.01", "--server.down_mbps=0", "--server.gflops=0",
                          "--record.iterations=true")
        iterations = self.table(run, "iterations")
        message = (7 * self.FEATURES * 4 + 7 * 4) * 8 / 0.01e6
        begun = np.concatenate(([0], iterations["stepped_s"]))[:-1]
        took = (iterations["received_s"] - begun)[iterations["iteration"] > 1]
        self.assertTrue((took >= 4 * message).all() and (took <= 4.2 * message).all(), (took, message))

    def test_a_client_as_host_keeps_features_from_the_server(self):
        run = self.run_ok("host", *self.EQUAL, MERGED, "--split.host=fastest")
        rounds, clusters = self.table(run, "split_rounds"), self.table(run, "clusters")
        self.assertTrue((clusters["host"] == 0).all() and (rounds["client"] != 0).all())
        whole = 4 * (self.BOTTOM + self.TOP)
        np.testing.assert_array_equal(clusters["server_bytes_up"], whole)
        np.testing.assert_array_equal(clusters["server_bytes_down"], whole)
        between = 3 * (3 * (2 * 7 * self.FEATURES * 4 + 7 * 4) + 2 * 4 * self.BOTTOM)
        np.testing.assert_array_equal(clusters["device_bytes"], between)
        # Each message passes the slower of the two links.
        slow = rounds["client"] == 2
        transfer = 8 * 0.003 + rounds["bytes_up"][slow] * 8 / 1e6 + rounds["bytes_down"][slow] * 8 / 2e6
        np.testing.assert_allclose(rounds["transfer_s"][slow], transfer, atol=1e-7)

    def test_clocks_agree(self):
        small = ("--run.rounds=1", *self.EQUAL[:-1], MERGED)
        virtual = self.run_ok("virtual", *small)
        paced = self.run_ok("paced", *small, "--clock.kind=paced", "--clock.scale=1", ranks=3)
        self.assert_equal_models(virtual, paced)
        ends = [self.table(run, "clusters")["ended_s"][0] for run in (virtual, paced)]
        self.assertGreaterEqual(ends[1], ends[0] - 1e-6)
        with open(os.path.join(paced, "log.txt"), encoding="utf-8") as log:
            self.assertNotRegex(log.read(), r"need \S*e\+")  # not thousands of times: the server's steps take no emulated time
        measured = self.run_ok("measured", *small, "--clock.kind=measured")
        self.assert_equal_models(virtual, measured)


class Memory(SplitTest):
    BIG = ("--data.synthetic_shape=1, 28, 28", "--model.hidden=400, 300", "--data.partition=iid", "--train.batch=25",
           "--run.rounds=1")

    def test_is_bounded_and_refused(self):
        peaks = []
        for number, cut in enumerate((1, 2)):
            run = self.run_ok(f"peak{number}", *self.BIG, MERGED, f"--split.cut={cut}")
            peaks.append(self.table(run, "split_rounds")["peak_bytes"].max())
            check = self.espalier("run", self.input, *self.BIG, MERGED, f"--split.cut={cut}", "--check")
            bottom, top = [float(words.split()[0]) for words in
                           check.stdout.split("memory   ")[1].splitlines()[0].replace(" at most for a bottom,", "").split(" MB")[:2]]
            self.assertLessEqual(peaks[-1], bottom * 1e6 + 5e3)
            self.assertLessEqual(bottom * 1e6, 1.25 * peaks[-1])
            top_peak = self.table(run, "clusters")["peak_bytes"].max()
            self.assertLessEqual(top_peak, top * 1e6 + 5e3)
            self.assertLessEqual(top * 1e6, 1.3 * top_peak)
        between = sum(peaks) / 2e6
        cap = (f"--device.slow.memory_mb={between}", *self.BIG, MERGED)
        self.run_ok("fits", *cap, "--split.cut=1")
        self.assert_refused(2, "client 2 with the bottom needs", "run", self.input, "--run.name=no", *cap, "--split.cut=2")
        self.assertFalse(os.path.exists(self.path("runs", "no")))
        self.assert_refused(2, "client 0 with the top needs", "run", self.input, *self.BIG, MERGED,
                            "--split.host=fastest", "--device.fast.memory_mb=0.5", "--split.cut=1", "--clients.fleet=1*fast, 3*slow")


class Refused(SplitTest):
    def test_what_does_not_work(self):
        for words, more in (
                ("split.cut = 4 does not cut mlp", ("--split.cut=4",)),
                ("split.cut = nowhere does not cut mlp", ("--split.cut=nowhere",)),
                ("train.accumulate", ("--train.accumulate=2",)),
                ("train.group_lasso", ("--train.group_lasso=0.1",)),
                ("split.host = fastest", ("--split.host=fastest", V1)),
                ("faults.crash", ("--faults.crash=0.1",)),
                ("availability", ("--device.slow.availability=0.5",)),
                ("no control module is called 'none'", ("--split.control=none",)),
                ("set model.tied = false", ("--model.name=gpt", "--data.synthetic_vocabulary=30", "--model.embed=16",
                                            "--model.heads=2", "--data.synthetic_labels=next_token", "--data.partition=iid")),
                ("model.exits", ("--model.name=vit", "--model.patch=3", "--model.embed=16", "--model.heads=2",
                                 "--model.depth=4", "--model.exits=4", "--split.cut=4"))):
            with self.subTest(words=words):
                self.assert_refused(2, words, "run", self.input, "--run.name=no", *more)


if __name__ == "__main__":
    unittest.main()
