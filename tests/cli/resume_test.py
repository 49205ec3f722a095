"""Resume: settings that may change, refusals, stops on request, and damaged checkpoints."""

import configparser
import ctypes
import ctypes.util
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ESPALIER, MPIRUN, ProgramTest, finish, read_bytes, write_bytes  # noqa: E402

EVERY = "--checkpoint.every=1"
LONG = ["--run.rounds=100000", "--checkpoint.every=1000", "--record.evaluate_every=100000"]


class Resume(ProgramTest):
    def run_into(self, name, *settings, **where):
        return self.espalier("run", self.input, f"--run.name={name}", *settings, **where)

    def stop_after(self, name, *settings, rounds=1, ranks=1):
        """A run that a kill leaves unfinished, with the checkpoint of `rounds` rounds as its newest."""
        done = self.run_into(name, EVERY, *settings, ranks=ranks,
                             env={"ESPALIER_KILL_AT": f"checkpoint.renamed:{rounds}"})
        self.assertNotEqual(done.returncode, 0)
        return self.path("runs", name)

    def checkpoints(self, run):
        return sorted(os.listdir(os.path.join(run, "checkpoints")))


class GoingOn(Resume):
    def test_more_rounds_equal_a_longer_run(self):
        for method in ("fedavg", "semi_async", "fedasync"):
            with self.subTest(method):
                settings = [f"--method.name={method}", "--clients.per_round=4"]
                straight = self.run_ok(f"{method}_straight", *settings, "--run.rounds=7")
                self.run_ok(method, *settings, "--run.rounds=4")
                longer = self.run_ok(method, *settings, "--run.rounds=7", ranks=2)
                self.assert_same(straight, longer)

    def test_the_checksum_of_the_records(self):
        """Written when the run ends, dropped and renewed when it goes on, and no hindrance to readers."""
        def is_checked(run):
            said = self.espalier("info", os.path.join(run, "run.h5"))
            self.assertEqual(said.returncode, 0, said.stderr)
            return "the checksum of all bytes is right" in said.stdout

        run = self.stop_after("a", "--run.rounds=3", rounds=2)
        self.assertFalse(is_checked(run))
        for rounds in (3, 5):
            run = self.run_ok("a", EVERY, f"--run.rounds={rounds}")
            self.assertTrue(is_checked(run))
            np.testing.assert_array_equal(self.column(run, "round", "rounds"), np.arange(1, rounds + 1))
        path = os.path.join(run, "run.h5")
        with h5py.File(path) as file:
            place = file["tasks/state_bytes"].id.get_chunk_info(0).byte_offset
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\x07")
        for words in (("info", path), ("diff", path, path)):
            self.assert_refused(4, "run.h5 is damaged: the checksum", *words)

    def test_a_finished_run_prints_its_result_again(self):
        self.run_ok("a")
        again = self.run_into("a", ranks=2)
        self.assertEqual(again.returncode, 0)
        self.assertEqual(len(again.stdout.splitlines()), 1)
        self.assertTrue(again.stdout.startswith("done: "))

    def test_values_not_given_keep_the_stored_ones(self):
        straight = self.run_ok("straight", EVERY, "--train.lr=0.01")
        self.stop_after("a", "--train.lr=0.01")
        with open(self.input) as file:
            text = file.read().replace("lr = 0.05\n", "")
        short = self.write("short.ini", text)
        done = self.espalier("run", short, "--run.name=a")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("resuming from version 1", done.stdout)
        self.assert_same(straight, self.path("runs", "a"))

    def test_every_difference_is_named(self):
        self.stop_after("a")
        self.assert_refused(2, "train.lr is '0.05' there and '0.5' here, train.momentum", "run", self.input,
                            "--run.name=a", "--train.lr=0.5", "--train.momentum=0.9", ranks=2)

    def test_options_that_may_change_take_the_new_value(self):
        run = self.stop_after("a", "--run.rounds=5")
        changed = {"run.rounds": "3", "run.target_accuracy": "0.999", "run.virtual_limit": "1000000",
                   "clock.scale": "0.5", "checkpoint.every": "2", "checkpoint.keep": "4", "checkpoint.keep_every": "7",
                   "record.evaluate_every": "3", "record.evaluate_first": "true", "record.evaluate_batch": "250",
                   "data.dir": self.path("elsewhere")}
        done = self.run_into("a", *(f"--{key}={value}" for key, value in changed.items()))
        self.assertEqual(done.returncode, 0, done.stderr)
        config = configparser.ConfigParser()
        config.read(os.path.join(run, "config.ini"))
        self.assertEqual({key: config.get(*key.split(".")) for key in changed}, changed)
        self.assertIn("done: rounds=3 ", done.stdout)

    def test_options_that_are_newer_than_the_run_have_their_defaults(self):
        straight = self.run_ok("straight", EVERY)
        run = self.stop_after("a")
        path = pathlib.Path(run, "config.ini")
        lines = path.read_text().splitlines(True)
        older = [line for line in lines if not line.startswith("nesterov = ")]
        self.assertEqual(len(older), len(lines) - 1)
        path.write_text("".join(older))
        done = self.run_into("a", EVERY)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("resuming from version 1", done.stdout)
        self.assert_same(straight, run)

    def test_never_and_require(self):
        self.assert_refused(2, "holds no run", "run", self.input, "--resume=require")
        self.stop_after("a")
        self.assert_refused(2, "--resume=never", "run", self.input, "--run.name=a", "--resume=never")
        done = self.run_into("a", "--resume=require")
        self.assertEqual(done.returncode, 0, done.stderr)
        # Of a finished run too, whether or not its settings are the same.
        for settings in ([], ["--run.rounds=5"], ["--train.lr=0.7"]):
            self.assert_refused(2, "--resume=never", "run", self.input, "--run.name=a", "--resume=never", *settings, ranks=2)
        self.assert_refused(2, "--resume is auto", "run", self.input, "--resume=maybe")

    def test_a_run_without_checkpoints_begins_again(self):
        straight = self.run_ok("straight")
        self.run_into("a", env={"ESPALIER_KILL_AT": "round.recorded:2"})
        self.assertEqual(self.checkpoints(self.path("runs", "a")), [])
        self.assert_same(straight, self.run_ok("a"))

    def test_the_last_checkpoints_are_kept(self):
        run = self.run_ok("a", EVERY, "--run.rounds=9", "--checkpoint.keep=3", "--checkpoint.keep_every=4")
        self.assertEqual(self.checkpoints(run), [f"ckpt_{v:08}.h5" for v in (4, 7, 8, 9)])


