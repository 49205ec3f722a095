"""ParallelSFL in whole runs: the same values on any number of ranks and after a kill, its neutral settings, and closed forms
of times, waiting and bytes."""

import os
import unittest

import h5py
import numpy as np

from support import ProgramTest

INPUT = """
[run]
name = small
rounds = 4
[data]
name = synthetic
synthetic_samples = 360
synthetic_shape = 1, 6, 6
synthetic_noise = 0.5
partition = dirichlet
alpha = 0.3
[model]
name = mlp
hidden = 24, 16, 12
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
name = parallelsfl
most_iterations = 12
[split]
cut = 2
[train]
batch = 5
lr = 0.05
"""

BOTTOM, TOP, FEATURES = 4 * (36 * 24 + 24 + 24 * 16 + 16), 4 * (16 * 12 + 12 + 12 * 10 + 10), 4 * 16
WHOLE = BOTTOM + TOP
EQUAL = ("--data.partition=iid",)  # 30 samples each: all batches are whole


class ParallelTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("parallelsfl.ini", INPUT)

    def model(self, run):
        with h5py.File(self.checkpoint(run)) as file:
            return np.concatenate([values[()] for _, values in sorted(file["model"].items())])

    def both(self, run):
        return self.table(run, "split_rounds"), self.table(run, "clusters")

    def members(self, rounds, clusters, number, cluster):
        mine = (rounds["round"] == number) & (rounds["cluster"] == cluster)
        host = clusters["host"][(clusters["round"] == number) & (clusters["cluster"] == cluster)][0]
        return host, rounds["client"][mine]


class SameValues(ParallelTest):
    CHANGING = ("--device.slow.modes=1, 0.4", "--device.middle.link_modes=1, 0.3", "--clients.modes_every=2",
                "--method.recluster_every=3", "--train.momentum=0.9", "--train.optimizer_state=keep",
                "--record.iterations=true", "--run.rounds=5", "--checkpoint.every=1")

    def test_on_any_number_of_ranks_and_after_a_kill(self):
        one = self.run_ok("one", *self.CHANGING)
        regulated = (*self.CHANGING, "--method.regulation=true")
        self.assert_same(self.run_ok("regulated", *regulated), self.run_ok("regulated-3", *regulated, ranks=3))
        for ranks in (2, 3, 5):
            self.assert_same(one, self.run_ok(f"on-{ranks}", *self.CHANGING, ranks=ranks))
        for point, ranks in (("split.bottom:60", 2), ("split.top:22", 3), ("split.version:3", 1)):
            name = "killed-" + point.split(":")[0]
            done = self.espalier("run", self.input, f"--run.name={name}", *self.CHANGING, ranks=3,
                                 env={"ESPALIER_KILL_AT": point})
            self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
            self.assert_same(one, self.run_ok(name, *self.CHANGING, ranks=ranks))
        # Modes that change are estimated anew, and clusters change with them.
        rounds, clusters = self.both(one)
        hosts = [tuple(clusters["host"][clusters["round"] == number]) for number in range(1, 6)]
        self.assertGreater(len(set(hosts)), 1)

    def test_everybody_has_one_part(self):
        for number, more in enumerate(((), ("--method.clusters=random",), ("--method.top_choice=strict", "--method.label_sets=1"),
                                       ("--method.label_distance=kl", "--method.label_sets=4"))):
            run = self.run_ok(f"parts{number}", "--run.rounds=3", "--method.recluster_every=1", *more)
            rounds, clusters = self.both(run)
            for round_number in (1, 2, 3):
                mine = clusters["round"] == round_number
                parts = np.concatenate([clusters["host"][mine], rounds["client"][rounds["round"] == round_number]])
                np.testing.assert_array_equal(np.sort(parts), np.arange(12))
                self.assertGreater(mine.sum(), 1)
            # A top's link has room for a number of bottoms; the log names each one above it.
            room = np.array([16, 11, 6])[(clusters["host"] >= 3).astype(int) + (clusters["host"] >= 7)] // 5
            with open(os.path.join(run, "log.txt"), encoding="utf-8") as log:
                beyond = log.read().count("no top had room for client")
            self.assertEqual(np.maximum(clusters["workers"] - room, 0).sum(), beyond)
            hosts = [tuple(clusters["host"][clusters["round"] == n]) for n in (1, 2, 3)]
            # Tops take turns, unless the fastest are asked for.
            self.assertEqual(len(set(hosts)) == 1, "--method.top_choice=strict" in more, hosts)


