"""Devices: the catalogue, widths fitted to the memory, availability, injected faults."""

import os
import re
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class DevicesTest(ProgramTest):
    def outcomes(self, run):
        names, counts = np.unique(self.column(run, "outcome"), return_counts=True)
        return {name.decode(): int(count) for name, count in zip(names, counts)}

    def assert_each_task_once(self, run):
        task = self.column(run, "task")
        np.testing.assert_array_equal(np.sort(task), np.arange(len(task)))


class Catalogue(DevicesTest):
    def test_a_fleet_of_the_catalogue(self):
        run = self.run_ok("a", "--clients.fleet=3*tx2,4*agx-orin", "--device.tx2.up_mbps=7")
        gflops = self.column(run, "gflops", "clients")
        self.assertEqual(list(gflops[:3]), [200] * 3)
        self.assertEqual(list(gflops[3:]), [1597] * 4)
        self.assertEqual(self.column(run, "up_mbps", "clients")[0], 7)
        again = self.espalier("run", os.path.join(run, "config.ini"), "--run.name=b")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assert_same(run, self.path("runs", "b"))

    def test_every_class_is_listed_and_names_its_source(self):
        with open(os.path.join(os.environ["ESPALIER_INPUTS"], "devices.ini"), encoding="utf-8") as file:
            sections = re.findall(r"^\[device\.([^]]+)\] *(# *[A-Z].{15,})?$", file.read(), re.M)
        self.assertGreater(len(sections), 10)
        listed = self.espalier("list", "devices").stdout
        for name, source in sections:
            self.assertTrue(source, f"{name} has no source beside its name")
            self.assertRegex(listed, rf"(?m)^{name} ")
        self.assertEqual(listed.count("\n"), len(sections) + 1)  # and the laptop, which the program knows

    def test_the_link_of_a_region_is_the_median_of_those_measured(self):
        # Tokyo with the nine other sites, as measured: Mbit/s to it, from it, and ms of a ping.
        down = [861, 535, 696, 1100, 1010, 761, 366, 360, 465]
        up = [523, 524, 694, 1110, 1050, 807, 441, 212, 460]
        ping = [97, 143, 130, 34, 73, 100, 210, 223, 199]
        run = self.run_ok("a", "--clients.fleet=2*region-tokyo,5*laptop", "--run.rounds=1")
        for name, wanted in (("down_mbps", np.median(down)), ("up_mbps", np.median(up)), ("latency_ms", np.median(ping) / 2)):
            np.testing.assert_array_equal(self.column(run, name, "clients")[:2], [wanted] * 2)


class MemoryFit(DevicesTest):
    SETTINGS = ["--method.name=heterofl", "--clients.memory_fit=width", "--model.hidden=300,200"]

    def test_no_client_runs_out_of_memory_and_a_larger_width_would(self):
        for method in ("heterofl", "fedrolex"):
            run = self.run_ok(method, *self.SETTINGS, f"--method.name={method}",
                              "--device.slow.memory_mb=0.2", "--device.fast.memory_mb=0.6",
                              "--run.rounds=6")
            self.assertEqual(set(self.outcomes(run)), {"merged"})
            share, cap = self.column(run, "share"), self.column(run, "cap_bytes")
            peak = self.column(run, "peak_bytes")
            self.assertTrue((peak <= cap).all())
            self.assertLess(share[cap == 200000].max(), share[cap == 600000].min())
            # The prediction of the cost model is at most a quarter above the measured peak.
            self.assertGreater((peak / cap).min(), 0.7)

    def test_a_device_too_small_is_refused_by_name(self):
        self.assert_refused(2, "device.slow.memory_mb", "run", self.input, *self.SETTINGS,
                            "--device.slow.memory_mb=0.001")
        self.assertFalse(os.path.exists(self.path("runs")))

    def test_a_rule_without_widths_is_refused(self):
        self.assert_refused(2, "method.submodel", "run", self.input, "--clients.memory_fit=width")

    def test_without_fitting_the_client_runs_out_of_memory_and_the_run_continues(self):
        run = self.run_ok("a", "--device.slow.memory_mb=0.02")
        outcome, client = self.column(run, "outcome"), self.column(run, "client")
        self.assertEqual(set(client[outcome == b"out_of_memory"]), {3, 4, 5, 6})
        self.assertTrue((self.column(run, "asked_bytes")[outcome == b"out_of_memory"] > 0).all())


