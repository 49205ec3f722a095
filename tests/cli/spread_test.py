"""Fleets made by the rates of their links (clients.spread), and how far update times lie apart in any fleet."""

import os
import re
import signal
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

# sigma -> H of ten clients with evenly spaced times 1 to sigma, with three digits (a table computed elsewhere).
EVENLY_SPACED = {2: 0.300, 5: 0.574, 10: 0.707, 20: 0.792}
NANOSECOND = 1e-9

SPREAD = """
[run]
name = spread
rounds = 2
[data]
name = synthetic
synthetic_samples = 600
synthetic_shape = 1, 12, 12
[model]
name = mlp
hidden = 32, 16
[clients]
count = 10
fleet = node
spread = linear
[device.node]
gflops = 1.5
down_mbps = 30
up_mbps = 7
latency_ms = 4
[train]
batch = 10
"""


class SpreadTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("spread.ini", SPREAD)

    def checked(self, *settings):
        """Returns shortest, longest, sigma and H of the line of --check."""
        done = self.espalier("run", self.input, "--check", *settings)
        self.assertEqual(done.returncode, 0, done.stderr)
        line = re.search(r"^updates  of the full model take (\S+) to (\S+) s, sigma (\S+), H (\S+)$", done.stdout, re.M)
        self.assertIsNotNone(line, done.stdout)
        return [float(value) for value in line.groups()]

    def update_times(self, run):
        """Returns the update time of each client, and checks that all its tasks have it."""
        tasks = self.table(run)
        times = tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"]
        np.testing.assert_allclose(times, tasks["finished_s"] - tasks["sent_s"], rtol=0, atol=NANOSECOND)
        own = np.array([times[tasks["client"] == client][0] for client in range(tasks["client"].max() + 1)])
        np.testing.assert_allclose(times, own[tasks["client"]], rtol=0, atol=NANOSECOND / 10)
        return own

    def assert_recorded(self, run, times):
        """Compares /method/fleet with these update times."""
        found = {name: values.tolist() for name, values in self.table(run, "method/fleet").items()}
        self.assertEqual({name: len(values) for name, values in found.items()},
                         dict.fromkeys(("shortest_s", "longest_s", "sigma", "heterogeneity"), 1))
        expected = {"shortest_s": times.min(), "longest_s": times.max(), "sigma": times.max() / times.min(),
                    "heterogeneity": np.mean(1 - times.min() / times)}
        for name, value in expected.items():
            self.assertAlmostEqual(found[name][0], value, delta=1e-12 * max(1, value), msg=name)


class Linear(SpreadTest):
    def test_sigma_and_h_have_their_closed_forms(self):
        for sigma, h in EVENLY_SPACED.items():
            shortest, longest, found_sigma, found_h = self.checked(f"--clients.sigma={sigma}")
            self.assertEqual(found_sigma, sigma)
            self.assertAlmostEqual(found_h, h, delta=0.0006)  # both are rounded
            self.assertAlmostEqual(longest / shortest, sigma, delta=2e-3 * sigma)  # four digits each
        self.assertEqual(self.checked("--clients.sigma=1")[2:], [1, 0])

    def test_each_update_takes_its_time_with_any_partition(self):
        for name, settings in (("iid", []), ("skewed", ["--data.partition=dirichlet", "--data.alpha=0.3"])):
            run = self.run_ok(name, "--clients.sigma=5", *settings)
            times = self.update_times(run)
            # Download and upload are each rounded to nanoseconds.
            np.testing.assert_allclose(times, times[0] * np.linspace(1, 5, 10), rtol=0, atol=6 * NANOSECOND)
            self.assert_recorded(run, times)
            self.assertAlmostEqual(self.table(run, "method/fleet")["heterogeneity"][0], 0.574, delta=0.0006)
            rounds = self.column(run, "virtual_time_s", "rounds")
            np.testing.assert_allclose(rounds, times[0] * 5 * np.arange(1, 3), rtol=0, atol=12 * NANOSECOND)
            # A client waits for the slowest: 0.4 of the round on average.
            np.testing.assert_allclose(1 - self.column(run, "utilisation", "rounds"), 0.4, rtol=0, atol=1e-6)
            # The rates of the links are those that the clients' messages had.
            tasks, clients = self.table(run), self.table(run, "clients")
            for way in ("down", "up"):
                rate = clients[f"{way}_mbps"][tasks["client"]]
                on_the_link = tasks[f"bytes_{way}"] * 8e-6 / rate + 4e-3
                np.testing.assert_allclose(tasks["download_s" if way == "down" else "upload_s"], on_the_link, rtol=0,
                                           atol=NANOSECOND)
            np.testing.assert_array_equal(clients["up_mbps"], clients["down_mbps"])
        self.assertGreater(len(set(clients["samples"])), 5)

    def test_the_fastest_is_as_fast_as_the_devices_are_on_average(self):
        for settings in ([], ["--data.partition=dirichlet"], ["--clients.fleet=node,slow", "--device.slow.gflops=1"]):
            declared = self.update_times(self.run_ok("declared", "--overwrite", "--clients.spread=none", *settings))
            times = self.update_times(self.run_ok("spread", "--overwrite", "--clients.sigma=3", *settings))
            np.testing.assert_allclose(times, declared.mean() * np.linspace(1, 3, 10), rtol=0, atol=4 * NANOSECOND)

    def test_the_time_of_the_fastest_may_be_given(self):
        times = self.update_times(self.run_ok("a", "--clients.fastest_s=0.75", "--clients.sigma=4", "--clients.count=7"))
        np.testing.assert_allclose(times, 0.75 * np.linspace(1, 4, 7), rtol=0, atol=2 * NANOSECOND)

    def test_a_submodel_takes_less_than_its_time(self):
        settings = ["--method.name=heterofl", "--method.widths=0.5", "--method.proportions=1", "--clients.sigma=6"]
        run = self.run_ok("a", *settings)
        self.assertEqual(self.column(run, "sigma", "method/fleet")[0], 6)
        self.assertTrue((self.update_times(run) < self.column(run, "shortest_s", "method/fleet")[0] *
                         np.linspace(1, 6, 10) * 0.75).all())

    def test_modes_multiply_the_rates(self):
        run = self.run_ok("a", "--device.node.link_modes=0.5", "--clients.sigma=4")
        plain = self.run_ok("b", "--clients.sigma=4")
        self.assertEqual(self.table(run, "method/fleet"), self.table(plain, "method/fleet"))
        a, b = self.table(run), self.table(plain)
        np.testing.assert_array_equal(a["client"], b["client"])
        np.testing.assert_allclose(a["download_s"] - 4e-3, 2 * (b["download_s"] - 4e-3), rtol=0, atol=3 * NANOSECOND)

    def test_the_same_on_any_ranks_and_after_a_kill(self):
        settings = ["--clients.sigma=5", "--data.partition=dirichlet", "--run.rounds=4", "--checkpoint.every=2"]
        one = self.run_ok("one", *settings)
        self.assert_same(one, self.run_ok("three", *settings, ranks=3))
        killed = self.espalier("run", self.input, "--run.name=killed", *settings,
                               env={"ESPALIER_KILL_AT": "round.merged:3"})
        self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr)
        self.assert_same(one, self.run_ok("killed", *settings))
        self.assertEqual(len(self.column(self.path("runs", "killed"), "sigma", "method/fleet")), 1)