class Neutral(ParallelTest):
    def test_one_bottom_trains_as_without_a_cut(self):
        # Client 1 has the faster link, so it is the top, and its samples are not used.
        random = np.random.default_rng(5)
        x = random.standard_normal((70, 1, 6, 6)).astype(np.float32)
        y = random.integers(0, 10, 70)
        y[:10] = range(10)
        split, client = np.repeat([0, 0, 1], (30, 20, 20)), np.repeat([0, 1, 0], (30, 20, 20))
        for name, kept in (("two", slice(None)), ("one", client == 0)):
            with h5py.File(self.path(f"{name}.h5"), "w") as file:
                for column, values in (("x", x), ("y", y), ("split", split), ("client", client)):
                    file[column] = values[kept]
        common = ("--data.name=arrays", "--data.partition=given", "--train.momentum=0.9", "--method.most_iterations=7")
        alone = self.run_ok("split", *common, f"--data.file={self.path('two.h5')}", "--clients.count=2",
                            "--clients.fleet=slow, fast", "--method.recluster_every=100")
        plain = self.run_ok("plain", *common[:-1], f"--data.file={self.path('one.h5')}", "--clients.count=1",
                            "--clients.fleet=slow", "--method.name=fedavg", "--train.steps=7")
        self.assertTrue((self.table(alone, "clusters")["host"] == 1).all())
        np.testing.assert_array_equal(self.model(alone), self.model(plain))

    def test_the_inner_step_is_that_of_merged_features(self):
        one = ("--method.bottom_mbps=0", "--method.most_bottoms=11", "--method.most_iterations=5", *EQUAL,
               "--device.fast.gflops=20")
        ours, merged = (self.run_ok(top, *one, f"--split.top={top}") for top in ("accumulated", "merged"))
        clusters = self.table(ours, "clusters")
        self.assertTrue((clusters["workers"] == 11).all())
        first = self.model(self.run_ok("first", *one, "--train.lr=0"))
        self.assertGreater(np.abs(self.model(ours) - first).max(), 0.02)
        np.testing.assert_allclose(self.model(ours), self.model(merged), rtol=1e-4, atol=2e-6)

    def test_equal_clients_have_equal_clusters(self):
        equal = ("--clients.count=15", "--clients.fleet=15*fast", "--method.most_bottoms=4", "--method.bottom_mbps=4", *EQUAL,
                 "--data.synthetic_samples=2400", "--run.rounds=2")
        rounds, clusters = self.both(self.run_ok("equal", *equal))
        self.assertTrue((clusters["iterations"] == 12).all())
        self.assertEqual(len(clusters["round"]), 2 * 3)
        np.testing.assert_allclose(rounds["waiting_s"], 0, atol=1e-9)
        np.testing.assert_allclose(clusters["waiting_s"], 0, atol=1e-9)
        np.testing.assert_allclose(rounds["weight"][rounds["round"] == 1], 1 / (rounds["round"] == 1).sum())
        self.assertLess(clusters["label_divergence"].max(), 0.05)


