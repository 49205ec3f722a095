"""Clocks, and the links and processor of the server: the time of each task and its parts."""

import heapq
import os
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class ClockTest(ProgramTest):
    def nanoseconds(self, run, name, table="tasks"):
        return np.rint(self.column(run, name, table) * 1e9).astype(np.int64)

    def by_task(self, run, *names):
        order = np.argsort(self.column(run, "task"))
        return [self.column(run, name)[order] for name in names]

    def assert_times_add_up(self, run):
        """The time of each task is the sum of its parts, and events are in order."""
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
        """Compares with a simulation from the sizes alone, in which each update is merged when it arrives."""
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
        # At such a high rate each use rounds to 0 ns.
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


class Paced(ClockTest):
    def test_takes_as_long_as_it_says(self):
        """Thirty emulated seconds of seven clients on one rank, which trains them in turn."""
        slow = ["--method.name=semi_async", "--run.rounds=20", "--device.fast.gflops=0.002",
                "--device.slow.gflops=0.0008", "--record.evaluate_every=20"]
        emulated = self.column(self.run_ok("virtual", *slow), "virtual_time_s", "rounds")[-1]
        self.assertGreater(emulated, 29)
        self.assertLess(emulated, 31)
        for ranks in (1, 2):
            run = self.run_ok(f"on{ranks}", *slow, "--clock.kind=paced", "--clock.scale=0.2",
                              ranks=ranks)
            taken = self.column(run, "wall_time_s", "rounds")
            self.assertLess(abs(taken[-1] / (0.2 * emulated) - 1), 0.03)
            # No line is printed before its time.
            self.assertTrue((taken >= 0.2 * self.column(run, "virtual_time_s", "rounds")).all())
            self.assert_times_add_up(run)
            # Emulated seconds of work take the host milliseconds.
            self.assertLess(np.nanmedian(self.column(run, "wall_compute_s")), 0.1)

    def test_arrivals_come_in_the_order_of_the_virtual_run(self):
        # Each class is an eighth slower than the one before it.
        fleet = ["--clients.fleet=" + ",".join(f"d{i}" for i in (3, 0, 5, 1, 6, 2, 4)),
                 "--data.partition=iid", "--data.synthetic_samples=700",
                 *(f"--device.d{i}.gflops={0.01 * 0.875**i}" for i in range(7))]
        reference = self.run_ok("virtual", *fleet)
        order = self.column(reference, "task")
        self.assertEqual(list(self.column(reference, "client")[:7]), [1, 3, 5, 0, 6, 2, 4])
        for ranks in (1, 3):
            run = self.run_ok(f"on{ranks}", *fleet, "--clock.kind=paced", ranks=ranks)
            np.testing.assert_array_equal(self.column(run, "task"), order)

    def test_a_host_that_falls_behind_says_so(self):
        paced = ["--clock.kind=paced", "--run.rounds=4"]
        for ranks in (1, 3):
            name = f"--run.name=on{ranks}"
            done = self.espalier("run", self.input, *paced, "--clock.scale=1e-5", name, ranks=ranks)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("cannot keep the pace", done.stderr)
            self.assertIn("set clock.scale to at least", done.stderr)
            run = self.path("runs", f"on{ranks}")
            behind = self.column(run, "behind_s")
            self.assertTrue((behind > 0).all())
            # compute_s and upload_s contain the whole lag.
            virtual = self.run_ok(f"virtual{ranks}", "--run.rounds=4")
            sums = {}
            for where in (run, virtual):
                compute, upload = self.by_task(where, "compute_s", "upload_s")
                sums[where] = (compute + upload)[:7]
            np.testing.assert_allclose(sums[run] - sums[virtual],
                                       self.by_task(run, "behind_s")[0][:7], atol=1e-6)
            self.assert_times_add_up(run)

    def test_a_host_that_keeps_up_is_not_blamed(self):
        done = self.espalier("run", self.input, "--clock.kind=paced", "--device.fast.gflops=0.003",
                             "--device.slow.gflops=0.003", "--run.rounds=2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("warning", done.stderr)

    def test_failures_absences_and_queues(self):
        run = self.run_ok("a", "--clock.kind=paced", "--clock.scale=0.5", "--run.rounds=10",
                          "--device.fast.gflops=0.1", "--faults.crash=0.2", "--faults.vanish=0.2",
                          "--faults.twice=0.2", "--device.slow.memory_mb=0.02",
                          "--device.fast.availability=0.7", "--clients.availability_period_s=0.05",
                          "--method.name=fedasync", "--server.down_mbps=30", "--server.gflops=0.002",
                          ranks=2)
        task, outcome = self.column(run, "task"), self.column(run, "outcome")
        np.testing.assert_array_equal(np.sort(task), np.arange(len(task)))
        for one in (b"merged", b"crashed", b"unavailable", b"out_of_memory"):
            self.assertIn(one, outcome)
        self.assert_times_add_up(run)
        self.assertGreater(self.column(run, "server_s").min(), 0)
        taken = self.column(run, "wall_time_s", "rounds")
        self.assertTrue((taken >= 0.5 * self.column(run, "virtual_time_s", "rounds")).all())

    def test_the_window_closes_on_the_real_clock(self):
        run = self.run_ok("a", "--clock.kind=paced", "--window.deadline_s=0.4", "--run.rounds=3",
                          "--device.fast.gflops=0.02", "--device.slow.gflops=0.001", ranks=2)
        np.testing.assert_allclose(self.column(run, "virtual_time_s", "rounds"), [0.4, 0.8, 1.2])
        self.assertEqual(set(self.column(run, "client")[self.column(run, "outcome") == b"merged"]),
                         {0, 1, 2})
        self.assertGreaterEqual(self.column(run, "wall_time_s", "rounds")[0], 0.4)


class Measured(ClockTest):
    def assert_measured(self, run, fast, slow):
        outcome = self.column(run, "outcome")
        self.assertTrue((outcome == b"merged").any())
        self.assert_times_add_up(run)
        done = outcome == b"merged"
        factor = np.where(self.column(run, "client") < 3, fast, slow)
        np.testing.assert_allclose(self.column(run, "compute_s")[done],
                                   (factor * self.column(run, "wall_compute_s"))[done], atol=1e-9)
        task = self.column(run, "task")
        np.testing.assert_array_equal(np.sort(task), np.arange(len(task)))

    def test_records_are_consistent_on_any_ranks(self):
        for ranks in (1, 3):
            for method in ("fedavg", "semi_async", "fedasync"):
                run = self.run_ok(f"{method}{ranks}", f"--method.name={method}", "--run.rounds=8",
                                  "--clock.kind=measured", "--server.up_mbps=20", ranks=ranks)
                self.assert_measured(run, 1, 4)  # the fleet's fastest device is as fast as the host

    def test_the_rate_of_the_host_can_be_given(self):
        run = self.run_ok("a", "--clock.kind=measured", "--clock.host_gflops=6")
        self.assert_measured(run, 3, 12)

    def test_failures_keep_their_scheduled_time(self):
        run = self.run_ok("a", "--clock.kind=measured", "--faults.crash=0.3", "--run.rounds=8")
        crashed = self.column(run, "outcome") == b"crashed"
        self.assertTrue(crashed.any())
        gflops = np.where(self.column(run, "client") < 3, 2, 0.5)
        np.testing.assert_allclose(self.column(run, "compute_s")[crashed],
                                   (self.column(run, "flops") / gflops * 1e-9)[crashed], atol=1e-9)
        self.assert_times_add_up(run)


class Options(ClockTest):
    def test_bad_values_are_refused_by_name(self):
        for key, value in (("clock.kind", "cosmic"), ("clock.scale", "0"), ("clock.scale", "-1"),
                           ("clock.scale", "slow"), ("clock.host_gflops", "-2")):
            self.assert_refused(2, key, "run", self.input, "--clock.kind=paced", f"--{key}={value}")
        self.assertFalse(os.path.exists(self.path("runs")))

    def test_settings_of_another_clock_are_named(self):
        done = self.espalier("run", self.input, "--clock.scale=2", "--clock.host_gflops=2")
        self.assertEqual(done.returncode, 0, done.stderr)
        for key in ("clock.scale", "clock.host_gflops"):
            self.assertIn(f"{key} was given, but nothing reads it", done.stderr)


if __name__ == "__main__":
    unittest.main()
