"""Regions that never wait: neutral settings, quorum and grace, times, faults, the same values on any number of ranks and after
a kill."""

import unittest

import numpy as np

from regions_test import PLAIN, RegionsTest

FREE = tuple(f"--device.{name}.{key}=0" for name in ("fast", "slow") for key in ("up_mbps", "down_mbps", "latency_ms"))
DECOUPLED = ("--method.name=decoupled_diloco", "--regions.period=8", "--regions.overlap=0", "--regions.fragment_count=3")
WHOLE = ("--regions.fragments=whole", "--regions.merge=mean", "--regions.fragment_count=0")
EQUAL = ("--clients.fleet=4*fast", "--data.synthetic_samples=112")


class Decoupled(RegionsTest):
    def rows(self, run, table, keys):
        """The table's rows, sorted by these columns."""
        columns = self.table(run, table)
        order = np.lexsort([columns[key] for key in reversed(keys)])
        return {name: values[order] for name, values in columns.items()}


class SameValues(Decoupled):
    def test_on_any_number_of_ranks_and_after_a_kill(self):
        faults = ("--faults.crash=0.2", "--faults.vanish=0.2", "--faults.vanish_tasks=0.5", "--faults.late=0.2",
                  "--faults.lost=0.2")
        for number, (more, ranks, points) in enumerate((
                ((), (2, 3, 5), ("regions.merged:7", "region.step:20")),
                ((*faults, "--regions.quorum=2", "--regions.grace=0.5", "--train.momentum=0.9"), (3,),
                 ("regions.version:2", "checkpoint.half:2")),
                ((*faults, "--regions.schedule=adaptive", "--regions.sends=4", "--regions.arrival=compensate",
                  "--regions.codec=int8", "--server.gflops=0.0001", "--server.up_mbps=1"), (2,), ("regions.merged:5",)))):
            with self.subTest(settings=more):
                more = (*DECOUPLED, *more, "--checkpoint.every=1")
                one = self.run_ok(f"{number}-1", *more)
                for size in ranks:
                    self.assert_same(one, self.run_ok(f"{number}-{size}", *more, ranks=size))
                for point in points:
                    done = self.espalier("run", self.input, f"--run.name={number}-killed", *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                self.assert_same(one, self.run_ok(f"{number}-killed", *more, ranks=2))


    def test_more_periods_later_are_the_same_run(self):
        more = (*DECOUPLED, "--run.horizon=8", "--faults.crash=0.1", "--train.schedule=cosine")
        whole = self.run_ok("whole", *more, "--run.rounds=4")
        self.run_ok("parts", *more, "--run.rounds=2", ranks=2)
        parts = self.run_ok("parts", *more, "--run.rounds=4")
        self.assert_equal_models(whole, parts)
        np.testing.assert_array_equal(self.table(whole, "evaluations")["virtual_time_s"],
                                      self.table(parts, "evaluations")["virtual_time_s"])


class Neutral(Decoupled):
    def test_one_region_alone_trains_as_without_exchanges(self):
        alone = ("--clients.count=1", "--clients.fleet=fast", "--data.synthetic_samples=31", *FREE, *PLAIN)
        plain = self.table(self.run_ok("plain", "--method.name=diloco", "--regions.overlap=0", *alone), "regions")
        for number, more in enumerate((WHOLE, ("--regions.merge=mean",))):
            other = self.table(self.run_ok(f"other{number}", *DECOUPLED, *more, *alone), "regions")
            np.testing.assert_array_equal(plain["train_loss"], other["train_loss"])

    def test_all_regions_in_step_are_diloco(self):
        common = (*EQUAL, *FREE)
        decoupled = self.run_ok("decoupled", *DECOUPLED, *WHOLE, "--regions.quorum=4", "--regions.grace=0", *common)
        diloco = self.run_ok("diloco", "--method.name=diloco", "--regions.overlap=0", *common)
        self.assert_equal_models(decoupled, diloco)
        keys = ("exchange", "region")
        a, b = self.rows(decoupled, "exchanges", keys), self.rows(diloco, "exchanges", keys)
        self.assertEqual(len(a["exchange"]), 4 * 4)
        for name in ("sent_step", "norm", "weight", "bytes_up"):
            np.testing.assert_array_equal(a[name], b[name], name)


class Quorum(Decoupled):
    """Four regions, two of which are half as fast."""

    def merged(self, *more):
        exchanges = self.table(self.run_ok("".join(more), *DECOUPLED, *more), "exchanges")
        return exchanges, [np.flatnonzero((exchanges["exchange"] == n) & (exchanges["weight"] > 0))
                           for n in np.unique(exchanges["exchange"])]

    def test_regions_never_wait(self):
        run = self.run_ok("run", *DECOUPLED)
        regions = self.table(run, "regions")
        self.assertTrue((regions["stall_s"] == 0).all())
        for region in range(4):
            own = np.flatnonzero(regions["region"] == region)
            own = own[np.argsort(regions["period"][own])]
            np.testing.assert_allclose(regions["reached_s"][own], np.cumsum(regions["compute_s"][own]), rtol=1e-9)
        # The fast regions make twice as many steps as the slow ones; the run ends within a period.
        steps = [regions["steps"][regions["region"] == region].sum() for region in range(4)]
        self.assertAlmostEqual(steps[0] / steps[3], 2, delta=0.2)
        # Weights: tokens times tokens of a step, which are about equal here: by steps since the last exchange.
        exchanges = self.table(run, "exchanges")
        for number in np.unique(exchanges["exchange"]):
            rows = exchanges["exchange"] == number
            if exchanges["weight"][rows].any():
                self.assertAlmostEqual(exchanges["weight"][rows].sum(), 1, 12)

    def test_a_merge_takes_those_that_answer_in_time(self):
        _, alone = self.merged("--regions.grace=0")
        exchanges, patient = self.merged("--regions.grace=1")
        all_regions, complete = self.merged("--regions.quorum=4")
        mean = [np.mean([len(rows) for rows in merges if len(rows)]) for merges in (alone, patient, complete)]
        self.assertLess(mean[0], mean[1])
        self.assertLess(mean[1], mean[2])
        self.assertTrue(all(len(rows) in (0, 4) for rows in complete))
        self.assertTrue((all_regions["weight"][all_regions["sent_step"] < 0] == 0).all())
        # An answer that came too late has weight 0, and its region takes the merged values all the same.
        late = (exchanges["sent_step"] >= 0) & (exchanges["weight"] == 0) & (exchanges["applied_step"] >= 0)
        self.assertTrue(late.any())

    def test_a_region_answers_after_its_step_and_once_it_has_trained(self):
        exchanges = self.table(self.run_ok("run", *DECOUPLED), "exchanges")
        for region in range(4):
            for fragment in range(3):
                rows = np.flatnonzero((exchanges["region"] == region) & (exchanges["fragment"] == fragment)
                                      & (exchanges["sent_step"] >= 0))
                rows = rows[np.argsort(exchanges["exchange"][rows])]
                for before, after in zip(rows, rows[1:]):
                    if exchanges["applied_step"][before] >= 0:
                        self.assertGreater(exchanges["sent_step"][after], exchanges["applied_step"][before])


class Times(Decoupled):
    def test_an_exchange_passes_both_links_and_the_server(self):
        """The request is latency; values pass the region's link up, the server's processor, the link down."""
        gflops = 1e-6
        run = self.run_ok("run", *DECOUPLED, *WHOLE, *EQUAL, "--regions.quorum=4", f"--server.gflops={gflops}",
                          "--regions.period=20", "--run.rounds=2")
        exchanges, regions = self.table(run, "exchanges"), self.table(run, "regions")
        step = regions["compute_s"][0] / regions["steps"][0]
        size = exchanges["bytes_up"][0]
        first = exchanges["exchange"] == 0
        # All reach step 20 at the same time, the request comes 3 ms later: after the next step.
        np.testing.assert_allclose(exchanges["sent_s"][first], 21 * step, rtol=1e-6)
        self.assertLess(0.003, step)
        merge_s = 2 * size / 4 * 4 / (gflops * 1e9)
        expected = 21 * step + 0.003 + size * 8 / 2e6 + merge_s + size * 8 / 4e6 + 0.003
        np.testing.assert_allclose(exchanges["arrived_s"][first], expected, rtol=1e-5)
        # They apply it between two steps.
        np.testing.assert_allclose(exchanges["applied_s"][first], np.ceil(expected / step) * step, rtol=1e-5)


class Faults(Decoupled):
    def test_a_region_that_dies_changes_only_what_comes_after(self):
        more = (*DECOUPLED, "--regions.quorum=2", "--run.rounds=8")
        whole = self.run_ok("whole", *more)
        dead = self.run_ok("dead", *more, "--faults.clients=3", "--faults.vanish=1", "--faults.vanish_tasks=1000")
        keys = ("exchange", "region")
        a, b = self.rows(whole, "exchanges", keys), self.rows(dead, "exchanges", keys)
        regions = self.table(dead, "regions")
        lost = (regions["region"] == 3) & (regions["lost_steps"] > 0)
        self.assertEqual(lost.sum(), 1)
        died = regions["reached_s"][lost][0]
        def early(t):
            return (t["arrived_s"] < died) & (t["region"] != 3)
        self.assertGreater(early(a).sum(), 2)
        for name in a:
            np.testing.assert_array_equal(a[name][early(a)], b[name][early(b)], name)
        self.assertTrue((b["sent_s"][b["region"] == 3] <= died).all())
        for region in range(3):  # the others train on at their pace
            t = self.rows(dead, "regions", ("region", "period"))
            own = (t["region"] == region) & (t["steps"] == 8)
            np.testing.assert_allclose(np.diff(t["reached_s"][own]), t["compute_s"][own][1:], rtol=1e-9)

    def test_all_steps_have_a_row(self):
        run = self.run_ok("run", *DECOUPLED, "--clients.count=12", "--clients.fleet=6*fast, 6*slow", "--run.rounds=12",
                          "--data.synthetic_samples=240", "--faults.crash=0.15", "--faults.vanish=0.1", "--faults.lost=0.1",
                          "--faults.vanish_tasks=1.5", ranks=3)
        regions, exchanges = self.table(run, "regions"), self.table(run, "exchanges")
        self.assert_every_step_has_a_row(regions, 8)
        self.assertGreater(regions["lost_steps"].sum(), 0)
        self.assertTrue((exchanges["lost"] == 1).any())
        self.assertTrue((exchanges["weight"][exchanges["lost"] == 1] == 0).all())


class Refusals(Decoupled):
    def test_settings_that_cannot_work(self):
        for words, *settings in (
                ("regions.decoupled needs", "--regions.topology=ring"), ("regions.decoupled needs", "--regions.overlap=3"),
                ("regions.decoupled needs", "--regions.base=local"), ("regions.decoupled needs", "--regions.evaluate=replicas"),
                ("regions.quorum = 5", "--regions.quorum=5"), ("regions.grace", "--regions.grace=1.5"),
                ("balanced", "--regions.fragment_count=4")):
            self.assert_refused(2, words, "run", self.input, *DECOUPLED, *settings)


if __name__ == "__main__":
    unittest.main()