class Figures(ParallelTest):
    def test_times_bytes_weights_and_labels(self):
        run = self.run_ok("figures", *EQUAL, "--record.iterations=true")
        rounds, clusters = self.both(run)
        iterations = self.table(run, "iterations")
        fleet = {client: dict(zip(("gflops", "up", "down", "latency"), values)) for client, values in enumerate(
            3 * [(0.02, 20, 16, 1)] + 4 * [(0.004, 8, 11, 2)] + 5 * [(0.0008, 3, 6, 3)])}

        def transfer(sender, receiver, size):
            a, b = fleet[sender], fleet[receiver]
            return max(a["latency"], b["latency"]) * 1e-3 + size * 8e-6 / min(a["up"], b["down"])

        def server(client, direction, size):
            return fleet[client]["latency"] * 1e-3 + size * 8e-6 / fleet[client][direction]

        begin = 0
        for number in range(1, 5):
            mine = clusters["round"] == number
            ends, paces, work = [], [], []
            for cluster in clusters["cluster"][mine]:
                row = np.flatnonzero(mine & (clusters["cluster"] == cluster))[0]
                host, workers = self.members(rounds, clusters, number, cluster)
                tau, count = clusters["iterations"][row], len(workers)
                work.append(count * tau)
                # 2|w| over the server's links, whatever the iterations; the rest between devices.
                self.assertEqual((clusters["server_bytes_up"][row], clusters["server_bytes_down"][row]), (WHOLE, WHOLE))
                self.assertEqual(clusters["device_bytes"][row], count * (tau * 5 * (2 * FEATURES + 4) + 2 * BOTTOM))
                # An iteration: the gradient's way, a step of the bottom, the features' way, the top.
                steps = {w: rounds["compute_s"][(rounds["round"] == number) & (rounds["client"] == w)][0] / tau
                         for w in workers}
                sides = {w: transfer(host, w, 5 * FEATURES) + steps[w] + transfer(w, host, 5 * (FEATURES + 4)) for w in workers}
                of_cluster = (iterations["round"] == number) & (iterations["cluster"] == cluster)
                stepped, received = iterations["stepped_s"][of_cluster], iterations["received_s"][of_cluster]
                np.testing.assert_allclose(received[1:] - stepped[:-1], max(sides.values()), rtol=0, atol=1e-7)
                took = np.diff(stepped)
                if len(took) == 0:
                    continue
                np.testing.assert_allclose(took, took[0], atol=1e-8)
                # The top's passes queue in the order of arrival.
                passes = sorted(sides.values())
                one = 5 * 6 * (16 * 12 + 12 * 10) / (fleet[host]["gflops"] * 1e9)  # biases are counted too
                done = 0
                for side in passes:
                    done = max(done, side) + one
                self.assertGreaterEqual(took[0], done - 1e-8)
                self.assertLessEqual(took[0], max(passes) + 1.2 * (done - max(passes)))
                # Waiting in the cluster: of all iterations but the first and the last alike.
                waiting = np.mean(max(passes) - np.array(passes))
                seen = rounds["waiting_s"][(rounds["round"] == number) & (rounds["cluster"] == cluster)].mean()
                self.assertGreaterEqual(seen, (tau - 1) * waiting - 1e-7)
                # The round: iterations and what comes once.
                ways = [transfer(host, w, BOTTOM) + transfer(w, host, BOTTOM) for w in workers]
                fixed = server(host, "down", WHOLE) + server(host, "up", WHOLE)
                end = clusters["ended_s"][row] - begin
                self.assertGreaterEqual(end, tau * took[0] + fixed + min(ways) - took[0] - 1e-7)
                self.assertLessEqual(end, tau * took[0] + fixed + max(ways) + took[0])
                ends.append(end)
                paces.append((took[0], tau))
            waits = clusters["waiting_s"][mine]
            np.testing.assert_allclose(waits, max(clusters["ended_s"][mine]) - clusters["ended_s"][mine], atol=1e-9)
            np.testing.assert_allclose(clusters["weight"][mine], np.array(work) / sum(work), rtol=1e-12)
            # The fastest cluster makes all iterations, others end within one iteration of it.
            fastest = min(range(len(paces)), key=lambda c: paces[c][0])
            self.assertEqual(paces[fastest][1], 12)
            for end, (pace, tau) in zip(ends, paces):
                if tau > 1:
                    self.assertLess(abs(end - ends[fastest]), pace)
            begin = max(clusters["ended_s"][mine])

    def test_frequencies_remove_waiting_for_other_clusters(self):
        shares = {}
        for kind in ("adaptive", "fixed"):
            clusters = self.table(self.run_ok(kind, f"--method.frequencies={kind}", "--method.most_iterations=60",
                                              "--method.waiting_share=1", "--clients.fleet=3*fast, 6*middle, 3*slow",
                                              "--device.fast.gflops=0.024", "--run.rounds=1"),
                                  "clusters")
            self.assertEqual((clusters["iterations"] == 60).all(), kind == "fixed")
            mine = clusters["round"] == 1
            self.assertGreaterEqual(mine.sum(), 2)
            shares[kind] = clusters["waiting_s"][mine].mean() / clusters["ended_s"][mine].max()
        self.assertLessEqual(shares["adaptive"], 0.1)
        self.assertGreaterEqual(shares["fixed"], 0.3)

    def test_regulated_batches_remove_waiting_in_clusters(self):
        common = (*EQUAL, "--run.rounds=1", "--data.synthetic_samples=1440", "--train.batch=60", "--device.fast.latency_ms=0",
                  "--device.middle.latency_ms=0", "--device.slow.latency_ms=0", "--method.waiting_share=0")
        equal, clusters = self.both(self.run_ok("equal", *common))
        regulated, same = self.both(self.run_ok("regulated", *common, "--method.regulation=true"))
        np.testing.assert_array_equal(equal["client"], regulated["client"])
        np.testing.assert_array_equal(clusters["host"], same["host"])
        up, down = (np.repeat(rates, (3, 4, 5)) for rates in ((20, 8, 3), (16, 11, 6)))
        shares, work = {"equal": [], "regulated": []}, []
        for cluster, host in zip(clusters["cluster"], clusters["host"]):
            mine = equal["cluster"] == cluster
            worker = equal["client"][mine]
            # MergeSFL's (9) in the cluster, from the times of a sample: compute, gradient down, features and label up.
            sample_s = (equal["compute_s"] / equal["samples"])[mine] + 8e-6 * (
                FEATURES / np.minimum(up[host], down[worker]) + (FEATURES + 4) / np.minimum(up[worker], down[host]))
            np.testing.assert_array_equal(regulated["batch"][mine], np.floor(60 * sample_s.min() / sample_s + 1e-6))
            row = same["cluster"] == cluster
            work.append((regulated["batch"][mine].sum() * same["iterations"][row])[0])
            np.testing.assert_allclose(regulated["weight"][mine], same["weight"][row][0] * regulated["batch"][mine] /
                                       regulated["batch"][mine].sum(), rtol=1e-12)
            for name, rows in (("equal", equal), ("regulated", regulated)):
                shares[name].append(rows["waiting_s"][mine].sum() / (rows["compute_s"] + rows["transfer_s"] + rows["waiting_s"])[mine].sum())
        np.testing.assert_allclose(same["weight"], np.array(work) / sum(work), rtol=1e-12)
        shared = np.array(shares["equal"]) > 0
        self.assertGreaterEqual(shared.sum(), 2)
        self.assertGreater(np.array(shares["equal"])[shared].min(), 0.4)
        self.assertLess(np.array(shares["regulated"])[shared].mean(), 0.1)

    def test_labels_of_clusters_are_mixed(self):
        common = ("--run.rounds=1", "--data.partition=dominant", "--data.dominant_share=0.9")
        divergences = {}
        for kind in ("utility", "random"):
            run = self.run_ok(kind, *common, f"--method.clusters={kind}", "--method.waiting_share=0")
            divergences[kind] = self.table(run, "clusters")["label_divergence"].mean()
        self.assertLess(divergences["utility"], divergences["random"])