class MemoryCap(DevicesTest):
    """Two clients of one batch each and equal peaks, each with a device class of its own."""

    SETTINGS = ("--clients.count=2", "--clients.fleet=fast,slow", "--data.partition=iid")

    def by_client(self, run, name):
        return self.column(run, name)[np.argsort(self.column(run, "client"), kind="stable")]

    def capped(self, name, cap, ranks=1):
        return self.run_ok(name, *self.SETTINGS, "--run.rounds=1",
                           f"--device.slow.memory_mb={cap / 1e6:.6f}", ranks=ranks)

    def test_the_peak_is_enough_and_one_byte_less_is_not(self):
        free = self.run_ok("free", *self.SETTINGS, "--run.rounds=1")
        peak = int(self.by_client(free, "peak_bytes")[1])
        enough = self.capped("enough", peak)
        self.assertEqual(list(self.by_client(enough, "outcome")), [b"merged", b"merged"])
        reference = self.capped("one", peak - 1)
        self.assertEqual(list(self.by_client(reference, "outcome")), [b"merged", b"out_of_memory"])
        asked = int(self.by_client(reference, "asked_bytes")[1])
        self.assertTrue(0 < asked < peak)
        self.assertLess(self.by_client(reference, "peak_bytes")[1], peak)
        for ranks in (2, 3):
            self.assert_same(reference, self.capped(f"on{ranks}", peak - 1, ranks))

    def test_others_on_the_rank_do_not_notice(self):
        with_failure = self.capped("capped", 20000)
        free = self.run_ok("free", *self.SETTINGS, "--run.rounds=1")
        for name in ("peak_bytes", "train_loss", "compute_s", "steps"):
            self.assertEqual(self.by_client(with_failure, name)[0], self.by_client(free, name)[0])


