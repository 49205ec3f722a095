"""MergeSFL and its relatives in whole runs: equal values on any number of ranks and after a kill, one merged step, bounds of
its plans, traffic by closed form, and waiting with and without regulation."""

import os
import unittest

import numpy as np

from support import ProgramTest

INPUT = """
[run]
name = merge
rounds = 6
[data]
name = synthetic
synthetic_samples = 900
synthetic_shape = 1, 6, 6
synthetic_noise = 0.5
partition = dirichlet
alpha = 0.3
min_per_client = 30
[model]
name = mlp
hidden = 24, 16, 12
[clients]
count = 10
fleet = agile, quick, 2*middle, 2*slow, tardy, 3*middle
modes_every = 2
[device.agile]
gflops = 0.006
up_mbps = 6
down_mbps = 6
latency_ms = 0
[device.quick]
gflops = 0.003
up_mbps = 3
down_mbps = 3
latency_ms = 0
[device.middle]
gflops = 0.0015
up_mbps = 1.5
down_mbps = 1.5
latency_ms = 0
[device.slow]
gflops = 0.0004
up_mbps = 0.4
down_mbps = 0.4
latency_ms = 0
[device.tardy]
gflops = 0.0002
up_mbps = 0.2
down_mbps = 0.2
latency_ms = 0
[method]
name = mergesfl
[split]
cut = 2
iterations = 6
[train]
batch = 30
lr = 0.1
"""

CHANGING = ("--device.middle.modes=1, 0.4", "--device.slow.link_modes=1, 2")
ALL = ("--method.selection=all", "--method.refinement=false")
NOT_REGULATED = ("--method.regulation=false", "--method.refinement=false")


class MergeTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("merge.ini", INPUT)

    def samples(self, run):
        return np.asarray(self.table(run, "clients")["samples"])

    def waiting_share(self, rows, chosen=slice(None)):
        spent = sum(rows[f"{part}_s"][chosen] for part in ("compute", "transfer", "waiting", "top"))
        return rows["waiting_s"][chosen].sum() / spent.sum()


class SameValues(MergeTest):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        more = ("--checkpoint.every=1", "--train.momentum=0.5", *CHANGING)
        one = self.run_ok("one", *more)
        rows = self.table(one, "split_rounds")
        chosen = [tuple(rows["client"][rows["round"] == r]) for r in range(1, 7)]
        self.assertGreater(len(set(chosen)), 1, chosen)
        self.assertGreater(len(set(rows["batch"])), 3)
        for ranks in (2, 3, 5):
            self.assert_same(one, self.run_ok(f"on{ranks}", *more, ranks=ranks))
        for point, ranks in (("split.bottom:60", 2), ("split.top:15", 1), ("split.version:3", 3)):
            name = point.split(":")[0]
            done = self.espalier("run", self.input, f"--run.name={name}", *more, ranks=2, env={"ESPALIER_KILL_AT": point})
            self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
            self.assert_same(one, self.run_ok(name, *more, ranks=ranks))


class OneStep(MergeTest):
    """Batches that hold all samples of their workers, and differ in size."""

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(5)
        owner = np.repeat([0, 1, 2, 0], (8, 5, 11, 4))
        os.mkdir(self.path("data"))
        for name, values in (("x", random.standard_normal((28, 6)).astype(np.float32)),
                             ("y", np.concatenate((range(4), random.integers(0, 4, 24)))),
                             ("client", owner), ("split", np.repeat([0, 1], (24, 4)))):
            np.save(self.path("data", name + ".npy"), values)

    def trained(self, name, *more):
        return self.model(self.run_ok(name, "--data.name=arrays", f"--data.file={self.path('data')}", "--run.rounds=5",
                                      "--model.hidden=9, 7", "--train.lr=0.3", "--data.min_per_client=1", *more))

    def test_is_a_step_on_the_merged_batch(self):
        three = ("--data.partition=given", "--clients.count=3", "--clients.fleet=3*quick", "--split.iterations=1",
                 "--split.cut=1", *ALL)
        merged = self.trained("merged", *three)
        self.assertEqual(list(self.column(self.path("runs", "merged"), "batch", "split_rounds")[:3]), [8, 5, 11])
        whole = self.trained("whole", "--method.name=fedavg", "--data.partition=iid", "--clients.count=1",
                             "--clients.fleet=quick", "--train.batch=24", "--train.epochs=1")
        uniform = self.trained("uniform", *three, "--split.weights=uniform")
        for name, values in whole.items():
            np.testing.assert_allclose(merged[name], values, rtol=1e-4, atol=5e-6, err_msg=name)
        self.assertGreater(max(np.abs(uniform[name] - values).max() for name, values in whole.items()), 1e-3)