class Size(Resume):
    """Bytes that checkpoints take, as their files have them when they get their names."""

    ROUNDS = 400

    def written(self, rounds, every):
        run = self.run_ok(f"r{rounds}_{every}", f"--run.rounds={rounds}", f"--checkpoint.every={every}",
                          f"--checkpoint.keep={rounds}", "--record.evaluate_every=100000", "--model.hidden=4")
        sizes, models = [], []
        for name in self.checkpoints(run):
            path = os.path.join(run, "checkpoints", name)
            sizes.append(os.path.getsize(path))
            with h5py.File(path) as file:
                models.append(sum(values.size * 4 for values in file["model"].values()) +
                              sum(values.size for group in ("payloads", "updates")
                                  for values in file["tasks"][group].values()))
        return run, sizes, models

    def test_of_a_checkpoint_does_not_grow_with_the_rounds(self):
        _, sizes, _ = self.written(self.ROUNDS, 40)
        self.assertEqual(len(sizes), 10)
        self.assertLess(max(sizes[:-1]), min(sizes[:-1]) + 100)  # the last one has no tasks in flight

    def test_of_all_checkpoints_is_at_most_three_times_the_run_file(self):
        run, sizes, models = self.written(self.ROUNDS, 10)
        journal = os.path.getsize(os.path.join(run, "run.journal"))
        rows = os.path.getsize(os.path.join(run, "run.h5"))
        self.assertLess(journal, rows)
        self.assertLess(journal + sum(sizes) - sum(models), 3 * rows)

    def test_of_clients_without_a_task_are_none(self):
        settings = [EVERY, "--clients.count=30000", "--clients.fleet=", "--clients.per_round=6", "--data.partition=iid",
                    "--data.samples_per_client=2", "--model.hidden=4", "--run.rounds=5", "--method.name=semi_async"]
        straight = self.run_ok("straight", *settings)
        for name in self.checkpoints(straight):
            self.assertLess(os.path.getsize(os.path.join(straight, "checkpoints", name)), 8 * 30000)
        self.assertNotEqual(self.run_into("killed", *settings, env={"ESPALIER_KILL_AT": "round.merged:3"}).returncode, 0)
        self.assert_same(straight, self.run_ok("killed", *settings))


