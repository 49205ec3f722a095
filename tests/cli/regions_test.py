"""Regions in whole runs: closed forms, neutral settings, stalls, the same values on any number of ranks and after a
kill."""

import os
import time
import unittest

import numpy as np

from support import ProgramTest

INPUT = """
[run]
name = small
rounds = 4
[data]
name = synthetic
synthetic_samples = 120
synthetic_shape = 1, 6, 6
synthetic_noise = 0.5
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
[method]
name = cocodc
[regions]
period = 8
overlap = 2
fragment_count = 3
[train]
batch = 7
lr = 0.002
"""

PLAIN = ("--regions.outer=sgd", "--regions.outer_lr=1")  # the mean replaces the shared copy


class RegionsTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("regions.ini", INPUT)

    def assert_every_step_has_a_row(self, regions, period):
        """Every step of every region is trained or lost, in one row for each period; the last may be cut off by the end."""
        for region in np.unique(regions["region"]):
            rows = np.flatnonzero(regions["region"] == region)
            rows = rows[np.argsort(regions["period"][rows])]
            np.testing.assert_array_equal(regions["period"][rows], np.arange(1, len(rows) + 1))
            self.assertTrue(((regions["steps"] + regions["lost_steps"])[rows][:-1] == period).all())


class SameValues(RegionsTest):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                (),
                ("--method.name=diloco", "--regions.overlap=0", "--train.momentum=0.9"),
                ("--method.name=streaming_diloco", "--regions.codec=e3m0", "--regions.topology=star",
                 "--regions.weights=samples", "--data.partition=dirichlet", "--server.up_mbps=1", "--server.gflops=0.001"),
                ("--regions.codec=int8", "--regions.outer=adam", "--regions.compensation=adaptive", "--regions.lock_step=true",
                 "--regions.sends=5", "--model.norm=batch"),
                ("--method.name=sync_dp", "--regions.overlap=0", "--train.optimizer=adamw", "--train.clip=0.5"))):
            with self.subTest(settings=more):
                more = ("--checkpoint.every=1", *more)
                one = self.run_ok(f"{number}-1", *more)
                for ranks in (2, 3, 5) if number == 0 else (3 - number % 2,):
                    self.assert_same(one, self.run_ok(f"{number}-{ranks}", *more, ranks=ranks))
                points = (("regions.merged:4", 3), ("region.step:60", 2), ("regions.version:3", 1), ("checkpoint.renamed:2", 5))
                for point, ranks in points if number == 0 else (points[number % 4], points[(number + 1) % 4]):
                    name = f"{number}-{point.split(':')[0]}"
                    done = self.espalier("run", self.input, f"--run.name={name}", *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                    self.assert_same(one, self.run_ok(name, *more, ranks=ranks))

    def test_a_star_and_a_ring_give_the_same_values(self):
        """With tau a multiple of the distance of two slots, regions that wait for a fragment at the end of a period send the next
        one only when it has arrived; the version waits for it."""
        runs = [self.run_ok(topology, "--clients.fleet=4*fast", "--device.fast.gflops=0.02", "--model.hidden=100,100,20",
                            "--data.synthetic_samples=112", "--regions.sends=4", "--regions.overlap=4", "--record.evaluate_every=1",
                            f"--regions.topology={topology}") for topology in ("ring", "star")]
        self.assert_equal_models(*runs)
        ring, star = (self.table(run, "exchanges") for run in runs)
        self.assertEqual(star["sent_step"].max(), 32)
        np.testing.assert_array_equal(*(self.column(run, "loss", "evaluations") for run in runs))
        for name in ("exchange", "fragment", "region", "sent_step", "norm", "weight"):
            a, b = (t[name][np.lexsort((t["region"], t["exchange"]))] for t in (ring, star))
            np.testing.assert_array_equal(a, b, name)

    def test_more_periods_later_are_the_same_run(self):
        whole = self.run_ok("whole", "--run.horizon=4")
        self.run_ok("parts", "--run.horizon=4", "--run.rounds=2", ranks=2)
        parts = self.run_ok("parts", "--run.horizon=4")
        self.assert_equal_models(whole, parts)


class Neutral(RegionsTest):
    def test_local_sgd_is_fedavg(self):
        common = ("--data.partition=dirichlet", "--train.optimizer=sgd", "--train.lr=0.05", "--train.steps=0")
        # A period is one epoch of every region: 30 samples in batches of 7 and 2.
        regions = self.run_ok("regions", "--method.name=local_sgd", "--regions.period=5", "--regions.overlap=0",
                              "--data.partition=iid", "--train.optimizer=sgd", "--train.lr=0.05")
        fedavg = self.run_ok("fedavg", "--method.name=fedavg", "--data.partition=iid", "--train.optimizer=sgd",
                             "--train.lr=0.05")
        self.assert_equal_models(regions, fedavg)
        moments = ("--train.optimizer=adamw", "--train.optimizer_state=keep", "--train.lr=0.003", "--data.partition=iid")
        self.assert_equal_models(
            self.run_ok("diloco", "--method.name=diloco", "--regions.period=5", "--regions.overlap=0", *PLAIN,
                        "--train.weight_decay=0.01", "--train.clip=0", *moments),
            self.run_ok("fedadamw", "--method.name=fedavg", "--train.weight_decay=0.01", *moments))

    def test_streaming_without_overlap_is_diloco(self):
        streaming = self.run_ok("streaming", "--method.name=streaming_diloco", "--regions.overlap=0", "--regions.alpha=0",
                                "--regions.fragment_count=1", "--regions.outer_lr=0.7")
        self.assert_equal_models(streaming, self.run_ok("diloco", "--method.name=diloco", "--regions.overlap=0"))

    def test_cocodc_without_correction_and_overlap_is_streaming(self):
        cocodc = self.run_ok("cocodc", "--regions.lambda=0", "--regions.overlap=0", "--regions.schedule=offset")
        self.assert_equal_models(cocodc, self.run_ok("streaming", "--method.name=streaming_diloco", "--regions.alpha=0",
                                                     "--regions.overlap=0"))

    def test_data_parallel_is_averaging_after_every_step(self):
        common = ("--regions.overlap=0", "--train.optimizer=sgd", "--train.lr=0.05", "--data.partition=iid")
        gradients = self.run_ok("gradients", "--method.name=sync_dp", *common)
        values = self.run_ok("values", "--method.name=local_sgd", "--regions.period=1", "--run.rounds=32", *common)
        for name, expected in self.model(values).items():
            np.testing.assert_allclose(self.model(gradients)[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)
        exchanges = self.table(gradients, "exchanges")
        self.assertEqual(len(exchanges["exchange"]), 32 * 4)
        self.assertTrue((exchanges["sent_step"] == exchanges["exchange"] + 1).all())

    def test_data_parallel_with_one_region_is_plain_training(self):
        alone = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=31", "--regions.overlap=0",
                 "--train.optimizer=adamw", "--train.clip=0.5", "--train.weight_decay=0.1")
        self.assert_equal_models(self.run_ok("gradients", "--method.name=sync_dp", *alone),
                                 self.run_ok("plain", "--method.name=diloco", *alone, *PLAIN))

    def test_one_region_alone_trains_as_without_exchanges(self):
        alone = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=31", *PLAIN)
        plain = self.run_ok("plain", "--method.name=diloco", "--regions.overlap=0", *alone)
        for overlap, count in ((2, 3), (5, 2), (0, 4)):
            other = self.run_ok(f"other{overlap}", f"--regions.overlap={overlap}", f"--regions.fragment_count={count}",
                                "--regions.lambda=0", *alone)
            tables = [self.table(run, "regions") for run in (plain, other)]
            np.testing.assert_array_equal(tables[0]["train_loss"], tables[1]["train_loss"])


class Parts(RegionsTest):
    """Evaluations of the mean of replicas, and bases of the regions' own."""

    def test_the_mean_of_replicas_is_the_merge_of_plain_averaging(self):
        """With the plain mean as outer optimiser and tau = 0 the mean of replicas is the next shared copy, but for its order of
        rounding; the run itself does not change."""
        common = ("--method.name=local_sgd", "--regions.period=8", "--regions.overlap=0", "--regions.weights=uniform",
                  "--data.partition=iid", "--record.evaluate_every=2", "--run.rounds=5")
        shared = self.run_ok("shared", *common)
        replicas = self.run_ok("replicas", *common, "--regions.evaluate=replicas", ranks=3)
        a, b = (self.table(run, "evaluations") for run in (shared, replicas))
        np.testing.assert_array_equal(a["version"], b["version"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
        self.assert_equal_models(shared, replicas)

    def test_the_mean_of_replicas_is_not_the_shared_copy(self):
        more = ("--regions.codec=e3m0", "--checkpoint.every=1")
        replicas = self.run_ok("replicas", *more, "--regions.evaluate=replicas")
        shared = self.run_ok("shared", *more)
        self.assert_equal_models(shared, replicas)
        self.assertTrue((self.column(shared, "loss", "evaluations") != self.column(replicas, "loss", "evaluations")).all())
        done = self.espalier("run", self.input, "--run.name=killed", *more, "--regions.evaluate=replicas", ranks=3,
                             env={"ESPALIER_KILL_AT": "regions.version:3"})
        self.assertEqual(done.returncode, 137, done.stderr)
        self.assert_same(replicas, self.run_ok("killed", *more, "--regions.evaluate=replicas", ranks=2))

    def test_bases_of_the_regions_own(self):
        """One region has the same base either way; several have not."""
        more = ("--method.name=streaming_diloco", "--regions.codec=float32")
        alone = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=31", *PLAIN)
        a = self.model(self.run_ok("alone", *more, *alone))
        b = self.model(self.run_ok("alone-local", *more, *alone, "--regions.base=local"))
        for name, values in a.items():
            np.testing.assert_allclose(values, b[name], rtol=2e-4, atol=2e-6, err_msg=name)
        one = self.run_ok("local", *more, "--regions.base=local", "--checkpoint.every=1")
        self.assert_same(one, self.run_ok("ranks", *more, "--regions.base=local", "--checkpoint.every=1", ranks=3))
        a, b = self.table(one, "exchanges"), self.table(self.run_ok("shared", *more), "exchanges")
        self.assertTrue((a["norm"] != b["norm"])[a["exchange"] > 4].any())


class Times(RegionsTest):
    """Emulated times by closed forms: every step of a region takes the same time, as all batches are equal."""

    EQUAL = ("--clients.fleet=4*fast", "--data.synthetic_samples=112", "--method.name=streaming_diloco", "--regions.period=9",
             "--model.hidden=100,100")

    def step_s(self, run):
        table = self.table(run, "regions")
        steps = table["compute_s"] / table["steps"]
        np.testing.assert_allclose(steps, steps[0], rtol=1e-7)
        return steps[0]

    def test_a_ring_stalls_for_what_the_overlap_does_not_hide(self):
        for overlap in (0, 1, 4):
            run = self.run_ok(f"ring{overlap}", *self.EQUAL, f"--regions.overlap={overlap}")
            step, exchanges = self.step_s(run), self.table(run, "exchanges")
            values = {f: exchanges["bytes_up"][exchanges["fragment"] == f][0] for f in range(3)}
            applied = exchanges["applied_step"] >= 0
            self.assertTrue((exchanges["applied_step"][applied] == exchanges["sent_step"][applied] + overlap).all())
            for row in np.flatnonzero(applied):
                ring = 0.003 + 2 * 3 / 4 * values[exchanges["fragment"][row]] * 8 / 2e6
                self.assertAlmostEqual(exchanges["arrived_s"][row], exchanges["sent_s"][row] + ring, 6)
                self.assertAlmostEqual(exchanges["stall_s"][row], max(0, ring - overlap * step), 6)
            done = self.column(run, "virtual_time_s", "evaluations")[-1]
            stalls = exchanges["stall_s"][exchanges["region"] == 0].sum()
            if overlap == 0:
                self.assertGreater(stalls, 0)
            reached = self.table(run, "regions")["reached_s"].max()
            self.assertAlmostEqual(reached, 36 * step + stalls - exchanges["stall_s"][
                (exchanges["region"] == 0) & (exchanges["applied_step"] == 36)].sum(), 5)
            self.assertGreaterEqual(done, reached)

    def test_a_star_passes_both_links(self):
        run = self.run_ok("star", *self.EQUAL, "--regions.topology=star", "--regions.overlap=0")
        exchanges = self.table(run, "exchanges")
        for row in range(len(exchanges["exchange"])):
            if np.isnan(exchanges["arrived_s"][row]):
                continue
            size = exchanges["bytes_up"][row]
            expected = 2 * 0.003 + size * 8 / 2e6 + size * 8 / 4e6
            self.assertAlmostEqual(exchanges["arrived_s"][row] - exchanges["sent_s"][row], expected, 6)

    def test_a_version_is_made_when_its_last_merge_is(self):
        """Without overlap every region has the merged values at that time, over a ring."""
        run = self.run_ok("made", *self.EQUAL, "--method.name=diloco", "--regions.topology=ring", "--regions.overlap=0")
        exchanges, made = self.table(run, "exchanges"), self.table(run, "evaluations")
        for version, time in zip(made["version"], made["virtual_time_s"]):
            if version < 4:  # the run ends with the last one
                arrived = exchanges["arrived_s"][exchanges["sent_step"] == 9 * version]
                np.testing.assert_allclose(time, arrived, rtol=1e-9)

    def test_a_slow_region_does_not_stop_the_others_before_the_fragment_is_due(self):
        run = self.run_ok("speeds", "--method.name=diloco", "--regions.overlap=3")
        regions = self.table(run, "regions")
        fast, slow = regions["region"] < 2, regions["region"] >= 2
        self.assertGreater(regions["stall_s"][fast].sum(), 0.5 * regions["compute_s"][fast].sum())
        self.assertLess(regions["stall_s"][slow].max(), 0.2 * regions["compute_s"][slow].max())
        locked = self.table(self.run_ok("locked", "--method.name=diloco", "--regions.overlap=3", "--regions.lock_step=true"),
                            "regions")
        np.testing.assert_allclose(locked["reached_s"][locked["region"] == 0], locked["reached_s"][locked["region"] == 3])


class Measured(RegionsTest):
    def test_steps_take_the_time_of_the_host(self):
        """With a host as fast as the fast regions, these take the time that their training took here."""
        for method, *more in (("diloco", "--regions.overlap=0"), ("decoupled_diloco", "--regions.overlap=0")):
            begun = time.monotonic()
            run = self.run_ok(method, f"--method.name={method}", *more, "--clock.kind=measured", "--clock.host_gflops=0.002")
            wall = time.monotonic() - begun
            regions = self.table(run, "regions")
            self.assertEqual(regions["samples"].min() > 0, True)
            compute = regions["compute_s"][regions["region"] < 2].sum()
            self.assertGreater(compute, 0)
            self.assertLess(compute, wall)


class Faults(RegionsTest):
    """Regions that crash, are away, are late, and whose messages are lost."""

    FAULTS = ("--clients.count=12", "--clients.fleet=12*fast", "--data.synthetic_samples=240", "--run.rounds=12",
              "--faults.crash=0.15", "--faults.vanish=0.1", "--faults.vanish_tasks=1.5", "--faults.late=0.1", "--faults.lost=0.1")

    def check(self, run):
        regions, exchanges = self.table(run, "regions"), self.table(run, "exchanges")
        # Every step of every region is trained or lost, in one row.
        self.assert_every_step_has_a_row(regions, 8)
        # Batches of 7, 7 and 6 of a region's 20 samples.
        self.assertTrue((np.abs(regions["samples"] - 20 / 3 * regions["steps"]) < 1.4).all())
        self.assertGreater(regions["lost_steps"].sum(), 0)
        self.assertEqual(len(set(zip(exchanges["exchange"], exchanges["region"]))), len(exchanges["exchange"]))
        # The weights of those that took part sum to one, unless the run ended before the merge.
        for number in set(exchanges["exchange"]):
            rows = exchanges["exchange"] == number
            if (exchanges["applied_step"][rows] >= 0).any() and exchanges["weight"][rows].any():
                self.assertAlmostEqual(exchanges["weight"][rows].sum(), 1, 12)
        lost = exchanges["lost"] == 1
        self.assertTrue(lost.any() and (exchanges["weight"][lost] == 0).all())
        self.assertTrue(np.isnan(exchanges["sent_s"][exchanges["sent_step"] < 0]).all())

    def test_nothing_is_lost_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                ("--regions.sends=4",),
                ("--method.name=diloco", "--regions.overlap=0"),
                ("--method.name=streaming_diloco", "--regions.topology=star", "--regions.codec=bfloat16"))):
            with self.subTest(settings=more):
                more = (*self.FAULTS, "--checkpoint.every=1", *more)
                one = self.run_ok(f"{number}-1", *more)
                self.check(one)
                self.assert_same(one, self.run_ok(f"{number}-3", *more, ranks=3))
                name = f"{number}-killed"
                for point in ("regions.merged:5", "region.step:100", "regions.version:2"):
                    done = self.espalier("run", self.input, f"--run.name={name}", *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                self.assert_same(one, self.run_ok(name, *more, ranks=2))

    def test_a_lost_message_leaves_the_region_with_its_own_values(self):
        # All messages of region 1 are lost: the others train as if it did not exist.
        run = self.run_ok("lost", "--faults.lost=1", "--faults.clients=1", "--method.name=diloco", "--regions.overlap=0")
        exchanges = self.table(run, "exchanges")
        self.assertTrue((exchanges["lost"] == (exchanges["region"] == 1)).all())
        merged = ~np.isnan(exchanges["arrived_s"])
        self.assertTrue(np.allclose(exchanges["weight"][merged & (exchanges["region"] != 1)], 1 / 3))

    def test_a_region_that_is_not_available_is_away(self):
        run = self.run_ok("away", "--run.rounds=12", "--device.fast.availability=0.5", "--clients.availability_period_s=0.3",
                          "--checkpoint.every=1")
        regions, exchanges = self.table(run, "regions"), self.table(run, "exchanges")
        self.assertTrue((regions["lost_steps"][regions["region"] >= 2] == 0).all())  # always available
        self.assertGreater(regions["lost_steps"][regions["region"] < 2].sum(), 0)
        for region in range(2):
            rows = regions["region"] == region
            self.assertGreater(regions["steps"][rows].sum(), 0)
        self.assert_every_step_has_a_row(regions, 8)
        self.assertGreater(len(set(exchanges["exchange"][exchanges["region"] == 2])
                               - set(exchanges["exchange"][exchanges["region"] == 0])), 0)
        more = ("--run.rounds=12", "--device.fast.availability=0.5", "--clients.availability_period_s=0.3", "--checkpoint.every=1")
        done = self.espalier("run", self.input, "--run.name=killed", *more, ranks=3, env={"ESPALIER_KILL_AT": "regions.merged:9"})
        self.assertEqual(done.returncode, 137, done.stderr)
        self.assert_same(run, self.run_ok("killed", *more, ranks=2))
        # If no region is ever there, the run ends with a sentence.
        self.assert_refused(2, "no region is available", "run", self.input, "--run.name=nobody",
                            "--device.fast.availability=1e-12", "--device.slow.availability=1e-12")

    def test_no_fragment_is_chosen_again_when_all_regions_were_away(self):
        """The region that is back first goes on where fragments have been chosen, even if it was behind."""
        run = self.run_ok("away", "--clients.count=3", "--clients.fleet=2*fast, slow", "--device.fast.availability=0.3",
                          "--device.slow.availability=0.3", "--clients.availability_period_s=0.3", "--run.rounds=8",
                          "--regions.sends=4")
        exchanges, regions = self.table(run, "exchanges"), self.table(run, "regions")
        sent = exchanges["sent_step"] >= 0
        order = np.argsort(exchanges["exchange"][sent], kind="stable")
        self.assertTrue((np.diff(exchanges["sent_step"][sent][order]) >= 0).all())
        self.assert_every_step_has_a_row(regions, 8)

    def test_regions_that_have_just_joined_may_send_before_a_step(self):
        """They fail at a step after which a fragment is applied and another is sent. By tokens they all weigh nothing."""
        for weights in ("tokens", "tokens_per_step"):
            run = self.run_ok(weights, "--method.name=streaming_diloco", "--regions.fragment_count=4", f"--regions.weights={weights}",
                              "--clients.count=2", "--clients.fleet=2*fast", "--faults.crash=0.8", "--run.rounds=8",
                              "--run.seed=4", "--data.synthetic_samples=60")
            exchanges = self.table(run, "exchanges")
            sent = (exchanges["sent_step"] >= 0) & ~np.isnan(exchanges["arrived_s"])
            for number in np.unique(exchanges["exchange"][sent]):
                self.assertAlmostEqual(exchanges["weight"][exchanges["exchange"] == number].sum(), 1, 12)

    def test_a_late_region_takes_longer_and_nothing_else_changes(self):
        late = self.run_ok("late", "--faults.late=1", "--faults.late_factor=3", "--faults.clients=2")
        plain = self.run_ok("plain")
        self.assert_equal_models(late, plain)
        a, b = self.table(late, "regions"), self.table(plain, "regions")
        a = {name: values[np.lexsort((a["region"], a["period"]))] for name, values in a.items()}
        b = {name: values[np.lexsort((b["region"], b["period"]))] for name, values in b.items()}
        np.testing.assert_allclose(a["compute_s"], b["compute_s"] * np.where(a["region"] == 2, 3, 1), rtol=1e-6)


class Refusals(RegionsTest):
    def test_settings_that_cannot_work(self):
        for words, *settings in (
                ("regions.overlap", "--regions.overlap=8"), ("regions.fragment_count", "--regions.fragment_count=5"),
                ("regions.sends", "--regions.sends=2"), ("regions.sends", "--regions.sends=9"),
                ("must have a step for each", "--regions.period=2", "--regions.overlap=1"),
                ("regions.exchange", "--method.name=sync_dp"),
                ("belong together", "--method.name=sync_dp", "--regions.overlap=0", "--regions.schedule=together"),
                ("faults.lost", "--faults.twice=0.1"),
                ("replicas must stay equal", "--method.name=sync_dp", "--regions.overlap=0", "--device.slow.availability=0.5"),
                ("regions.base = local", "--regions.base=local", "--faults.crash=0.1"),
                ("batch norm", "--regions.evaluate=replicas", "--model.norm=batch"),
                ("replicas must stay equal", "--method.name=sync_dp", "--regions.overlap=0", "--faults.lost=0.1"),
                ("memory_mb", "--device.slow.memory_mb=0.01")):
            self.assert_refused(2, words, "run", self.input, *settings)
            self.assertFalse(os.path.exists(self.path("runs")), settings)

    def test_a_memory_bound_holds(self):
        for method in ("diloco", "cocodc"):
            run = self.run_ok(method, f"--method.name={method}")
            peak = self.column(run, "peak_bytes", "regions").max()
            shown = self.espalier("run", self.input, f"--method.name={method}", "--check").stdout
            bound = float(shown.split("memory   ")[1].split(" MB")[0]) * 1e6 + 5000
            self.assertLessEqual(peak, bound)
            self.assertGreater(peak, 0.5 * bound)


if __name__ == "__main__":
    unittest.main()