class Plans(MergeTest):
    BOTTOM, FEATURES = 36 * 24 + 24 + 24 * 16 + 16, 16

    def test_keep_their_bounds(self):
        for name, more in (("genetic", ()), ("random", ("--method.selection=random",)),
                           ("equal", (*NOT_REGULATED, "--clients.per_round=4"))):
            with self.subTest(name=name):
                run = self.run_ok(name, *more)
                rows, samples = self.table(run, "split_rounds"), self.samples(run)
                self.assertTrue((rows["batch"] <= np.minimum(30, samples[rows["client"]])).all())
                self.assertTrue((rows["batch"] >= 1).all())
                if name != "equal":
                    self.assertGreater(len(set(rows["batch"])), 3)
                for number in range(1, 7):
                    here = rows["round"] == number
                    self.assertTrue(2 <= here.sum() <= (4 if name == "equal" else 5))
                    np.testing.assert_allclose(rows["weight"][here], rows["batch"][here] / rows["batch"][here].sum())
                    if name == "equal":
                        budget = int(0.3 * np.minimum(30, samples).sum())
                        self.assertLessEqual(rows["batch"][here].sum(), budget)

    def test_traffic_is_that_of_the_samples(self):
        run = self.run_ok("traffic")
        rows, clusters, owned = self.table(run, "split_rounds"), self.table(run, "clusters"), self.samples(run)
        for client, batch, seen in zip(rows["client"], rows["batch"], rows["samples"]):
            self.assertLessEqual(batch, owned[client])
            self.assertEqual(seen, 6 * batch)
        features = 4 * self.FEATURES * rows["samples"]
        np.testing.assert_array_equal(rows["bytes_up"], features + 4 * rows["samples"] + 4 * self.BOTTOM)
        np.testing.assert_array_equal(rows["bytes_down"], features + 4 * self.BOTTOM)
        for number in range(1, 7):
            for way in ("up", "down"):
                self.assertEqual(clusters[f"server_bytes_{way}"][clusters["round"] == number].sum(),
                                 rows[f"bytes_{way}"][rows["round"] == number].sum())

    def test_a_small_memory_makes_batches_smaller(self):
        more = ("--data.synthetic_shape=1, 24, 24", "--run.rounds=2", *ALL)
        free = self.run_ok("free", *more)
        largest = self.table(free, "split_rounds")["peak_bytes"][0]
        cap = largest * 0.98e-6
        run = self.run_ok("capped", *more, f"--device.agile.memory_mb={cap}")
        batches = [self.column(r, "batch", "split_rounds")[0] for r in (free, run)]
        self.assertLess(batches[1], batches[0])
        self.assertLessEqual(self.table(run, "split_rounds")["peak_bytes"][0], cap * 1e6)


class Regulation(MergeTest):
    # Batches are large enough that rounding to whole samples costs little, and rounds long enough that the transfers of
    # models, which regulation does not balance, do.
    LONG = ("--data.synthetic_samples=6000", "--data.partition=iid", "--data.synthetic_shape=1, 3, 3", "--model.hidden=64, 16",
            "--split.cut=1", "--train.batch=150", "--method.budget=0", "--split.iterations=40", "--run.rounds=3", *ALL)

    def test_ends_waiting(self):
        shares = [self.waiting_share(self.table(self.run_ok(name, *self.LONG, *more), "split_rounds"))
                  for name, more in (("with", ()), ("without", NOT_REGULATED))]
        self.assertLess(shares[0], 0.1)
        self.assertGreater(shares[1], 0.4)

    def test_follows_devices_that_change(self):
        run = self.run_ok("changing", *self.LONG, "--split.iterations=20", "--run.rounds=18", "--clients.modes_every=6",
                          "--device.middle.modes=1, 0.4", "--device.slow.link_modes=1, 3", "--method.smoothing=0.4",
                          "--record.evaluate_every=18")
        rows = self.table(run, "split_rounds")
        share = {number: self.waiting_share(rows, rows["round"] == number) for number in range(1, 19)}
        self.assertGreater(share[13], 0.25, share)  # many become slower; in round 7 few
        for settled in (6, 12, 18):
            self.assertLess(share[settled], 0.12, share)


class Relatives(MergeTest):
    METHODS = ("--method.name=adasfl", "--method.name=locfedmix_sl")

    def test_are_the_same_on_other_ranks_and_after_a_kill(self):
        for number, method in enumerate(self.METHODS):
            with self.subTest(method=method):
                more = (method, "--run.rounds=3", "--checkpoint.every=1", "--split.iterations=4", *CHANGING)
                one = self.run_ok(f"one{number}", *more)
                self.assert_same(one, self.run_ok(f"three{number}", *more, ranks=3))
                done = self.espalier("run", self.input, f"--run.name=killed{number}", *more, ranks=2,
                                     env={"ESPALIER_KILL_AT": "split.top:9"})
                self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                self.assert_same(one, self.run_ok(f"killed{number}", *more))
                rows = self.table(one, "split_rounds")
                self.assertEqual(list(rows["client"]), [*range(10)] * 3)
                sizes = set(rows["batch"])
                if number == 0:
                    self.assertGreater(len(sizes), 3)
                    np.testing.assert_allclose(rows["weight"], 0.1)
                else:
                    self.assertEqual(sizes, {30})

    def test_train_one_worker_as_without_a_cut(self):
        alone = ("--clients.count=1", "--clients.fleet=quick", "--data.synthetic_samples=120", "--data.partition=iid",
                 "--train.momentum=0.9", "--run.rounds=2")
        plain = self.model(self.run_ok("plain", *alone, "--method.name=fedavg", "--train.steps=4"))
        for number, method in enumerate(("--method.name=mergesfl", *self.METHODS)):
            split = self.model(self.run_ok(f"alone{number}", *alone, method, "--split.iterations=4"))
            for name, values in plain.items():
                np.testing.assert_array_equal(split[name], values, err_msg=method + name)


class Refused(MergeTest):
    def test_what_does_not_work(self):
        for words, more in (
                ("set split.iterations", ("--split.iterations=0",)),
                ("contradicts clients.per_round", ("--method.selection=all", "--clients.per_round=3")),
                ("method.fewest_workers = 11", ("--method.fewest_workers=11",)),
                ("method.fewest_workers = 5", ("--method.fewest_workers=5", "--clients.per_round=4")),
                ("client 6 with the bottom needs", ("--device.tardy.memory_mb=0.001",))):
            with self.subTest(words=words):
                self.assert_refused(2, words, "run", self.input, "--run.name=no", *more)


if __name__ == "__main__":
    unittest.main()