class OtherData(Resume):
    """The user's files change between two starts, or differ between ranks."""

    def write_arrays(self, name, samples=120, flip=(), add=0.0):
        """x.npy and y.npy of `samples` rows from one seed; labels `flip` are changed, and one value is larger by `add`."""
        draw = np.random.default_rng(7)
        x = draw.normal(size=(200, 9)).astype(np.float32)[:samples]
        y = draw.integers(0, 5, size=200)[:samples]
        y[list(flip)] = (y[list(flip)] + 1) % 5
        x[samples // 2, 4] += add
        os.makedirs(self.path(name), exist_ok=True)
        np.save(self.path(name, "x.npy"), x)
        np.save(self.path(name, "y.npy"), y)
        return ["--data.name=arrays", "--data.partition=iid", f"--data.dir={self.path(name)}"]

    def state(self, run):
        """Returns the modification times of the run's files, without the LOCK of the dead owner."""
        return sorted((path, path.stat().st_mtime_ns) for path in pathlib.Path(run).rglob("*")
                      if path.is_file() and path.name != "LOCK")

    def test_is_refused_by_what_differs_and_leaves_the_run(self):
        data = self.write_arrays("data")
        run = self.stop_after("a", *data)
        straight = self.run_ok("straight", EVERY, *data)
        before = self.state(run)
        for words, change in (("different: training labels;", {"flip": (5, 77)}),
                              ("different: training values;", {"add": 1.0}),
                              ("there, 112 here)", {"samples": 124})):
            with self.subTest(words):
                self.write_arrays("data", **change)
                done = self.run_into("a", EVERY, *data)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertIn(words, done.stderr)
                self.assertIn("x.npy", done.stderr)
                self.assertEqual(self.state(run), before)
        # The same data in another folder is accepted.
        shutil.rmtree(self.path("data"))
        moved = self.run_into("a", EVERY, *self.write_arrays("elsewhere"), ranks=2)
        self.assertEqual(moved.returncode, 0, moved.stderr)
        self.assertIn("resuming from version 1", moved.stdout)
        self.assert_same(straight, run)

    def test_other_words_of_the_same_numbers_are_refused(self):
        words = ["the", "the", "the", "cat", "cat", "on"]
        settings = ("--data.name=text", "--data.file=" + self.path("t.txt"), "--data.tokens=words", "--data.length=5",
                    "--data.partition=iid", "--model.name=gpt", "--model.embed=8", "--model.heads=2", "--model.depth=1")
        self.write("t.txt", " ".join(words * 90))
        self.run_ok("a", *settings)
        self.write("t.txt", " ".join(words * 90).replace("cat", "dog"))
        self.assert_refused(2, "different: words", "run", self.input, "--run.name=a", *settings, "--run.rounds=5")

    def test_of_a_run_that_is_made_longer_is_refused(self):
        data = self.write_arrays("data")
        self.run_ok("a", *data)
        self.write_arrays("data", flip=(100,))
        arguments = ("run", self.input, "--run.name=a", *data, "--run.rounds=5")
        said = self.assert_refused(2, "different: training labels", *arguments)
        self.assertTrue(said.endswith("restore the data, choose another run.name or add --overwrite"), said)
        self.assertTrue(os.path.exists(self.path("runs", "a", "DONE")))

    def test_on_another_rank_is_refused(self):
        self.write_arrays("first")
        self.write_arrays("second", flip=(3,))
        program = [ESPALIER, "run", self.input, "--data.name=arrays", "--data.partition=iid"]
        for flags in ([], ["--check"]):
            done = finish(self.begin([MPIRUN, "-n", "1", "env", f"ESPALIER_DATA={self.path('first')}", *program, *flags,
                                      ":", "-n", "2", "env", f"ESPALIER_DATA={self.path('second')}", *program, *flags]),
                          60)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn("of rank 0 on rank 1; different: training labels", errors[0])
            self.assertFalse(os.path.exists(self.path("runs")))


class Stopping(Resume):
    def start(self, name, *settings, ranks, before=()):
        words = ("run", self.input, f"--run.name={name}", *LONG, *settings)
        job = self.begin([*before, *self.command(*words, ranks=ranks)])
        log = pathlib.Path(self.path("runs", name, "log.txt"))
        while not (log.exists() and " round " in log.read_text()):
            self.assertIsNone(job.poll(), "the run ended")
            time.sleep(0.02)
        time.sleep(0.5)
        return job

    def finish(self, name, stopped_at):
        """Resumes for two rounds, and compares with an uninterrupted run of the same length."""
        rounds = [f"--run.rounds={stopped_at + 2}"]
        self.assert_same(self.run_ok(f"straight_{name}", *LONG, *rounds), self.run_ok(name, *LONG, *rounds, ranks=2))

    def stopped_version(self, output):
        line = output.strip().splitlines()[-1]
        self.assertRegex(line, r"^stopped at version \d+ of 100000 \(.*\); start again to resume$")
        return int(line.split()[3])

    def stops_on(self, number, ranks):
        name = f"{signal.Signals(number).name}{ranks}"
        job = self.start(name, ranks=ranks)
        begin = time.monotonic()
        job.send_signal(number)
        done = finish(job, 60)
        self.assertLess(time.monotonic() - begin, 10)
        self.assertEqual((done.returncode, done.stderr), (85, ""), done.stdout)
        self.finish(name, self.stopped_version(done.stdout))

    def test_sigusr1(self):
        self.stops_on(signal.SIGUSR1, 1)
        self.stops_on(signal.SIGUSR1, 3)

    def test_sigterm_and_sigint(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.stops_on(number, 1)
            self.stops_on(number, 3)

    def test_before_the_run_began(self):
        def catches(pid):
            with open(f"/proc/{pid}/status") as file:
                caught = int(re.search(r"SigCgt:\s*(\w+)", file.read()).group(1), 16)
            return caught >> (signal.SIGUSR1 - 1) & 1

        large = ["--data.synthetic_samples=600000"]  # work before the run begins
        for ranks, number in ((1, signal.SIGUSR1), (1, signal.SIGTERM), (1, signal.SIGINT), (3, signal.SIGUSR1),
                              (2, signal.SIGTERM), (4, signal.SIGINT)):
            for moment in ("launch", "load") if ranks > 1 else ("load",):
                with self.subTest(ranks=ranks, number=number, moment=moment):
                    job = self.begin(self.command("run", self.input, *LONG, *large, ranks=ranks))
                    pids = [job.pid] if ranks == 1 or moment == "launch" else []
                    while not (pids and any(map(catches, pids))):
                        self.assertIsNone(job.poll())
                        if not pids or moment == "load" and ranks > 1:
                            found = subprocess.run(["pgrep", "-f", f"^{ESPALIER} run {self.input}"], capture_output=True, text=True)
                            pids = found.stdout.split()
                        time.sleep(0.01)
                    job.send_signal(number)
                    done = finish(job, 60)
                    self.assertEqual((done.returncode, done.stdout), (85, ""), done.stderr)
                    self.assertRegex(done.stderr, r"^stopped (by SIG\w+ )?before the run began; nothing was written, .*\n$")
                    self.assertFalse(os.path.exists(self.path("runs")))

    def test_ctrl_c_in_a_terminal(self):
        words = ["run", self.input, "--run.name=a", *LONG]
        terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
        job = subprocess.Popen([sys.executable, "-c", terminal, *self.command(*words, ranks=2)], cwd=self.folder.name,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        while b"round" not in job.stdout.read1():
            self.assertIsNone(job.poll())
        output, _ = job.communicate(b"\x03", timeout=60)
        self.assertEqual(job.returncode, 85, output)
        self.assertIn(b"start again to resume", output)

    def test_signals_within_a_second_are_one(self):
        job = self.start("echo", ranks=1)
        for number in (signal.SIGSTOP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            job.send_signal(number)  # all are pending at once
        done = finish(job, 60)
        self.assertEqual((done.returncode, done.stderr), (85, ""))
        # timeout signals its command, and then its whole group.
        job = self.start("timeout", ranks=2, before=["timeout", "--preserve-status", "1000"])
        job.send_signal(signal.SIGTERM)
        done = finish(job, 60)
        self.assertEqual((done.returncode, done.stderr), (85, ""), done.stdout)

    def test_a_second_signal_stops_at_once(self):
        job = self.start("twice", EVERY, ranks=2)
        found = subprocess.run(["pgrep", "-f", f"^{ESPALIER} run {self.input}"], capture_output=True, text=True).stdout
        pids = {}
        for pid in map(int, found.split()):
            with open(f"/proc/{pid}/environ", "rb") as file:
                pids[int(re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", file.read()).group(1))] = pid
        os.kill(pids[1], signal.SIGSTOP)  # so that rank 0 cannot end
        os.kill(pids[0], signal.SIGUSR1)
        # Not until "stopped at version": before it, rank 0 waits for rank 1.
        status = pathlib.Path(f"/proc/{pids[0]}/status")
        while re.search(r"ShdPnd:\t0*[1-9a-f]", status.read_text()):
            self.assertIsNone(job.poll())
            time.sleep(0.02)
        time.sleep(1.1)
        os.kill(pids[0], signal.SIGTERM)
        done = finish(job, 30)
        self.assertEqual(done.returncode, 128 + signal.SIGTERM, done.stderr)
        self.assertRegex(done.stderr, r"stopped at once; all results after version \d+ are lost")
        version = int(re.search(r"after version (\d+)", done.stderr).group(1))
        self.assertIn(f"ckpt_{version:08}.h5", self.checkpoints(self.path("runs", "twice")))

    def test_a_run_cut_short_afterwards_is_evaluated(self):
        job = self.start("cut", ranks=1)
        job.send_signal(signal.SIGUSR1)
        version = self.stopped_version(finish(job, 60).stdout)
        run = self.run_ok("cut", *LONG, f"--run.rounds={version}")
        self.assertEqual(list(self.column(run, "version", "evaluations")), [version])

    def test_wall_limit(self):
        done = self.run_into("wall", *LONG, "--wall=00:00:02", ranks=3)
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        self.finish("wall", self.stopped_version(done.stdout))
        slurm = {"SLURM_JOB_END_TIME": str(int(time.time()) + 15)}
        done = self.run_into("job", *LONG, ranks=2, env=slurm)
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        self.stopped_version(done.stdout)
        self.assert_refused(2, "--wall needs hh:mm:ss", "run", self.input, "--wall=90")

    def test_a_stop_within_a_window_loses_nothing(self):
        window = ["--method.name=semi_async", "--window.grace_s=0.001", "--method.submodel=rolling"]
        job = self.start("mid", *window, ranks=2)
        job.send_signal(signal.SIGUSR1)
        version = self.stopped_version(finish(job, 60).stdout)
        rounds = [f"--run.rounds={version + 3}"]
        self.assert_same(self.run_ok("straight", *LONG, *window, *rounds),
                         self.run_ok("mid", *LONG, *window, *rounds))


class Damage(Resume):
    def spoil(self, path, change):
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(change(content))

    def test_a_damaged_checkpoint_is_skipped(self):
        straight = self.run_ok("straight", EVERY)
        killed = self.stop_after("killed", rounds=2)
        newest = self.checkpoints(killed)[-1]
        draw = random.Random(7)
        for number in range(20):
            name = f"cut{number}"
            shutil.copytree(killed, self.path("runs", name))
            length = draw.random()
            self.spoil(self.path("runs", name, "checkpoints", newest),
                       lambda content: content[:int(length * len(content))])
            done = self.run_into(name, EVERY)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(newest, done.stderr)
            self.assertIn("resuming from version 1", done.stdout)
            self.assert_same(straight, self.path("runs", name))

    def test_one_flipped_byte_in_any_dataset_is_seen(self):
        killed = self.stop_after("killed", rounds=2)
        newest = os.path.join(killed, "checkpoints", self.checkpoints(killed)[-1])
        # Flips bytes of each dataset in the file; small datasets are stored among HDF5's own bytes.
        draw = random.Random(7)
        places = {f"byte {number}": draw.randrange(os.path.getsize(newest)) for number in range(40)}

        def look(name, item):
            if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None and item.id.get_storage_size():
                places[name] = item.id.get_offset() + item.id.get_storage_size() // 2

        with h5py.File(newest) as file:
            file.visititems(look)
        self.assertGreater(len(places), 45)
        with open(newest, "rb") as file:
            whole = file.read()
        for name, place in places.items():
            with self.subTest(name):
                with open(newest, "wb") as file:
                    file.write(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
                done = self.espalier("info", newest)
                self.assertEqual(done.returncode, 4, done.stdout)
                self.assertIn("damaged", done.stderr)
        straight = self.run_ok("straight", EVERY)
        done = self.run_into("killed", EVERY)
        self.assertIn("damaged", done.stderr)
        self.assertIn("resuming from version 1", done.stdout)
        self.assert_same(straight, killed)

    def test_without_a_usable_checkpoint_nothing_is_begun(self):
        killed = self.stop_after("killed", rounds=2)
        for name in self.checkpoints(killed):
            self.spoil(os.path.join(killed, "checkpoints", name), lambda content: content[:-1])
        self.assert_refused(4, "no checkpoint in", "run", self.input, "--run.name=killed", EVERY)

    def test_an_unreadable_run_file_is_restored(self):
        straight = self.run_ok("straight", EVERY)
        killed = self.stop_after("killed", rounds=2)
        self.spoil(os.path.join(killed, "run.h5"), lambda content: content[:700])
        self.assert_same(straight, self.run_ok("killed", EVERY))

    def test_a_pipe_in_the_place_of_the_journal(self):
        killed = self.stop_after("killed", rounds=2)
        journal = os.path.join(killed, "run.journal")
        os.remove(journal)
        os.mkfifo(journal)
        done = finish(self.begin(self.command("run", self.input, "--run.name=killed", EVERY)), 60)
        self.assertEqual(done.returncode, 4, done.stdout)
        self.assertIn("run.journal are missing, damaged", done.stderr)

    def test_a_finished_run_without_its_records_or_last_line(self):
        straight = self.run_ok("straight", EVERY)
        done = self.run_ok("done", EVERY)
        changes = {"run.h5": os.remove, "DONE": lambda path: write_bytes(path, b"\0" * 90)}
        for name, change in changes.items():
            with self.subTest(name):
                change(os.path.join(done, name))
                again = self.run_into("done", EVERY)
                self.assertEqual(again.returncode, 0, again.stderr)
                self.assertTrue(again.stdout.splitlines()[-1].startswith("done: "), again.stdout)
                self.assertTrue(read_bytes(os.path.join(done, "DONE")).startswith(b"done: "))
                self.assert_same(straight, done)

    def test_a_journal_that_is_damaged_or_missing(self):
        """Blocks behind a checkpoint do not matter to it; before it, an earlier checkpoint is taken, or none."""
        straight = self.run_ok("straight", EVERY, "--run.rounds=6", "--checkpoint.keep=5")
        killed = self.stop_after("killed", "--run.rounds=6", "--checkpoint.keep=5", rounds=4)
        lengths = {}
        for name in self.checkpoints(killed):
            with h5py.File(os.path.join(killed, "checkpoints", name)) as file:
                lengths[int(name[5:13])] = int(file["wall/records_bytes"][0])
        self.assertEqual(lengths, dict(sorted(lengths.items(), key=lambda item: item[1])))
        journal = "run.journal"

        def flip(at):
            return lambda content: content[:at] + bytes([content[at] ^ 16]) + content[at + 1:]

        for number, (change, version) in enumerate((
                (flip(lengths[4] - 3), 3), (flip(lengths[2] + 30), 2), (lambda content: content[:lengths[3]], 3),
                (lambda content: content + b"x" * 1000, 4), (lambda content: content[:lengths[1] + 1], 1))):
            with self.subTest(number):
                name = f"spoilt{number}"
                shutil.copytree(killed, self.path("runs", name))
                self.spoil(self.path("runs", name, journal), change)
                done = self.run_into(name, EVERY, "--run.rounds=6", "--checkpoint.keep=5")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"resuming from version {version} ", done.stdout)
                self.assertEqual(done.stderr.count(journal), 1 if version < 4 else 0, done.stderr)
                self.assert_same(straight, self.path("runs", name))
        os.remove(os.path.join(killed, journal))
        error = self.assert_refused(4, "no checkpoint in", "run", self.input, "--run.name=killed", EVERY)
        self.assertEqual(error.count(journal), 1, error)

    def test_a_checkpoint_that_holds_the_records_itself(self):
        """As releases before the journal wrote them."""
        library = ctypes.util.find_library("xxhash")
        if library is None:
            self.skipTest("needs the shared library of xxHash")
        xxh3 = ctypes.CDLL(library).XXH3_64bits
        xxh3.restype, xxh3.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
        straight = self.run_ok("straight", EVERY, "--run.rounds=5")
        run = self.stop_after("old", "--run.rounds=5", rounds=3)
        # The next start makes run.h5 as it was at the checkpoint.
        self.run_into("old", EVERY, "--run.rounds=5", env={"ESPALIER_KILL_AT": "round.merged"})
        with open(os.path.join(run, "run.h5"), "rb") as file:
            records = np.frombuffer(file.read(), np.uint8)
        for name in self.checkpoints(run)[:-1]:
            os.remove(os.path.join(run, "checkpoints", name))
        path = os.path.join(run, "checkpoints", self.checkpoints(run)[0])
        self.spoil(path, lambda content: content[:-24])
        with h5py.File(path, "r+") as file:
            del file["wall/records_bytes"], file["wall/records_checksum"]
            file["wall/records"] = records
        self.spoil(path, lambda content: content + b"ESPALIER" + struct.pack("<QQ", len(content),
                                                                             xxh3(content, len(content))))
        os.remove(os.path.join(run, "run.journal"))
        done = self.run_into("old", EVERY, "--run.rounds=5")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("resuming from version 3 ", done.stdout)
        self.assert_same(straight, run)

    def test_without_the_file_of_the_first_weights(self):
        first = self.run_ok("first", "--run.rounds=2")
        weights = self.path("first.safetensors")
        done = self.espalier("export", self.checkpoint(first), weights)
        self.assertEqual(done.returncode, 0, done.stderr)
        cases = {"rounds": [], "frozen": ["--train.freeze=fc1.*"], "regions": ["--method.name=diloco", "--regions.period=4", "--regions.overlap=0"],
                 "split": ["--method.name=splitfed_v1"]}
        runs = {}
        for name, settings in cases.items():
            settings += [f"--model.init={weights}", "--run.seed=9"]
            runs[name] = self.run_ok(f"straight_{name}", EVERY, *settings), self.stop_after(name, *settings, ranks=2)
        begun = self.run_into("begun", EVERY, f"--model.init={weights}", env={"ESPALIER_KILL_AT": "checkpoint.begin"})
        self.assertNotEqual(begun.returncode, 0)
        os.remove(weights)
        for name, settings in cases.items():
            with self.subTest(name):
                done = self.run_into(name, EVERY, *settings, ranks=2)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("resuming from version 1 ", done.stdout)
                self.assertEqual(done.stderr, "")
                self.assert_same(*runs[name])
        # Without a checkpoint the run begins anew, and needs the file.
        self.assert_refused(3, "first.safetensors", "run", self.input, "--run.name=begun", EVERY, f"--model.init={weights}")

    def test_a_checkpoint_without_its_run(self):
        run = self.run_ok("a", EVERY)
        moved = self.path("moved.h5")
        shutil.copy(os.path.join(run, "checkpoints", self.checkpoints(run)[-1]), moved)
        shutil.rmtree(run)
        for words in (("info", moved), ("export", moved, self.path("out.safetensors")),
                      ("run", self.input, "--run.name=next", f"--model.init={moved}")):
            done = self.espalier(*words)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_run_is_resumed_after_each_of_many_kills(self):
        """Also between the rows of the journal and the checkpoint that refers to them."""
        settings = [EVERY, "--run.rounds=5", "--method.name=semi_async", "--window.grace_s=0.001"]
        straight = self.run_ok("straight", *settings)
        for place in ("checkpoint.begin", "checkpoint.half", "checkpoint.written", "round.merged"):
            name = place.replace(".", "_")
            for _ in range(3):
                done = self.run_into(name, *settings, env={"ESPALIER_KILL_AT": f"{place}:2"})
                self.assertNotEqual(done.returncode, 0)
            self.assert_same(straight, self.run_ok(name, *settings))

    def test_the_lock_of_an_owner_that_died(self):
        straight = self.run_ok("straight", EVERY)
        for line in ("", f"{socket.gethostname()} 999999999 1 -\n"):
            killed = self.stop_after(f"killed-{len(line)}", rounds=2)
            with open(os.path.join(killed, "LOCK"), "w") as lock:
                lock.write(line)
            self.assert_same(straight, self.run_ok(f"killed-{len(line)}", EVERY))

    def test_a_folder_that_cannot_be_written(self):
        self.assert_refused(4, "/proc", "run", self.input, "--run.dir=/proc/espalier", ranks=2)

    def test_a_file_above_the_limit_of_its_size(self):
        # The limit holds for the files of MPI too.
        for kilobytes, ranks in ((20, 1), (130, 1), (130, 3)):  # run.h5 or a checkpoint is the first
            with self.subTest(kilobytes=kilobytes, ranks=ranks):
                words = self.command("run", self.input, f"--run.name=limit{kilobytes}", EVERY, "--run.rounds=60", "--overwrite",
                                     ranks=ranks)
                done = finish(self.begin(["bash", "-c", f'ulimit -f {kilobytes} && exec "$@"', "bash", *words]), 120)
                self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
                errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
                self.assertEqual(len(errors), 1, done.stderr)
                self.assertIn("File too large", errors[0])
        run = self.run_ok("limit130", EVERY, "--run.rounds=60")
        self.assert_same(run, self.run_ok("straight", EVERY, "--run.rounds=60"))

    def test_a_folder_of_checkpoints_that_is_removed(self):
        run = self.path("runs", "a")
        job = self.begin(self.command("run", self.input, "--run.name=a", EVERY, "--run.rounds=400"))
        folder = os.path.join(run, "checkpoints")
        for _ in range(600):
            if os.path.isdir(folder) and len(os.listdir(folder)) > 1:
                break
            time.sleep(0.05)
        os.rename(folder, os.path.join(run, "elsewhere"))
        done = finish(job, 300)
        if done.returncode == 4:  # a checkpoint was being written
            self.assertIn("No such file or directory", done.stderr)
            done = self.run_into("a", EVERY, "--run.rounds=400")
        else:
            self.assertIn("was removed during the run", done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("ckpt_00000400.h5", os.listdir(folder))
        self.assert_same(run, self.run_ok("straight", EVERY, "--run.rounds=400"))

    def test_a_run_whose_folder_is_removed(self):
        job = self.begin(self.command("run", self.input, "--run.name=a", EVERY, "--run.rounds=4000"))
        for _ in range(600):
            if os.path.exists(self.path("runs", "a", "checkpoints", "ckpt_00000002.h5")):
                break
            time.sleep(0.05)
        os.rename(self.path("runs", "a"), self.path("elsewhere"))
        done = finish(job, 300)
        self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertIn("runs/a/", errors[0])

    def test_what_only_has_the_name_of_a_checkpoint(self):
        for make in (os.mkdir, os.mkfifo):
            with self.subTest(make.__name__):
                name = make.__name__
                run = self.run_ok(name, EVERY, "--run.rounds=4")
                false = os.path.join(run, "checkpoints", "ckpt_00000031.h5")
                make(false)
                for command in (["info", false], ["diff", false, false], ["export", false, "w.safetensors"]):
                    self.assert_refused(4, false, *command)
                done = self.run_into(name, EVERY, "--run.rounds=9")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"cannot use checkpoint {os.path.relpath(false, self.folder.name)}", done.stderr)
                self.assertEqual(self.checkpoints(run), ["ckpt_00000008.h5", "ckpt_00000009.h5", "ckpt_00000031.h5"])
                os.rename(false, self.path(name))
                self.assert_same(run, self.run_ok("straight" + name, EVERY, "--run.rounds=9"))
                os.rename(self.path(name), false)
                # Nothing else is there to resume from.
                for path in pathlib.Path(run, "checkpoints").iterdir():
                    if path.name != "ckpt_00000031.h5":
                        path.unlink()
                self.assertEqual(self.run_into(name, EVERY, "--run.rounds=12").returncode, 4)

    def test_a_pipe_in_the_place_of_the_next_checkpoint(self):
        run = self.run_ok("a", EVERY, "--run.rounds=3")
        for name in ("ckpt_00000004.h5.tmp", "ckpt_00000005.h5"):
            os.mkfifo(os.path.join(run, "checkpoints", name))
        done = self.run_into("a", EVERY, "--run.rounds=6")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_same(run, self.run_ok("straight", EVERY, "--run.rounds=6"))

    def test_a_full_disk(self):
        disk = self.path("disk")
        os.mkdir(disk)
        mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            self.skipTest("no permission to mount a small tmpfs")
        self.addCleanup(subprocess.run, ["umount", disk])
        done = self.run_into("full", EVERY, "--run.rounds=40", f"--run.dir={disk}", ranks=2)
        self.assertEqual(done.returncode, 4, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertIn("No space left on device", errors[0])
        self.assertIn("make room", errors[0])
        # With free space, the run resumes from the last complete checkpoint.
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        again = self.run_into("full", EVERY, "--run.rounds=40", f"--run.dir={disk}")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assert_same(self.run_ok("straight", EVERY, "--run.rounds=40"), os.path.join(disk, "full"))


if __name__ == "__main__":
    unittest.main()
