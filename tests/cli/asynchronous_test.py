"""Windows that do not wait for all clients: the same values on any number of ranks, the neutral settings, and the
version that each client receives."""

import os
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

EQUAL = ["--clients.count=6", "--clients.fleet=", "--data.partition=iid"]  # 100 samples each


class Asynchronous(ProgramTest):
    def model(self, run):
        with h5py.File(self.checkpoint(run)) as file:
            group = file["model"] if "model" in file else file["state/model"]
            return np.concatenate([group[name][()].ravel() for name in sorted(group)])


class SameValues(Asynchronous):
    """200 clients of two speeds on equal data, so that many events have the same time."""

    def on_all_rank_counts(self, *settings):
        crowd = ["--clients.count=200", "--clients.fleet=1*fast,1*slow", "--data.partition=iid",
                 "--data.synthetic_samples=2000", "--model.hidden=8", "--data.synthetic_shape=20",
                 "--run.rounds=40", "--record.evaluate_every=20", "--clients.per_round=50", *settings]
        reference = self.run_ok("one", *crowd)
        finished = self.column(reference, "finished_s")
        self.assertLess(len(np.unique(finished)), len(finished) // 2, "no ties")
        for ranks in (2, 3, 5):
            self.assert_same(reference, self.run_ok(f"on{ranks}", *crowd, ranks=ranks))

    def test_fedasync(self):
        self.on_all_rank_counts("--method.name=fedasync")

    def test_fedbuff(self):
        self.on_all_rank_counts("--method.name=fedbuff", "--method.server_momentum=0.5")

    def test_semi_async_with_grace_on_rolling_submodels(self):
        self.on_all_rank_counts("--method.name=semi_async", "--method.submodel=rolling",
                                "--window.grace_s=0.001", "--window.max_staleness=1",
                                "--window.stale=resend")

    def test_deadline_and_dropping(self):
        self.on_all_rank_counts("--method.name=semi_async", "--window.deadline_s=0.02",
                                "--window.max_staleness=0", "--window.stale=drop",
                                "--clients.sampling=weighted")

    def test_over_selection_in_turn(self):
        self.on_all_rank_counts("--window.min_updates=50", "--clients.over_select=1.3",
                                "--clients.sampling=round_robin")

    def test_ssp(self):
        self.on_all_rank_counts("--method.name=ssp", "--clients.per_round=0", "--run.rounds=300",
                                "--record.evaluate_every=100")

    def test_delay_compensation(self):
        self.on_all_rank_counts("--method.name=dc_asgd", "--method.adaptive=true",
                                "--method.lambda=2")


class Neutral(Asynchronous):
    def test_waiting_for_all_is_the_synchronous_run(self):
        self.assert_same(self.run_ok("sync"),
                         self.run_ok("all", "--method.name=semi_async", "--window.min_updates=7"),
                         "--values")

    def test_fedasync_with_one_client_is_fedavg(self):
        # Compare only model and schedule: even at mu = 0 the proximal term needs memory for a copy of the weights.
        one = ["--clients.count=1", "--clients.fleet="]
        fedavg = self.run_ok("fedavg", *one)
        other = self.run_ok("fedasync", *one, "--method.name=fedasync", "--method.alpha=1",
                            "--method.mu=0")
        np.testing.assert_array_equal(self.model(fedavg), self.model(other))
        np.testing.assert_array_equal(self.column(fedavg, "finished_s"),
                                      self.column(other, "finished_s"))

    def test_fedbuff_of_all_is_fedavg(self):
        fedavg = self.run_ok("fedavg", *EQUAL)
        fedbuff = self.run_ok("fedbuff", *EQUAL, "--method.name=fedbuff", "--window.min_updates=0",
                              "--window.release=merged")
        np.testing.assert_array_equal(self.model(fedavg), self.model(fedbuff))

    def test_ssp_without_slack_keeps_the_synchronous_schedule(self):
        fedavg = self.run_ok("fedavg", *EQUAL, "--run.rounds=1")
        ssp = self.run_ok("ssp", *EQUAL, "--method.name=ssp", "--window.max_spread=0",
                          "--run.rounds=18")
        sent = self.column(ssp, "sent_s")
        first = self.column(ssp, "base_version") == 0
        np.testing.assert_array_equal(sent[first], self.column(fedavg, "sent_s"))
        self.assertEqual(sorted(np.bincount(np.searchsorted(np.unique(sent), sent))), [6, 6, 6],
                         "everybody starts together")
        # One round: each of the six additions rounds once, by at most half a unit of the last place.
        six = self.run_ok("six", *EQUAL, "--method.name=ssp", "--window.max_spread=0",
                          "--run.rounds=6")
        a, b = self.model(fedavg), self.model(six)
        bound = 7 * 2.0**-24 * max(np.abs(a).max(), np.abs(b).max())
        self.assertGreater(np.abs(a).max(), 0)
        self.assertLessEqual(np.abs(a.astype(float) - b).max(), bound)

    def test_delay_compensation_of_nothing_adds_the_difference(self):
        one = ["--clients.count=1", "--clients.fleet="]
        fedavg = self.run_ok("fedavg", *one)
        other = self.run_ok("dc_asgd", *one, "--method.name=dc_asgd", "--method.lambda=0")
        np.testing.assert_array_equal(self.column(fedavg, "finished_s"),
                                      self.column(other, "finished_s"))
        # w + (w' - w) in double equals w' up to one rounding of the sum.
        np.testing.assert_allclose(self.model(fedavg), self.model(other), rtol=2.0**-23, atol=1e-30)


class Schedule(Asynchronous):
    def test_slow_clients_keep_their_version_and_count_once(self):
        run = self.run_ok("a", "--method.name=semi_async", "--run.rounds=12")
        task, outcome = self.column(run, "task"), self.column(run, "outcome")
        self.assertEqual(sorted(task), list(range(len(task))), "every task has one row")
        merged = outcome == b"merged"
        staleness = self.column(run, "staleness")
        self.assertGreater(staleness[merged].max(), 0)
        np.testing.assert_array_equal(
            staleness[merged],
            self.column(run, "merged_version")[merged] - 1 - self.column(run, "base_version")[merged])
        sums = np.bincount(self.column(run, "merged_version")[merged])[1:]
        np.testing.assert_array_equal(sums, self.column(run, "updates_merged", "rounds"))

    def test_the_bound_on_spread_holds(self):
        run = self.run_ok("a", "--method.name=ssp", "--window.max_spread=2", "--run.rounds=40",
                          "--device.slow.gflops=0.05")
        client, sent = self.column(run, "client"), self.column(run, "sent_s")
        finished = self.column(run, "finished_s")
        spreads = []
        for moment in np.unique(sent):
            done = [np.sum((client == c) & (finished <= moment)) for c in range(7)]
            started = [np.sum((client == c) & (sent <= moment)) for c in range(7)]
            spreads.append(max(started) - 1 - min(done))
        self.assertEqual(max(spreads), 2)

    def test_dropped_updates_are_not_merged(self):
        run = self.run_ok("a", "--method.name=semi_async", "--run.rounds=12", "--window.min_updates=2",
                          "--window.max_staleness=0", "--window.stale=drop")
        outcome, version = self.column(run, "outcome"), self.column(run, "merged_version")
        self.assertIn(b"dropped_stale", outcome)
        self.assertTrue((version[outcome == b"dropped_stale"] == -1).all())
        self.assertEqual(self.column(run, "updates_dropped", "rounds").sum(),
                         np.sum(outcome == b"dropped_stale"))

    def test_over_selection_does_not_wait_for_the_slowest(self):
        run = self.run_ok("a", "--clients.per_round=4", "--clients.over_select=1.5",
                          "--window.min_updates=4", "--run.rounds=6")
        np.testing.assert_array_equal(self.column(run, "updates_merged", "rounds"), [4] * 6)
        sent = self.column(run, "sent_s")
        self.assertEqual(np.sum(sent == 0), 6)

    def test_round_robin_serves_everybody_equally(self):
        run = self.run_ok("a", "--clients.per_round=2", "--clients.sampling=round_robin",
                          "--run.rounds=7")
        np.testing.assert_array_equal(np.bincount(self.column(run, "client")), [2] * 7)


if __name__ == "__main__":
    unittest.main()