class OutOfMemoryTime(DevicesTest):
    """A client that runs out of memory ends its task with the step in which it does, and sends a short message. Its class
    has the slowest links, so that its end is the end of the round."""

    SETTINGS = ("--data.partition=iid", "--data.synthetic_samples=700", "--train.batch=20", "--train.epochs=2",
                "--clients.fleet=4*fast,3*slow", "--device.fast.up_mbps=900", "--device.slow.down_mbps=1.7",
                "--device.slow.up_mbps=0.3", "--device.slow.latency_ms=21", "--checkpoint.every=1", "--run.rounds=4")

    def start(self, name, *settings, ranks=1, env=None):
        return self.espalier("run", self.input, f"--run.name={name}", *self.SETTINGS, *settings, ranks=ranks, env=env)

    def closed_form(self, run, free, steps, server=0):
        """Returns the end of each first task of a slow client that begins `steps` steps of the ten, from the costs of the
        run in which it has the memory."""
        slow = self.column(free, "client")[:7] >= 4
        flops = self.column(free, "flops")[:7][slow] / 10 * steps
        down = self.column(free, "bytes_down")[:7][slow]
        short = self.column(run, "bytes_up")[self.column(run, "outcome") == b"out_of_memory"][:3]
        self.assertLess(short.max(), 300)
        return 2 * 0.021 + down * 8 / 1.7e6 + flops / 0.5e9 + short * 8 / 0.3e6 + server

    def test_the_round_ends_with_the_step_that_ran_out(self):
        free = self.run_ok("free", *self.SETTINGS)
        peak = int(self.column(free, "peak_bytes")[self.column(free, "client") == 5][0])
        capped = f"--device.slow.memory_mb={(peak - 1) / 1e6:.6f}"
        run = self.run_ok("a", *self.SETTINGS, capped)
        failed = self.column(run, "outcome") == b"out_of_memory"
        self.assertEqual(set(self.column(run, "client")[failed]), {4, 5, 6})
        self.assertEqual(set(self.column(run, "steps")[failed]), {0})  # none ended, one began
        self.assertEqual(set(self.column(free, "steps")), {10})
        ends = self.closed_form(run, free, 1)
        np.testing.assert_allclose(self.column(run, "finished_s")[failed], ends, atol=3e-9)
        times = self.column(run, "virtual_time_s", "rounds")
        np.testing.assert_allclose(times[0], ends.max(), atol=3e-9)
        self.assertLess(times[0], 0.6 * self.column(free, "virtual_time_s", "rounds")[0])
        # The others are charged as before.
        np.testing.assert_array_equal(self.column(run, "compute_s")[~failed][:4], self.column(free, "compute_s")[:4])
        for ranks in (2, 3, 5):
            self.assert_same(run, self.run_ok(f"on{ranks}", *self.SETTINGS, capped, ranks=ranks))
        killed = self.start("killed", capped, env={"ESPALIER_KILL_AT": "checkpoint.renamed:2"})
        self.assertNotEqual(killed.returncode, 0)
        self.assertIn("resuming from version", self.start("killed", capped).stdout)
        self.assert_same(run, self.path("runs", "killed"))

    def test_a_client_whose_weights_do_not_fit_begins_no_step(self):
        free = self.run_ok("free", *self.SETTINGS, "--run.rounds=1")
        run = self.run_ok("a", *self.SETTINGS, "--device.slow.memory_mb=0.01", "--run.rounds=1")
        failed = self.column(run, "outcome") == b"out_of_memory"
        self.assertEqual(self.column(run, "compute_s")[failed].max(), 0)
        self.assertEqual(self.column(run, "flops")[failed].max(), 0)
        np.testing.assert_allclose(self.column(run, "finished_s")[failed], self.closed_form(run, free, 0), atol=3e-9)

    def test_tasks_that_wait_for_the_result_resume(self):
        # A window that closes while slow clients are still at work, and queues of the server.
        settings = ("--method.name=fedbuff", "--window.min_updates=2", "--window.deadline_s=0.3", "--run.rounds=9",
                    "--server.up_mbps=3", "--server.gflops=0.01", "--faults.crash=0.2", "--faults.late=0.3")
        free = self.run_ok("free", *self.SETTINGS, *settings)
        peak = int(self.column(free, "peak_bytes").max())
        settings += (f"--device.slow.memory_mb={(peak - 7) / 1e6:.6f}",)
        run = self.run_ok("a", *self.SETTINGS, *settings)
        outcomes = self.outcomes(run)
        self.assertGreater(outcomes["out_of_memory"], 1, outcomes)
        self.assertGreater(outcomes["merged"], 10, outcomes)
        self.assert_each_task_once(run)
        self.assert_same(run, self.run_ok("on3", *self.SETTINGS, *settings, ranks=3))
        for version in (1, 4, 7):
            name = f"killed{version}"
            self.start(name, *settings, env={"ESPALIER_KILL_AT": f"checkpoint.renamed:{version}"})
            self.assertIn("resuming from version", self.start(name, *settings).stdout)
            self.assert_same(run, self.path("runs", name))

    def test_a_bound_above_the_cap_changes_nothing_for_a_task_that_fits(self):
        # A cap of exactly the peak is below the bound: the end of the task is open until its result is known.
        settings = ("--method.name=fedasync", "--run.rounds=12", "--server.up_mbps=2", "--run.name=same")
        free = self.run_ok("same", *self.SETTINGS, *settings)
        table = self.table(free)
        peak = int(table["peak_bytes"].max())
        os.rename(self.path("runs"), self.path("free"))
        capped = self.table(self.run_ok("same", *self.SETTINGS, *settings, f"--device.slow.memory_mb={peak / 1e6:.6f}"))
        for name, values in table.items():
            if name not in ("cap_bytes", "wall_compute_s", "rank"):
                np.testing.assert_array_equal(values, capped[name], name)


