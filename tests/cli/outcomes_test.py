"""Failures of clients are reported: once for each device class on the terminal and in log.txt, counted by `info` and
in the last line; before the run, by --check. The expected values come from /tasks."""

import os
import re
import sys
import unittest
from collections import Counter

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

INPUT = """
[run]
name = failing
rounds = 5
[data]
name = synthetic
synthetic_samples = 400
synthetic_shape = 1, 10, 10
[model]
name = mlp
hidden = 24
[method]
name = fedrolex             # the window rolls, so that a client is sent another submodel each time
levels = fixed
widths = 0.75
[clients]
count = 9
fleet = 2*fast, 4*slow, 3*tiny
[device.fast]
gflops = 2
[device.slow]
gflops = 0.5
[device.tiny]
gflops = 1
memory_mb = 0.015
[faults]
clients = 0, 3, 4
crash = 0.4
not_finite = 0.5
[train]
batch = 10
lr = 0.05
[checkpoint]
every = 1
"""
WORDS = {"out_of_memory": "ran out of memory", "crashed": "crashed", "rejected": "not finite"}
DEVICES = ["fast"] * 2 + ["slow"] * 4 + ["tiny"] * 3


class FailingClients(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("failing.ini", INPUT)

    def rows(self, run):
        """Returns (finished_s, client, outcome, base_version) of each task, in the order of events."""
        names = "finished_s", "client", "outcome", "base_version"
        return sorted(zip(*(self.column(run, name) for name in names)))

    def expected(self, rows):
        """Returns {(device, outcome): client} of the first failures."""
        first = {}
        for _, client, outcome, _ in rows:
            if outcome.decode() in WORDS:
                first.setdefault((DEVICES[client], outcome.decode()), int(client))
        return first

    def warned(self, text):
        """Returns the same from the warnings of the program; each must occur once."""
        found = {}
        for client, device, rest in re.findall(r"warning: client (\d+) \((\w+)\) (.*)", text):
            kind = [outcome for outcome, words in WORDS.items() if words in rest]
            self.assertEqual(len(kind), 1, rest)
            self.assertNotIn((device, kind[0]), found, text)
            found[device, kind[0]] = int(client)
        return found

    def fields(self, line):
        return dict(word.split("=", 1) for word in line.removeprefix("done: ").split(" "))

    def start(self, name, ranks=1, env=None, *settings):
        return self.espalier("run", self.input, f"--run.name={name}", *settings, ranks=ranks, env=env)

    def test_terminal_log_info_and_last_line_tell_of_them(self):
        done = self.start("one")
        run = self.path("runs", "one")
        rows = self.rows(run)
        counts = Counter(outcome.decode() for _, _, outcome, _ in rows)
        expected = self.expected(rows)
        # The faults occurred, on more than one class.
        self.assertEqual({outcome for _, outcome in expected}, set(WORDS))
        self.assertEqual(counts["out_of_memory"], 3 * 5)
        self.assertGreater(len(expected), 3)
        self.assertEqual(self.warned(done.stderr), expected)
        with open(os.path.join(run, "log.txt")) as log:
            self.assertEqual(self.warned(log.read()), expected)
        line = done.stdout.strip().splitlines()[-1]
        fields = self.fields(line)
        for outcome in WORDS:
            self.assertEqual(int(fields[outcome]), counts[outcome], line)
        self.assertTrue(line.endswith(" run=runs/one"), line)
        info = self.espalier("info", os.path.join(run, "run.h5")).stdout
        said = re.search(r"task outcomes +(.*)", info).group(1)
        self.assertEqual({word.split()[0]: int(word.split()[1]) for word in said.split(", ")}, counts)
        # The same on three ranks, and after a kill.
        other = self.start("three", 3)
        self.assertEqual(self.warned(other.stderr), expected)
        killed = self.start("killed", 1, {"ESPALIER_KILL_AT": "round.merged:4"})
        self.assertNotEqual(killed.returncode, 0)
        again = self.start("killed")
        self.assertIn("resuming from version", again.stdout)
        # Failures before the checkpoint are not reported again.
        version = int(re.search(r"resuming from version (\d+)", again.stdout).group(1))
        self.assertGreater(version, 0)
        early = self.expected([row for row in rows if row[3] < version])
        late = {key: client for key, client in expected.items() if key not in early}
        self.assertEqual(self.warned(again.stderr), late)
        self.assertLessEqual(early.items(), self.warned(killed.stderr).items())
        for job in other, again:
            same = self.fields(job.stdout.strip().splitlines()[-1])
            for name in "wall_s", "run":
                same.pop(name)
            self.assertEqual(same, {key: fields[key] for key in fields if key not in ("wall_s", "run")})
        # A finished run prints its last line again.
        self.assertEqual(self.start("one").stdout.strip(), line)

    def test_what_is_said_to_be_needed_is_enough_and_then_nothing_is_said(self):
        capped = self.start("capped", 1, None, "--faults.crash=0", "--faults.not_finite=0", "--run.rounds=1")
        client, needed, cap = re.search(
            r"client (\d) \(tiny\) ran out of memory: ([\d.]+) MB needed, cap ([\d.]+) MB", capped.stderr).groups()
        self.assertEqual(float(cap), 0.015)
        # The printed number is rounded to a thousandth.
        quiet = self.start("quiet", 1, None, f"--device.tiny.memory_mb={float(needed) + 0.0005}", "--faults.crash=0",
                           "--faults.not_finite=0")
        self.assertEqual(self.warned(quiet.stderr), {})
        run = self.path("runs", "quiet")
        peak = self.column(run, "peak_bytes")[self.column(run, "client") == int(client)].max() * 1e-6
        self.assertLessEqual(float(needed) - 0.0005, 1.25 * peak)  # the cost model's promise
        line = quiet.stdout.strip().splitlines()[-1]
        self.assertEqual(list(self.fields(line))[-2:], ["down_mb", "run"])

    def test_check_counts_the_clients_that_cannot_hold_their_task(self):
        def last(*settings):
            done = self.espalier("run", self.input, "--check", *settings)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout.strip().splitlines()[-1]

        self.assertRegex(last(), r"3 of 9 clients cannot hold their task \(tiny\)")
        self.assertRegex(last("--device.slow.memory_mb=0.016"), r"7 of 9 clients cannot hold their task \(slow, tiny\)")
        self.assertRegex(last("--device.tiny.memory_mb=1"), r"all 9 clients can hold their task")


if __name__ == "__main__":
    unittest.main()
