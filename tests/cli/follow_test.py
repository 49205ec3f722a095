"""tools/follow.py: on a run that is being written, on finished, stopped and killed runs, in a terminal and in a pipe."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from failing import FailingRunTest  # noqa: E402
from support import finish  # noqa: E402

FOLLOW = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tools", "follow.py")


class FollowTest(FailingRunTest):
    def follow(self, *words, env=None, limit=120):
        return finish(self.begin([sys.executable, FOLLOW, *words], env), limit)

    def in_terminal(self, *words, columns=100, lines=40):
        """Runs the tool in a terminal of that size; returns (status, output)."""
        outer, inner = pty.openpty()
        env = {**os.environ, "COLUMNS": str(columns), "LINES": str(lines), "PYTHONIOENCODING": "utf-8"}
        job = subprocess.Popen([sys.executable, FOLLOW, *words], stdout=inner, stderr=inner, env=env, cwd=self.folder.name)
        os.close(inner)
        output, end = b"", time.monotonic() + 120
        while time.monotonic() < end:
            if select.select([outer], [], [], 0.1)[0]:
                try:
                    output += os.read(outer, 65536)
                except OSError:  # its other end is closed
                    break
        status = job.wait(30)
        os.close(outer)
        return status, output.decode().replace("\r\n", "\n")

    def begin_run(self, *settings):
        """Starts a run; returns (job, its folder) when its file is there."""
        run = self.path("runs", "failing")
        job = self.begin(self.command("run", self.input, "-q", *settings))  # a full pipe would stop it
        while job.poll() is None and not os.path.exists(os.path.join(run, "run.h5")):
            time.sleep(0.02)
        return job, run


class Pipe(FollowTest):
    def test_a_finished_run(self):
        run = self.run_ok("failing")
        done = self.follow(run)
        self.assertEqual(done.returncode, 0, done.stderr)
        last, result = done.stdout.splitlines()
        rounds, seen = self.table(run, "rounds"), self.table(run, "evaluations")
        self.assertTrue(last.startswith("round 8/8 "), last)
        self.assertIn(f"top-1 {seen['top1'][-1]:.4f}", last)
        self.assertIn(f"loss {rounds['train_loss'][-1]:.4f}", last)
        self.assertIn(f"merged {rounds['updates_merged'][-1]} ", last)
        with open(os.path.join(run, "DONE")) as file:
            self.assertEqual(result, file.read().strip())

    def test_a_run_that_goes_on(self):
        job, run = self.begin_run("--run.rounds=150", "--checkpoint.every=50")
        following = self.begin([sys.executable, FOLLOW, run, "--every", "0.1"])
        self.assertEqual(finish(job, 120).returncode, 0)
        done = finish(following, 60)
        self.assertEqual(done.returncode, 0, done.stderr)
        *lines, result = done.stdout.splitlines()
        self.assertTrue(result.startswith("done: rounds=150 "))
        numbers = [int(re.match(r"round (\d+)/150 ", line).group(1)) for line in lines]
        self.assertEqual(numbers, list(range(numbers[0], 151)))  # each round once

    def test_a_stopped_and_a_killed_run(self):
        job, run = self.begin_run("--run.rounds=1000000", "--checkpoint.every=1000000")
        following = self.begin([sys.executable, FOLLOW, run, "--every", "0.1"])
        time.sleep(1)
        self.assertIsNone(following.poll())
        job.send_signal(signal.SIGUSR1)
        self.assertEqual(finish(job, 60).returncode, 85)
        done = finish(following, 60)
        self.assertEqual(done.returncode, 85, done.stderr)
        self.assertRegex(done.stdout.splitlines()[-1], r"^stopped at version \d+ of 1000000")
        job = self.begin(self.command("run", self.input, "-q", "--run.rounds=1000000"))
        while job.poll() is None and not os.path.exists(os.path.join(run, "LOCK")):
            time.sleep(0.02)
        time.sleep(1)
        job.send_signal(signal.SIGKILL)
        job.communicate()
        done = self.follow(run)
        self.assertEqual(done.returncode, 85)
        self.assertIn("killed before its end", done.stdout)

    def test_a_failed_run(self):
        failed = self.espalier("run", self.input, *(f"--device.{d}.memory_mb=0.001" for d in ("fast", "slow", "tiny")))
        self.assertEqual(failed.returncode, 6, failed.stderr)
        done = self.follow(self.path("runs", "failing"))
        self.assertEqual(done.returncode, 1)  # not 85, with which a script would start it again
        self.assertIn("failed: no client can answer", done.stdout)

    def test_a_run_on_another_computer(self):
        # The folder of a run that another computer is writing: a LOCK with another host and a process that is not here.
        run = self.run_ok("failing")
        shutil.move(os.path.join(run, "DONE"), self.path("DONE"))
        with open(os.path.join(run, "LOCK"), "w") as file:
            file.write("another-node 1 1 -\n")
        done = self.follow(run, "--once")
        self.assertIn("running on another-node", done.stdout)
        self.assertIn("left about 0 s", done.stdout)
        following = self.begin([sys.executable, FOLLOW, run, "--every", "0.1"])
        time.sleep(1)
        self.assertIsNone(following.poll())
        shutil.move(self.path("DONE"), os.path.join(run, "DONE"))
        done = finish(following, 30)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.splitlines()[-1].startswith("done: rounds=8 "))

    def test_ascii(self):
        done = self.follow(self.run_ok("failing"), "--once", env={"PYTHONIOENCODING": "ascii"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("#", done.stdout)

    def test_bad_requests_are_one_sentence(self):
        run = self.run_ok("failing")
        for words in ((), (run, "--every", "0"), (run, "--every", "often"), (run, "--no-such-flag")):
            self.assert_sentence(self.follow(*words), 2)
        for path in self.unreadable(run):
            self.assert_sentence(self.follow(path), 3)

    def test_an_empty_run(self):
        run = self.run_ok("failing")
        with h5py.File(os.path.join(run, "run.h5"), "r+") as file:
            for table in ("rounds", "tasks", "evaluations"):
                for column in file[table].values():
                    column.resize(0, axis=0)
        for words in ((run,), (run, "--once")):
            done = self.follow(*words)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("round 0/8", done.stdout)


class Terminal(FollowTest):
    def test_the_picture_of_the_clients(self):
        run = self.run_ok("failing")
        status, output = self.in_terminal(run)
        self.assertEqual(status, 0, output)
        tasks, ends = self.table(run), self.column(run, "virtual_time_s", "rounds")
        begin, end = ends[-6], ends[-1]
        self.assertIn("last 5 rounds", output)
        shown = re.findall(r"^client (\d+) \((\w+)\) +(.*?) +(\d+) % busy  (.*)$", output, re.M)
        self.assertEqual([int(row[0]) for row in shown], list(range(10)))
        for client, device, strip, busy, word in shown:
            mine = np.flatnonzero(tasks["client"] == int(client))
            start = tasks["sent_s"][mine]
            stop = np.minimum(start + sum(tasks[p + "_s"][mine] for p in ("download", "compute", "upload")), tasks["finished_s"][mine])
            worked = np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0, None).sum()
            self.assertAlmostEqual(int(busy), 100 * worked / (end - begin), delta=0.51, msg=client)
            self.assertEqual("█" in strip or "▒" in strip or "░" in strip, worked > 0.03 * (end - begin), (client, strip))
            last = mine[np.argmax(tasks["finished_s"][mine])]
            if tasks["outcome"][last] == b"merged":
                self.assertEqual(word, f"merged in {tasks['merged_version'][last]}")
        failed = int((tasks["outcome"] == b"out_of_memory").sum())
        self.assertIn(f"{failed} out of memory", output)

    def test_it_fits_the_terminal(self):
        run = self.run_ok("failing")
        for columns, lines in ((60, 12), (40, 8), (40, 24), (80, 24), (200, 60), (1, 1), (20, 4)):
            status, output = self.in_terminal(run, columns=columns, lines=lines)
            self.assertEqual(status, 0, output)
            self.assertLess(max(map(len, output.splitlines())), max(columns, 2))
            self.assertLess(len(output.splitlines()), max(lines, 2))
            if lines >= 24:  # no part is cut
                for word in (r"virtual \S+ s", r"wall \S+ m?s", "utilisation \\d+ %", "blank: not known", r"up_mb=\S+"):
                    self.assertRegex(output, word)

    def test_a_run_that_goes_on_is_drawn_in_place(self):
        job, run = self.begin_run("--run.rounds=300", "--checkpoint.every=100")
        status, output = self.in_terminal(run, "--every", "0.2")
        self.assertEqual(status, 0, output)
        self.assertEqual(finish(job, 60).returncode, 0)
        frames = re.split(r"\x1b\[\d+A\r\x1b\[J", output)
        self.assertGreater(len(frames), 1)
        self.assertIn("running on this machine", frames[0])
        self.assertIn("left about", "".join(frames[:-1]))
        self.assertNotIn("left about", frames[-1])
        self.assertIn("round 300/300", frames[-1])
        done = [int(re.search(r"round (\d+)/300", frame).group(1)) for frame in frames]
        self.assertEqual(done, sorted(done))


if __name__ == "__main__":
    unittest.main()