class Centuries(DevicesTest):
    """Emulated time never wraps around: beyond 100 years the run ends with a sentence, or a client does not return."""

    def test_the_sum_of_tasks_ends_with_the_option(self):
        # About 8 and 9 years for each round.
        for slow, options in ((("--device.slow.latency_ms=1.3e11",), ("device.*.down_mbps", "latency_ms")),
                              (("--device.slow.overhead_us=1.1e13",), ("device.*.gflops",))):
            with self.subTest(slow):
                name = f"run{len(options)}"
                words = self.assert_refused(2, "emulated time would pass 100 years", "run", self.input,
                                            f"--run.name={name}", "--run.rounds=60", "--data.partition=iid", *slow)
                for option in options:
                    self.assertIn(option, words)
                times = self.column(self.path("runs", name), "virtual_time_s", "rounds")
                self.assertGreater(len(times), 2)
                self.assertTrue((np.diff(times) > 0).all() and times[0] > 0)

    def test_a_client_that_vanishes_for_longer_does_not_return(self):
        settings = ("--faults.vanish=0.5", "--faults.vanish_tasks=900000", "--device.slow.latency_ms=3e10",
                    "--device.fast.latency_ms=3e10", "--run.rounds=50")
        self.assert_refused(6, "none of the 7 clients is available", "run", self.input, *settings)
        times = self.table(self.path("runs", "small"))["finished_s"]
        self.assertTrue((times > 0).all() and (times < 3.2e9).all())

    def test_periods_of_availability_end_too(self):
        self.assert_refused(6, "none of the 7 clients is available", "run", self.input, "--device.slow.availability=0",
                            "--device.fast.availability=0", "--clients.availability_period_s=9e8")

    def test_regions_end_with_the_option(self):
        for settings, option in ((["--device.fast.latency_ms=2e11", "--device.slow.latency_ms=2e11"], "latency_ms"),
                                 (["--device.fast.overhead_us=4e13", "--device.slow.overhead_us=4e13"], "gflops")):
            self.assert_refused(2, option, "run", self.input, "--method.name=diloco", "--run.rounds=400",
                                f"--run.name={option}", "--regions.period=3", *settings)


class NoClientCanAnswer(DevicesTest):
    """The sentence tells what is in the way: memory, availability, or both."""

    def test_all_are_unavailable(self):
        words = self.assert_refused(6, "none of the 7 clients is available", "run", self.input,
                                    "--device.slow.availability=0", "--device.fast.availability=0")
        self.assertNotIn("memory", words)

    def test_none_has_the_memory(self):
        words = self.assert_refused(6, "none of the 7 clients has the memory", "run", self.input,
                                    "--device.slow.memory_mb=0.01", "--device.fast.memory_mb=0.012")
        self.assertNotIn("availab", words)

    def test_some_lack_the_memory_and_the_others_are_away(self):
        words = self.assert_refused(6, "4 of the 7 clients lack the memory", "run", self.input,
                                    "--device.slow.memory_mb=0.01", "--device.fast.availability=0")
        self.assertIn("not available", words)


class Utilisation(DevicesTest):
    def test_one_straggler_leaves_the_others_waiting(self):
        # N equal clients; the whole task of one takes four times as long.
        equal = ("--data.partition=iid", "--device.node.gflops=1", "--device.node.down_mbps=0",
                 "--device.node.up_mbps=0", "--device.node.latency_ms=0", "--faults.late=1",
                 "--faults.late_factor=4", "--faults.clients=0")
        for count in (4, 5, 12):
            run = self.run_ok(f"sync-{count}", *equal, f"--clients.count={count}",
                              f"--clients.fleet={count}*node", f"--data.synthetic_samples={60 * count}")
            np.testing.assert_allclose(self.column(run, "utilisation", "rounds"),
                                       (count - 1 + 4) / (4 * count), rtol=1e-9)
        # A merge after half of the updates with new work at once: no client waits. (If two windows close at
        # the same time, one has no length and so no utilisation.)
        run = self.run_ok("semi", *equal, "--clients.count=12", "--clients.fleet=12*node",
                          "--data.synthetic_samples=720", "--window.min_updates=6",
                          "--window.release=arrival", "--run.rounds=20")
        found = self.column(run, "utilisation", "rounds")
        np.testing.assert_allclose(found[~np.isnan(found)], 1, rtol=1e-9)
        self.assertGreater((~np.isnan(found)).sum(), 5)


