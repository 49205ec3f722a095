"""Clocks and the server's own links and processor: what time is, and what it is spent on."""

import heapq
import os
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class ClockTest(ProgramTest):
    def column(self, run, name, table="tasks"):
        with h5py.File(os.path.join(run, "run.h5")) as file:
            return file[table][name][()]

    def nanoseconds(self, run, name, table="tasks"):
        return np.rint(self.column(run, name, table) * 1e9).astype(np.int64)

    def by_task(self, run, *names):
        order = np.argsort(self.column(run, "task"))
        return [self.column(run, name)[order] for name in names]

    def assert_times_add_up(self, run):
        """Each task's time is that of its parts, and events come in order."""
        parts = sum(self.nanoseconds(run, name) for name in
                    ("sent_s", "download_s", "compute_s", "upload_s", "server_s"))
        answered = self.column(run, "outcome") != b"unfinished"
        finished = self.nanoseconds(run, "finished_s")
        # Six values, each within half a nanosecond of its integer in double at these sizes.
        np.testing.assert_array_equal(parts[answered], finished[answered])
        self.assertTrue((np.diff(finished[answered]) >= 0).all())


class ServerResources(ClockTest):
    RATES = ["--server.down_mbps=30", "--server.up_mbps=20", "--server.gflops=0.002"]

    def test_the_same_on_any_ranks(self):
        crowd = ["--clients.count=200", "--clients.fleet=1*fast,1*slow", "--data.partition=iid",
                 "--data.synthetic_samples=2000", "--model.hidden=8", "--data.synthetic_shape=20",
                 "--run.rounds=40", "--record.evaluate_every=20", "--clients.per_round=50",
                 "--faults.crash=0.05", "--faults.vanish=0.05", "--method.name=semi_async",
                 "--window.grace_s=0.001", *self.RATES]
        reference = self.run_ok("one", *crowd)
        self.assert_times_add_up(reference)
        for ranks in (2, 3, 5):
            self.assert_same(reference, self.run_ok(f"on{ranks}", *crowd, ranks=ranks))

    def test_queues_are_first_in_first_out(self):
        """Against a simulation of its own, from the sizes alone: each update is merged as it comes."""
        run = self.run_ok("a", "--method.name=fedasync", "--run.rounds=40", *self.RATES)
        task, client = self.column(run, "task"), self.column(run, "client")
        size = {name: {c: set(self.column(run, name)[client == c]) for c in range(7)}
                for name in ("flops", "bytes_down", "parameters")}
        for sizes in size.values():
            for c in sizes:
                self.assertEqual(len(sizes[c]), 1, "all tasks of a client are alike")
                sizes[c] = float(sizes[c].pop())
        answered = self.column(run, "bytes_up") > 0
        bytes_up = float(np.unique(self.column(run, "bytes_up")[answered])[0])

        link = lambda mbps, size: round(size * 8 / mbps * 1e3)  # noqa: E731
        down_free = up_free = processor_free = 0
        events, sent_at, done_at, tasks = [], {}, {}, 0

        def send(c, now):
            nonlocal down_free, tasks
            down_free = max(down_free, now) + link(30, size["bytes_down"][c])
            arrives = (down_free + round(10e6 + size["bytes_down"][c] * 8 / 100 * 1e3) +
                       round(size["flops"][c] / (2 if c < 3 else 0.5)) +
                       round(10e6 + bytes_up * 8 / 20 * 1e3))  # the links of "laptop"
            heapq.heappush(events, (arrives, c, tasks))
            sent_at[tasks] = now
            tasks += 1

        for c in range(7):
            send(c, 0)
        for merge in range(40):
            arrives, c, number = heapq.heappop(events)
            up_free = max(up_free, arrives) + link(20, bytes_up)
            processor_free = max(processor_free, up_free) + round(2 * size["parameters"][c] / 0.002)
            done_at[number] = processor_free
            if merge < 39:
                send(c, processor_free)
        finished, sent = self.nanoseconds(run, "finished_s"), self.nanoseconds(run, "sent_s")
        self.assertEqual(len(task), tasks)
        self.assertEqual({t: s for t, s in zip(task, sent)}, sent_at)
        self.assertEqual({t: f for t, f, a in zip(task, finished, answered) if a}, done_at)
        self.assert_times_add_up(run)
        alone = link(30, size["bytes_down"][0]) + link(20, bytes_up) + round(
            2 * size["parameters"][0] / 0.002)
        self.assertGreater(self.nanoseconds(run, "server_s")[answered].max(), 3 * alone,
                           "nothing ever waited")

    def test_service_is_fair(self):
        for processor in (0.0005, 0.001):
            run = self.run_ok(f"a{processor}", "--method.name=fedasync", "--clients.count=6",
                              "--clients.fleet=", "--data.partition=iid", "--run.rounds=60",
                              f"--server.gflops={processor}")
            outcome, client = self.column(run, "outcome"), self.column(run, "client")
            merge = 2 * self.column(run, "parameters")[0] / processor
            merged = client[outcome == b"merged"]
            self.assertEqual(len(merged), 60)
            waits = self.nanoseconds(run, "server_s")[outcome == b"merged"]
            self.assertGreater(np.sum(waits > 1.5 * merge), 5, "updates do not queue")
            counts = np.zeros(6, int)
            for c in merged:
                counts[c] += 1
                self.assertLessEqual(counts.max() - counts.min(), 1)

    def test_unset_and_unlimited_are_alike(self):
        # At so high a rate each use rounds to no time at all.
        self.assert_same(self.run_ok("unset", "--method.name=semi_async"),
                         self.run_ok("unlimited", "--method.name=semi_async", "--server.gflops=1e12",
                                     "--server.down_mbps=1e12", "--server.up_mbps=1e12"), "--values")

    def test_a_deadline_does_not_wait_for_queued_updates(self):
        run = self.run_ok("a", "--window.deadline_s=0.5", "--server.gflops=0.0001", "--run.rounds=4")
        np.testing.assert_allclose(self.column(run, "virtual_time_s", "rounds")[0], 0.5)
        self.assertLess(self.column(run, "updates_merged", "rounds")[0], 7)
        self.assert_times_add_up(run)

    def test_bad_values_are_refused_by_name(self):
        for key in ("server.gflops", "server.down_mbps", "server.up_mbps"):
            for value in ("-1", "fast"):
                self.assert_refused(2, key, "run", self.input, f"--{key}={value}")
        self.assertFalse(os.path.exists(self.path("runs")))
        self.assert_refused(2, "server.gflops", "run", self.input, "--server.gflops=1e-14")


if __name__ == "__main__":
    unittest.main()