class AnyFleet(SpreadTest):
    def test_update_times_are_described(self):
        settings = ["--clients.spread=none", "--clients.fleet=node,slow", "--device.slow.gflops=0.5",
                    "--device.slow.up_mbps=2", "--data.partition=dirichlet"]
        times = self.update_times(self.run_ok("a", *settings))
        self.assert_recorded(self.path("runs", "a"), times)
        expected = [times.min(), times.max(), times.max() / times.min(), np.mean(1 - times.min() / times)]
        np.testing.assert_allclose(self.checked(*settings), expected, rtol=6e-4)  # four digits
        # Methods that send less or make more passes describe the same fleet.
        for method in ("heterofl", "fjord", "fedasync"):
            run = self.run_ok(method, *settings, f"--method.name={method}")
            for name, values in self.table(self.path("runs", "a"), "method/fleet").items():
                self.assertEqual(self.column(run, name, "method/fleet"), values)

    def test_without_the_data_the_times_are_not_known(self):
        done = self.espalier("run", self.input, "--check", "--data.name=mnist", f"--data.dir={self.path('none')}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("updates  times of the full model (and clients.spread) follow from the data\n", done.stdout)


class Refusals(SpreadTest):
    def test_a_client_whose_work_takes_too_long_is_named(self):
        skewed = ["--data.partition=dirichlet", "--data.alpha=0.3", "--clients.sigma=2"]
        run = self.run_ok("declared", "--clients.spread=none", *skewed[:2])
        tasks = self.table(run)
        work = np.array([tasks["compute_s"][tasks["client"] == client][0] for client in range(10)]) + 8e-3
        needed = work / np.linspace(1, 2, 10)
        worst = int(needed.argmax())
        short = self.assert_refused(2, f"clients.spread gives client {worst} ", "run", self.input, "--run.name=a", *skewed,
                                    f"--clients.fastest_s={needed.max() * 0.999}")
        least = float(re.search(r"set clients.fastest_s above (\S+),", short)[1])
        self.assertAlmostEqual(least, needed.max(), delta=1e-5 * least)
        self.assertIn(f"alone take {work[worst]:.6g} s", short)
        self.assertFalse(os.path.exists(self.path("runs", "a")))
        self.assertAlmostEqual(self.checked(*skewed, f"--clients.fastest_s={needed.max() * 1.001}")[2], 2)

    def test_free_links_leave_no_time_for_a_link(self):
        self.assert_refused(2, "set clients.fastest_s above", "run", self.input, "--check", "--device.node.up_mbps=0",
                            "--device.node.down_mbps=0")

    def test_other_values(self):
        for words, settings in (("clients.sigma", ["--clients.sigma=0.9"]),
                                ("two clients", ["--clients.count=1"]),
                                ("100 years", ["--clients.fastest_s=1e6", "--clients.sigma=1e6"])):
            self.assert_refused(2, words, "run", self.input, "--check", *settings)


if __name__ == "__main__":
    unittest.main()