class Faults(DevicesTest):
    def test_crashes(self):
        run = self.run_ok("a", "--faults.crash=0.3", "--run.rounds=8")
        found = self.outcomes(run)
        self.assertGreater(found["crashed"], 0)
        self.assertGreater(found["merged"], 0)
        self.assert_each_task_once(run)
        crashed = self.column(run, "outcome") == b"crashed"
        self.assertTrue((self.column(run, "bytes_up")[crashed] == 0).all())

    def test_chosen_clients_alone(self):
        run = self.run_ok("a", "--faults.crash=1", "--faults.clients=2,5")
        outcome, client = self.column(run, "outcome"), self.column(run, "client")
        self.assertEqual(set(client[outcome == b"crashed"]), {2, 5})
        self.assertEqual(set(client[outcome == b"merged"]), {0, 1, 3, 4, 6})

    def test_late_answers_take_their_time(self):
        plain = self.run_ok("plain", "--run.rounds=1")
        late = self.run_ok("late", "--run.rounds=1", "--faults.late=1", "--faults.late_factor=3",
                           "--faults.clients=4")
        order = np.argsort(self.column(plain, "client")), np.argsort(self.column(late, "client"))
        ratio = self.column(late, "compute_s")[order[1]] / self.column(plain, "compute_s")[order[0]]
        np.testing.assert_allclose(ratio, [1, 1, 1, 1, 3, 1, 1], rtol=1e-6)

    def test_second_answers_have_no_effect(self):
        plain = self.run_ok("plain")
        for ranks in (1, 3):
            twice = self.run_ok(f"twice{ranks}", "--faults.twice=1", ranks=ranks)
            self.assertTrue((self.column(twice, "duplicates") == 1).all())
            compared = self.espalier("diff", "--values", self.checkpoint(plain), self.checkpoint(twice))
            self.assertEqual(compared.returncode, 0, compared.stdout)

    def test_values_that_are_not_finite_are_rejected(self):
        run = self.run_ok("a", "--faults.not_finite=0.3", "--run.rounds=8")
        found = self.outcomes(run)
        self.assertGreater(found["rejected"], 0)
        self.assert_refused(5, "not finite", "run", self.input, "--run.name=b",
                            "--faults.not_finite=1")

    def test_clients_that_vanish_come_back(self):
        run = self.run_ok("a", "--faults.vanish=0.3", "--run.rounds=12")
        outcome, client = self.column(run, "outcome"), self.column(run, "client")
        sent, finished = self.column(run, "sent_s"), self.column(run, "finished_s")
        gone = np.flatnonzero(outcome == b"unavailable")
        self.assertGreater(len(gone), 0)
        returned = 0
        for row in gone:
            later = sent[(client == client[row]) & (sent > sent[row])]
            away = finished[row] + 3 * (finished[row] - sent[row])
            self.assertTrue((later >= away - 1e-9).all())
            returned += len(later) > 0
        self.assertGreater(returned, 0)

    def test_a_run_without_a_client_that_can_answer_ends(self):
        self.assert_refused(6, "no client can answer", "run", self.input, "--run.name=crashed", "--faults.crash=1")
        # The message refers to these rows.
        outcomes = self.column(self.path("runs", "crashed"), "outcome")
        self.assertGreater(len(outcomes), 0)
        self.assertTrue((outcomes == b"crashed").all())

    def test_the_same_on_any_ranks(self):
        faults = ["--faults.crash=0.1", "--faults.late=0.2", "--faults.twice=0.2",
                  "--faults.not_finite=0.1", "--faults.vanish=0.1", "--run.rounds=8",
                  "--method.name=semi_async", "--device.slow.availability=0.6",
                  "--clients.availability_period_s=0.01"]
        reference = self.run_ok("one", *faults)
        self.assert_each_task_once(reference)
        for ranks in (2, 3):
            self.assert_same(reference, self.run_ok(f"on{ranks}", *faults, ranks=ranks))