class Inputs(ParallelTest):
    def test_the_shipped_input_runs(self):
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "split", "parallelsfl-digits.ini")
        rounds, clusters = self.both(self.run_ok("digits", "--run.rounds=2", "--method.most_iterations=4"))
        np.testing.assert_array_equal(np.unique(clusters["round"]), [1, 2])
        self.assertGreater(len(clusters["round"]), 4)
        self.assertTrue((clusters["iterations"] <= 4).all() and (clusters["workers"] <= 5).all())
        self.assertTrue(np.isfinite(rounds["train_loss"]).all())


class Refused(ParallelTest):
    def test_what_does_not_work(self):
        for words, more in (
                ("needs two clients", ("--clients.count=1", "--clients.fleet=fast")),
                ("method.bottom_mbps", ("--method.bottom_mbps=50",)),
                ("with the bottom needs", ("--device.slow.memory_mb=0.01",))):
            with self.subTest(words=words):
                self.assert_refused(2, words, "run", self.input, "--run.name=no", *more)

    def test_workers_of_a_round_cannot_be_limited(self):
        done = self.espalier("run", self.input, "--check", "--clients.per_round=3")
        self.assertIn("clients.per_round has no meaning with split.control = parallelsfl", done.stderr)

    def test_memory_limits_tops(self):
        # A top's memory is mostly features here, so that a limit of memory is one of bottoms.
        wide = ("--run.rounds=1", "--model.hidden=64", "--split.cut=1", "--data.synthetic_shape=1, 2, 2", "--train.batch=30", *EQUAL)
        free = self.table(self.run_ok("free", *wide), "clusters")
        self.assertEqual(free["workers"][free["host"] < 3].max(), 3)
        cap = 0.98e-6 * free["peak_bytes"][free["workers"] == 3].max()
        rounds, capped = self.both(self.run_ok("capped", *wide, f"--device.fast.memory_mb={cap}"))
        fast = capped["host"] < 3
        self.assertTrue(fast.any())
        self.assertEqual(capped["workers"][fast].max(), 2)
        self.assertLessEqual(capped["peak_bytes"][fast].max(), cap * 1e6)
        parts = np.concatenate([capped["host"], rounds["client"]])
        np.testing.assert_array_equal(np.sort(parts), np.arange(12))


if __name__ == "__main__":
    unittest.main()