class Modes(DevicesTest):
    def test_speed_and_link_change_at_intervals_of_rounds(self):
        options = ["--device.slow.modes=1,0.5", "--device.slow.link_modes=1,0.25", "--clients.modes_every=4",
                   "--run.rounds=12", "--record.evaluate_every=12"]
        run = self.run_ok("a", *options)
        client, version = self.column(run, "client"), self.column(run, "base_version")
        speed = self.column(run, "flops") / self.column(run, "compute_s")
        upload = self.column(run, "upload_s")
        for who in range(7):
            modes = [speed[(client == who) & (version // 4 == period)] for period in range(3)]
            for mode in modes:
                # Times are rounded to nanoseconds.
                np.testing.assert_allclose(mode, mode[0], rtol=1e-5)
        fast, slow = speed[client < 3], speed[client >= 3]
        np.testing.assert_allclose(fast, fast[0], rtol=1e-5)
        self.assertEqual({round(value / 2.5e8) for value in slow}, {1, 2})
        self.assertEqual(len(np.unique(upload[client < 3])), 1)
        self.assertEqual(len(np.unique(upload[client >= 3])), 2)
        # The columns say what was drawn.
        np.testing.assert_allclose(self.column(run, "mode") * np.where(client < 3, fast[0], slow.max()), speed, rtol=1e-5)
        link = self.column(run, "link_mode")
        np.testing.assert_array_equal(link[client < 3], 1)
        np.testing.assert_array_equal(link[client >= 3] == 1, upload[client >= 3] == upload[client >= 3].min())
        self.assertEqual(set(link), {1, 0.25})
        for ranks in (2, 3):
            self.assert_same(run, self.run_ok(f"on{ranks}", *options, ranks=ranks))


class Availability(DevicesTest):
    def test_only_those_who_are_there_work(self):
        run = self.run_ok("a", "--device.slow.availability=0.5", "--clients.availability_period_s=0.05",
                          "--run.rounds=30", "--record.evaluate_every=30")
        client, sent = self.column(run, "client"), self.column(run, "sent_s")
        periods = np.floor(sent / 0.05)
        rounds = len(np.unique(sent))
        fast = np.bincount(client, minlength=7)[:3]
        slow = np.bincount(client, minlength=7)[3:]
        np.testing.assert_array_equal(fast, [rounds] * 3)
        self.assertTrue((slow < rounds).all() and (slow > 0).all())
        for period in np.unique(periods):  # within a period the same clients are available
            there = [set(client[(sent == moment)]) for moment in np.unique(sent[periods == period])]
            self.assertTrue(all(group == there[0] for group in there))

    def test_a_trace_says_who_is_there(self):
        trace = self.write("trace.txt", "# client begin end\n0 0 0.5\n1 0.5 1\n2 0 0.25\n2 0.75 1\n")
        options = [f"--clients.availability_trace={trace}", "--run.rounds=40", "--record.evaluate_every=40",
                   "--method.name=semi_async"]
        run = self.run_ok("a", *options)
        client, sent = self.column(run, "client"), self.column(run, "sent_s") % 1
        stays = {0: [(0, 0.5)], 1: [(0.5, 1)], 2: [(0, 0.25), (0.75, 1)]}
        for who, moment in zip(client, sent):
            self.assertTrue(any(begin <= moment < end for begin, end in stays[who % 3]), (who, moment))
        self.assertGreater(self.column(run, "sent_s").max(), 1)  # into the second pass over the trace
        self.assertEqual(set(client), set(range(7)))
        for ranks in (2, 3):
            self.assert_same(run, self.run_ok(f"on{ranks}", *options, ranks=ranks))
        self.assert_refused(3, "line 1", "run", self.input, "--run.name=b",
                            f"--clients.availability_trace={self.write('bad.txt', '0 5 1')}")
        self.assertFalse(os.path.exists(self.path("runs", "b")))

    def test_the_clock_moves_to_the_next_available_client(self):
        run = self.run_ok("a", "--device.slow.availability=0.2", "--device.fast.availability=0.2",
                          "--clients.availability_period_s=50", "--run.rounds=20")
        self.assertGreater(self.column(run, "virtual_time_s", "rounds")[-1], 50)


if __name__ == "__main__":
    unittest.main()
