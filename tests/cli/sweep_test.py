"""tools/sweep.py and tools/compare.py: grids that resume, tables that equal the run files, refusals in one sentence."""

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

import h5py
import numpy as np

from support import ESPALIER, SMALL, ProgramTest, finish, read_bytes, write_bytes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(ROOT, "tools")
sys.path.insert(0, TOOLS)
import compare  # noqa: E402
from sweep_file import Sweep  # noqa: E402
from sweep_rows import resolve, save, saved_rows, take  # noqa: E402

# Before the runs: notes the name of each run that is started.
WRAPPER = """#!/bin/sh
for word; do case "$word" in --run.name=*) echo "${{word#--run.name=}}" >> {log};; esac; done
exec {program} "$@"
"""


class ToolTest(ProgramTest):
    def tool(self, name, *words, env=None):
        return finish(self.begin([sys.executable, os.path.join(TOOLS, name), *words], env), 300)

    def sweep(self, text, *words, status=0, env=None):
        """Runs grid.ini with `text`; returns its output."""
        self.write("grid.ini", text)
        done = self.tool("sweep.py", "grid.ini", *words, env=env)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout

    def compare(self, *words):
        done = self.tool("compare.py", *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, status, words, tool, *arguments):
        done = self.tool(tool, *arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn(words, done.stderr)

    def rows(self, name="grid.csv"):
        with open(self.path(name), newline="") as file:
            return list(csv.DictReader(file))

    def logged(self):
        """Has every run noted; returns the environment for it."""
        log = self.path("started")
        program = self.write("espalier.sh", WRAPPER.format(log=log, program=ESPALIER))
        os.chmod(program, 0o755)
        return {"ESPALIER": program}

    def started(self):
        with open(self.path("started")) as file:
            return file.read().split()


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_of(text):
    """Rows of a Markdown table by their first cell, each a dict by title."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    titles = cells(lines[0])
    return {cells(line)[0]: dict(zip(titles, cells(line), strict=True)) for line in lines[2:]}


CIFAR = """
[sweep]
input = tiny.ini
seeds = 1, 2, 3
target = 0.12

[variant {method.name} {method.window}]
method.name = [fedavg, heterofl, fedrolex]
method.window = [synchronous, semi_async]
"""
TINY = """
[run]
rounds = 4
[data]
name = cifar10
train_limit = 300
test_limit = 100
[model]
name = cnn
channels = 4, 8
kernel = 3
features = 16
norm = group
[clients]
count = 4
fleet = 2*fast, 2*slow
[device.fast]
gflops = 2
[device.slow]
gflops = 0.5
[method]
widths = 1, 0.5
[train]
batch = 10
lr = 0.05
"""


def no_cifar10():
    """Why there is no CIFAR-10, or None."""
    folder = os.environ.get("ESPALIER_DATA", "")
    names = (os.path.join(folder, "cifar-10-batches-bin", "data_batch_1.bin"), os.path.join(folder, "data_batch_1.bin"))
    return None if folder and any(map(os.path.exists, names)) else "no CIFAR-10 in $ESPALIER_DATA"


class Grid(ToolTest):
    @unittest.skipIf(no_cifar10(), no_cifar10())
    def test_a_killed_sweep_of_18_runs_ends_with_18_rows_each_computed_once(self):
        self.write("tiny.ini", TINY)
        self.write("grid.ini", CIFAR)
        command = [sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini"]
        env = self.logged()
        job = subprocess.Popen(command, cwd=self.folder.name, env={**os.environ, **env}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not os.path.exists(self.path("grid.csv")) or len(self.rows()) < 5:
            self.assertLess(time.monotonic(), end)
            self.assertIsNone(job.poll(), "the sweep ended before it was killed")
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        job.wait()
        before = {(row["variant"], row["seed"]): row for row in self.rows()}
        self.assertLess(len(before), 18)
        first = self.started()
        done = self.tool("sweep.py", "grid.ini", env=env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rows = {(row["variant"], row["seed"]): row for row in self.rows()}
        methods, windows = ("fedavg", "heterofl", "fedrolex"), ("synchronous", "semi_async")
        self.assertEqual(list(rows), [(f"{m} {w}", s) for m in methods for w in windows for s in "123"])
        self.assertEqual(len(self.rows()), 18)
        # No finished run was started again, and no run was finished twice.
        again = self.started()[len(first):]
        self.assertEqual(len(again), len(set(again)))
        for (variant, seed), row in before.items():
            self.assertEqual(rows[variant, seed], row)
            self.assertNotIn(f"{variant.replace(' ', '-')}-seed{seed}", again)
        for variant, seed in rows:
            with open(self.path("runs", f"{variant.replace(' ', '-')}-seed{seed}", "log.txt")) as file:
                self.assertEqual(len(re.findall(r"(?m) done: ", file.read())), 1)
        # A third call starts nothing.
        count = len(self.started())
        self.assertIn("18 of 18 runs finished", self.tool("sweep.py", "grid.ini", env=env).stdout)
        self.assertEqual(len(self.started()), count)
        self.check_table(methods, windows)

    def check_table(self, methods, windows):
        """The table of compare.py against one made here from the run files."""
        by_sweep = table_of(self.compare("--sweep", "grid.csv", "--baseline", "fedavg synchronous", "--speedup", "virtual_s"))
        by_runs = table_of(self.compare("runs/*", "--target", "0.12", "--baseline", "fedavg-synchronous", "--speedup",
                                        "virtual_s"))
        self.assertEqual(len(by_sweep), 6)
        self.assertEqual(len(by_runs), 6)
        figures = {(m, w): [self.figures(f"{m}-{w}-seed{s}") for s in (1, 2, 3)] for m in methods for w in windows}
        for (method, window), group in figures.items():
            wanted = {"seeds": "3", "top-1": text(group, "top1", 3), "best top-1": text(group, "best", 3),
                      "utilisation": text(group, "utilisation", 2), "rounds": text(group, "rounds", 0)}
            for name, title in (("target", "time to 12%"), ("virtual", "virtual time")):
                every = [v for g in figures.values() for v in [np.nanmean([x[name] for x in g])] if np.isfinite(v)]
                wanted[title] = text(group, name, 1 if min(every) >= 1 else 3, " s")
            least = min(np.mean([x["peak"] for x in g]) for g in figures.values())
            wanted["peak memory"] = text(group, "peak", 1 if least >= 1 else 3, " MB")
            for table, name in ((by_sweep, f"{method} {window}"), (by_runs, f"{method}-{window}")):
                for title, value in wanted.items():
                    self.assertEqual(table[name][title], value, f"{name}: {title}")
            if (method, window) != ("fedavg", "synchronous"):
                logs = np.log([a["virtual"] / b["virtual"] for a, b in zip(figures["fedavg", "synchronous"], group)])
                half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)  # Student's t, two degrees of freedom
                low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
                self.assertAlmostEqual(float(by_sweep[f"{method} {window}"]["speed-up"].split()[0]), middle, delta=0.0051)
                ends = re.findall(r"\(([0-9.]+) to ([0-9.]+)\)", by_sweep[f"{method} {window}"]["speed-up"])[0]
                self.assertAlmostEqual(float(ends[0]), low, delta=0.0051 + 0.001 * low)
                self.assertAlmostEqual(float(ends[1]), high, delta=0.0051 + 0.001 * high)

    def figures(self, name):
        with h5py.File(self.path("runs", name, "run.h5")) as file:
            seen, rounds, tasks = file["evaluations"], file["rounds"], file["tasks"]
            is_test = seen["set"][()] == b"test"
            top1, times = seen["top1"][()][is_test], seen["virtual_time_s"][()][is_test]
            ends = rounds["virtual_time_s"][()]
            spans = np.diff(np.concatenate([[0.0], ends]))
            reached = times[top1 >= 0.12]
            return {"top1": top1[-1], "best": top1.max(), "target": reached[0] if len(reached) else np.nan,
                    "virtual": ends[-1], "peak": tasks["peak_bytes"][()].max() / 1e6, "rounds": len(ends),
                    "utilisation": (rounds["utilisation"][()] * spans).sum() / spans.sum()}

    SMALL_GRID = "[sweep]\ninput = small.ini\nseeds = 1-2\n[variant {train.lr}]\ntrain.lr = [0.1, 0.2]\n"

    def test_a_run_that_fails_does_not_stop_the_others(self):
        text = self.SMALL_GRID + ("[variant wrong]\ntrain.lr = -1\n[variant no data]\ndata.name = mnist\ndata.dir = /nowhere\n")
        printed = self.sweep(text, status=1)
        self.assertEqual([(row["variant"], row["seed"]) for row in self.rows()],
                         [("0.1", "1"), ("0.1", "2"), ("0.2", "1"), ("0.2", "2")])
        self.assertRegex(printed, r"wrong +1 +failed: train\.lr = '-1'")
        self.assertRegex(printed, r"no data +2 +failed: .* is missing")
        self.assertIn("4 of 8 runs finished, 4 failed", printed)
        row = self.rows()[3]
        self.assertEqual(row["train.lr"], "0.2")
        self.assertAlmostEqual(float(row["top1"]), self.column(self.path("runs", "0.2-seed2"), "top1", "evaluations")[-1])

    def test_what_has_changed_runs_again(self):
        env = self.logged()
        self.sweep(self.SMALL_GRID, env=env)
        self.sweep(self.SMALL_GRID + "[variant c]\n", env=env)
        self.assertEqual(self.started()[4:], ["c-seed1", "c-seed2"])
        # Another learning rate for one variant: its folder holds another run, which is replaced only on demand.
        changed = self.SMALL_GRID + "[variant c]\ntrain.batch = 20\n"
        printed = self.sweep(changed, status=1, env=env)
        self.assertIn("train.batch", printed)
        self.assertIn("--overwrite", printed)
        old = self.rows()
        self.sweep(changed, "--overwrite", env=env)
        self.assertEqual(self.started()[6:], ["c-seed1", "c-seed2"] * 2)
        self.assertEqual(self.rows()[:4], old[:4])
        self.assertNotEqual([row["config"] for row in self.rows()[4:]], [row["config"] for row in old[4:]])
        # The row of a finished run comes back without the run, also with another target.
        os.remove(self.path("grid.csv"))
        self.sweep(changed, env=env)
        for target in ("0.2", "0.3"):
            self.sweep(changed.replace("seeds", f"target = {target}\nseeds"), env=env)
            self.assertEqual({row["target"] for row in self.rows()}, {target})
        self.assertEqual(len(self.started()), 10)
        self.assertEqual(len(self.rows()), 6)

    def test_rows_of_another_commit(self):
        env = self.logged()
        self.sweep(self.SMALL_GRID, env=env)
        with open(self.path("grid.csv")) as file:
            text = file.read()
        commit = self.rows()[0]["commit"]
        self.write("grid.csv", text.replace(commit, "0123456789ab", 1))
        self.assertIn("0123456789ab", self.sweep(self.SMALL_GRID, env=env))
        self.assertEqual(len(self.started()), 4)
        # Only the row is of another commit: it is made again. Then the run is, too: it runs again.
        self.sweep(self.SMALL_GRID, "--same-commit", env=env)
        self.assertEqual(len(self.started()), 4)
        self.assertEqual({row["commit"] for row in self.rows()}, {commit})
        self.write("grid.csv", text.replace(commit, "0123456789ab", 1))
        with h5py.File(self.path("runs", "0.1-seed1", "run.h5"), "a") as file:
            file.attrs["git_sha"] = "0123456789ab"
        self.sweep(self.SMALL_GRID, "--same-commit", env=env)
        self.assertEqual(self.started()[4:], ["0.1-seed1"])
        self.assertEqual({row["commit"] for row in self.rows()}, {commit})

    def test_bases_words_and_several_inputs(self):
        os.mkdir(self.path("sub"))
        self.write("other.ini", SMALL.replace("count = 7", "count = 6").replace("4*slow", "3*slow"))
        self.write("sub/grid.ini", """
[sweep]
names = task, method
seeds = [4]
run.rounds = 1
[base small]
input = ../small.ini
[base other]
input = ../other.ini          # six clients
seeds = 5, 6
[base slow]
train.lr = 0.01
[base slow and long]
like = slow
train.epochs = 2
[variant {task} / {way}]
task = [small, other]
way = [slow | slow and long]
like = {task} | {way}
""")
        done = self.tool("sweep.py", "sub/grid.ini")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rows = self.rows("sub/grid.csv")
        self.assertEqual([(r["task"], r["method"], r["seed"]) for r in rows],
                         [("small", "slow", "4"), ("small", "slow and long", "4"), ("other", "slow", "5"), ("other", "slow", "6"),
                          ("other", "slow and long", "5"), ("other", "slow and long", "6")])
        self.assertEqual([r["clients.count"] for r in rows], ["7", "7", "6", "6", "6", "6"])
        with h5py.File(self.path("runs", "other-slow-and-long-seed6", "run.h5")) as file:
            config = file.attrs["config"]
        self.assertIn("\nepochs = 2\n", config)
        self.assertIn("\nlr = 0.01\n", config)
        # Another fleet is refused, and shown if it is allowed.
        self.refused(2, "clients.count: 7, 6", "compare.py", "--sweep", "sub/grid.csv")
        shown = table_of(self.compare("--sweep", "sub/grid.csv", "--allow-different", "fleet,data"))
        self.assertEqual(shown["other / slow"]["clients.count"], "6")
        only = table_of(self.compare("--sweep", "sub/grid.csv", "--where", "task=other"))
        self.assertEqual(list(only), ["slow", "slow and long"])

    def test_figures_of_ones_own(self):
        self.write("own.py", """
import numpy as np
def measure(run, names):
    return {"steps": run.tasks["steps"].sum(), "one": 1 / (names["variant"] != "0.2")}
""")
        text = self.SMALL_GRID.replace("seeds = 1-2", "seeds = 3\nmeasure = own.py\ncolumns = variant, seed, steps, one, config")
        self.assertRegex(self.sweep(text, status=1), r"0\.2 +3 +failed: measure failed: ZeroDivisionError")
        rows = self.rows()
        self.assertEqual(list(rows[0]), ["variant", "seed", "steps", "one", "config"])
        self.assertEqual(int(rows[0]["steps"]), self.column(self.path("runs", "0.1-seed3"), "steps").sum())
        self.write("own.py", "import nothing_such")
        self.refused(2, "own.py cannot be used for measure", "sweep.py", "grid.ini")
        self.write("own.py", "def measure(run, names):\n    return {'one': 'text'}\n")
        os.remove(self.path("grid.csv"))
        self.assertRegex(self.sweep(text, status=1), r"0\.2 +3 +failed: measure failed: ValueError")
        self.assertRegex(self.sweep("[sweep]\ninput = small.ini\nevaluated = tset\n", status=1),
                         "failed: evaluated = tset, but there are only evaluations of test")
        self.assertRegex(self.sweep("[sweep]\ninput = small.ini\ntarget = 80\n", status=1), "give a target such as 0.8")

    def test_a_start_from_a_trained_model(self):
        text = """
[sweep]
input = small.ini
seeds = 1, 2
[start trained]
run.rounds = 2
[start wrong]
train.lr = -1
[variant tuned]
start = trained
train.lr = 0
run.rounds = 1
[variant lost]
start = wrong
"""
        printed = self.sweep(text, status=1)
        self.assertRegex(printed, r"lost +1 +failed: its start wrong is refused: train\.lr")
        trained, tuned = self.starts()[0], self.path("runs", "tuned-seed2")
        with h5py.File(self.checkpoint(trained)) as a, h5py.File(self.checkpoint(tuned)) as b:
            for name, values in a["model"].items():
                np.testing.assert_array_equal(values[()], b["model"][name][()])
        self.assertEqual([row["variant"] for row in self.rows()], ["tuned", "tuned"])
        # The hash of a run covers its start. The row comes back without the run.
        longer = text.replace("run.rounds = 2", "run.rounds = 3")
        self.assertIn("0 of 4 runs finished", self.sweep(longer, "--list", status=1))
        os.remove(self.path("grid.csv"))
        self.sweep(text, "--collect", status=1)
        before = self.rows()
        self.assertEqual(len(before), 2)
        # A run that began from another start is not taken for one of this sweep; --overwrite replaces it.
        printed = self.sweep(longer, status=1)
        self.assertRegex(printed, r"tuned +1 +failed: .*model\.init.*--overwrite")
        self.assertIn("older than this sweep file, until their runs are finished: 2", printed)
        self.assertEqual(self.rows(), before)
        self.sweep(longer, "--overwrite", status=1)
        self.assertEqual(len(self.starts()), 2)
        self.assertEqual(len(self.rows()), 2)
        self.assertNotEqual([row["loss"] for row in self.rows()], [row["loss"] for row in before])

    def starts(self):
        """Folders of the start [start trained]; each name ends with the hash of its configuration."""
        return [self.path("runs", name) for name in sorted(os.listdir(self.path("runs"))) if name.startswith("trained-seed1-")]

    def test_overwrite_replaces_only_other_runs(self):
        env = self.logged()
        self.sweep(self.SMALL_GRID, env=env)
        os.remove(self.path("grid.csv"))
        # A finished run without a row is taken, an unfinished one resumes, a damaged one and one of another configuration begin
        # again.
        os.remove(self.path("runs", "0.1-seed2", "DONE"))
        os.truncate(self.path("runs", "0.2-seed1", "run.h5"), 3000)
        shutil.rmtree(self.path("runs", "0.2-seed2"))
        os.rename(self.path("runs", "0.1-seed1"), self.path("runs", "0.2-seed2"))
        self.run_ok("0.1-seed1", "--train.lr=0.1")
        listed = self.sweep(self.SMALL_GRID, "--list")
        for words in (r"0\.1 +1 +finished, but without a row: --collect", r"0\.1 +2 +stopped after 3 rounds",
                      r"0\.2 +1 +.* cannot be read", r"0\.2 +2 +.* another configuration; --overwrite"):
            self.assertRegex(listed, words)
        self.assertFalse(os.path.exists(self.path("grid.csv")))
        self.sweep(self.SMALL_GRID, "--overwrite", env=env)
        self.assertEqual(sorted(self.started()[4:]), ["0.1-seed2", "0.2-seed1", "0.2-seed2"])
        self.assertEqual(len(self.rows()), 4)
        with open(self.path("runs", "0.1-seed2", "log.txt")) as file:
            self.assertIn("resum", file.read())

    def test_two_folders_share_a_table(self):
        text = "[sweep]\ninput = small.ini\nseeds = 1-2\nrun.rounds = 100\n"
        self.write("grid.ini", text)
        jobs = [self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini", f"seed {seed}", f"--dir=runs{seed}"])
                for seed in (1, 2)]
        for job in jobs:
            self.assertEqual(finish(job, 120).returncode, 0)
        self.assertEqual([row["seed"] for row in self.rows()], ["1", "2"])

    def test_newer_rows_of_another_sweep_stay(self):
        """A sweep that began with an old row must not put it back over the row that another sweep has written since."""
        text = "[sweep]\ninput = small.ini\n[variant {method.name}]\nmethod.name = [fedavg, heterofl]\nrun.rounds = 1\n"
        self.sweep(text)
        text = text.replace("rounds = 1", "rounds = 2")
        self.write("grid.ini", text)
        ours = Sweep(self.path("grid.ini"), self.path("ours"))
        resolve(ours, ours.cells)
        rows = saved_rows(ours)
        self.sweep(text, "heterofl", "--dir=theirs")
        self.run_ok("fedavg", "--run.rounds=2")
        shutil.copytree(self.path("runs", "fedavg"), ours.cells[0].folder)
        take(ours, ours.cells[0], rows)
        self.assertEqual([row["rounds"] for row in self.rows()], ["2", "2"])

    def test_sweeps_that_write_a_table_at_the_same_moment(self):
        self.write("grid.ini", "[sweep]\ninput = small.ini\nseeds = 1-24\n")
        sweep = Sweep(self.path("grid.ini"), self.path("ours"))
        start, errors = threading.Barrier(len(sweep.cells)), []

        def add(cell):
            cell.row = {"variant": cell.labels[0], "seed": str(cell.seed), "top1": "0.5", "config": "x", "commit": "y"}
            start.wait()
            try:
                save(sweep, {}, cell)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=add, args=[cell]) for cell in sweep.cells]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual([int(row["seed"]) for row in self.rows()], list(range(1, 25)))

    def test_a_table_that_cannot_be_written(self):
        """The table of before stays, and the run is not run again when there is room."""
        text = "[sweep]\ninput = small.ini\nseeds = 1\nrun.rounds = 1\n"
        self.sweep(text)
        before = read_bytes(self.path("grid.csv"))
        text = text.replace("seeds = 1", "seeds = 1, 2")
        os.mkdir(self.path("grid.csv.tmp"))
        self.assertIn("failed: " + self.path("grid.csv") + " cannot be written: Is a directory", self.sweep(text, status=1))
        self.assertEqual(read_bytes(self.path("grid.csv")), before)
        self.refused(4, "grid.csv cannot be written: Is a directory", "sweep.py", "grid.ini", "--collect")
        os.rmdir(self.path("grid.csv.tmp"))
        self.assertIn("2 of 2 runs finished", self.sweep(text, "--collect"))
        self.assertEqual([row["seed"] for row in self.rows()], ["1", "2"])

    def test_a_list_during_the_runs_and_a_time_limit(self):
        text = "[sweep]\ninput = small.ini\nseeds = 1-3\nrun.rounds = 300\n"
        self.write("grid.ini", text)
        job = self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini", "--jobs=1", "--minutes=0.001"])
        end = time.monotonic() + 60
        while not os.path.exists(self.path("runs", "small-seed1", "run.h5")):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        listed = self.sweep(text, "--list")
        self.assertRegex(listed, r"small +1 +(running after \d+ rounds|finished|top1)")
        self.assertRegex(listed, r"small +3 +not begun")
        done = finish(job, 120)
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        self.assertRegex(done.stdout, "   1 of 3   small, seed 1")
        self.assertEqual(len(self.rows()), 1)

    def test_awkward_names(self):
        text = ("\ufeff[sweep]\ninput = small.ini\nrun.rounds = 1\n[variant {train.lr} größe]\ntrain.lr = 0.1\n[variant α]\n"
                "[variant β]\n")
        self.sweep(text)
        self.assertEqual([row["variant"] for row in self.rows()], ["0.1 größe", "α", "β"])
        self.assertTrue(os.path.exists(self.path("runs", "α-seed1", "run.h5")))
        self.assertEqual(table_of(self.compare("--sweep", "grid.csv"))["β"]["rounds"], "1")

    def test_ctrl_c_before_a_run_begins(self):
        lists = ", ".join(map(str, range(1, 61)))
        self.write("grid.ini", f"[sweep]\ninput = small.ini\n[variant a]\ntrain.batch = [{lists}]\n")
        job = self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini"])
        time.sleep(2)
        job.send_signal(signal.SIGINT)
        done = finish(job, 10)
        self.assertEqual((done.returncode, done.stderr), (85, "sweep.py: stopped before a run began\n"))

    def test_ranks_and_a_signal(self):
        text = "[sweep]\ninput = small.ini\nranks = 3\nseeds = 1-3\nrun.rounds = 400\ncheckpoint.every = 1000\n"
        self.write("grid.ini", text)
        job = self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini", "--jobs=1"])
        end = time.monotonic() + 60
        while not os.path.exists(self.path("runs", "small-seed1", "run.h5")):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        done = finish(job, 60)
        if os.path.exists(self.path("runs", "small-seed1", "DONE")):
            self.skipTest("the run was over before the signal")
        self.assertEqual(done.returncode, 85, done.stdout + done.stderr)
        self.assertIn("the same command goes on", done.stdout)
        self.assertTrue(os.listdir(self.path("runs", "small-seed1", "checkpoints")))
        self.assertFalse(os.path.exists(self.path("runs", "small-seed2")))
        self.sweep(text)
        self.assertEqual(len(self.rows()), 3)

    def test_slurm(self):
        text = self.SMALL_GRID + "[start first]\n[variant from first]\nseeds = 1\nstart = first\nmethod.widths = 1, 0.5\n"
        printed = self.sweep(text, "--slurm")
        self.assertIn("sbatch --dependency=afterok:$(sbatch --parsable grid-start.sbatch) grid.sbatch", printed)
        self.assertFalse(os.path.exists(self.path("runs", "0.1-seed1")))
        with open(self.path("grid.sbatch")) as file:
            script = file.read()
        self.assertIn("#SBATCH --array=1-5\n", script)
        # Without Slurm: srun and scontrol are stand-ins, and each task is run here.
        os.mkdir(self.path("bin"))
        for name, body in (("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'), ("scontrol", "exit 1")):
            os.chmod(self.write(f"bin/{name}", f"#!/bin/sh\n{body}\n"), 0o755)
        path = {"PATH": self.path("bin") + os.pathsep + os.environ["PATH"]}
        for file, tasks in (("grid-start.sbatch", 1), ("grid.sbatch", 5)):
            for task in range(1, tasks + 1):
                done = finish(self.begin(["bash", file], {**path, "SLURM_ARRAY_TASK_ID": str(task)}), 60)
                self.assertEqual(done.returncode, 0, done.stderr)
        env = self.logged()
        self.assertIn("5 of 5 runs finished", self.sweep(text, "--collect", env=env))
        self.assertFalse(os.path.exists(self.path("started")))
        self.assertEqual(len(self.rows()), 5)
        self.assertIn("nothing to submit", self.sweep(text, "--slurm"))

    def test_slurm_replaces_runs(self):
        self.sweep(self.SMALL_GRID)
        changed = self.SMALL_GRID.replace("[0.1, 0.2]", "[0.1]\n[variant 0.2]\ntrain.batch = 20")
        self.sweep(changed, "--slurm", "--overwrite")
        with open(self.path("grid.sbatch")) as file:
            words = re.findall(r"(?m)^    set -- (.*) ;;$", file.read())
        self.assertEqual(len(words), 2)
        for line in words:  # a requeued job resumes its own run
            for restarts, count in (("", 1), ("1", 0)):
                done = finish(self.begin(["bash", "-c", f'set -- {line}; echo "$@"'], {"SLURM_RESTART_COUNT": restarts}), 60)
                self.assertEqual(done.stdout.split().count("--overwrite"), count)

    def test_two_at_once(self):
        self.write("grid.ini", "[sweep]\ninput = small.ini\nrun.rounds = 300\n")
        job = self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini"])
        end = time.monotonic() + 60
        while not os.path.exists(self.path("runs", "small-seed1")):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.refused(2, "another sweep.py runs grid.ini", "sweep.py", "grid.ini")
        job.send_signal(signal.SIGTERM)
        finish(job, 60)

    def test_bad_sweep_files(self):
        def refused(words, text, status=2):
            self.write("bad.ini", text)
            self.refused(status, words, "sweep.py", "bad.ini")

        begin = "[sweep]\ninput = small.ini\n"
        refused("no input", "[sweep]\n[variant a]\n")
        refused("there is no input nothing.ini", "[sweep]\ninput = nothing.ini\n[variant a]\n")
        refused("unknown key inputs", "[sweep]\ninputs = small.ini\n")
        refused("unknown key seed", begin + "[variant a]\nseed = 3\n")
        refused("is none of", begin + "[grid]\n")
        refused("is none of", begin + "[variant]\n")
        refused("unknown key like", begin + "like = b\n")
        refused("no list of seeds", begin + "seeds =\n")
        refused("no list of seeds", begin + "seeds = 1, x\n")
        refused("no list of seeds", begin + "seeds = 3-1\n")
        refused("no list in brackets", begin + "[variant a]\ntrain.lr = [1, 2\n")
        refused("no list in brackets", begin + "[variant a]\ntrain.lr = []\n")
        refused("would have the folder", begin + "[variant a b]\n[variant a-b]\n")
        refused("no section [base b]", begin + "[variant a]\nlike = b\n")
        refused("no section [base b]", begin + "[base b]\nlike = b\n[variant a]\nlike = b\n")
        refused("no section [start b]", begin + "[variant a]\nstart = b\n")
        refused("several values", begin + "[start b]\ntrain.lr = [1, 2]\n[variant a]\n")
        refused("write `seeds =", begin + "[variant a]\nrun.seed = 2\n")
        refused("sets run.name; write `[variant NAME]`", begin + "run.name = x\n")
        refused("sets run.dir; write `dir = FOLDER`", begin + "[variant a]\nrun.dir = x\n")
        for ranks in ("two", "0", "²", "-1"):
            refused(f"ranks = {ranks}", begin + f"ranks = {ranks}\n")
        for target in ("high", "80%", "nan", "-1"):
            refused(f"target = {target} is no quality, such as 0.8", begin + f"target = {target}\n")
        refused("{train.lr} in its name, but no value", begin + "[variant {train.lr}]\n")
        refused("two sections [variant a]", begin + "[variant a]\n[variant  a]\n")
        refused("has a start itself", begin + "[start b]\nstart = b\n[variant a]\nstart = b\n")
        refused("needs also seed, config", begin + "columns = variant, top1\n")
        refused("small.ini is no folder", begin + "dir = small.ini\n")
        refused("small.ini is no folder", begin + "csv = small.ini/table.csv\n")
        refused("needs 2 parts", begin + "names = a, b\n[variant x]\n")
        refused("is no sweep file", "input = small.ini\n")
        refused("is no sweep file", begin + "[variant a]\n[variant a]\n")
        refused("is not the table of", begin + "csv = other.csv\n" if self.write("other.csv", "a,b\n1,2\n") else "")
        refused("is damaged", begin + "csv = cut.csv\n" if self.write("cut.csv", "variant,seed,config\na,1\n") else "", 3)
        self.write("edited.csv", "variant,seed,top1,config\nsmall,1,n/a,x\n")
        refused("top1 = n/a, which is no number", begin + "csv = edited.csv\n")
        self.refused(3, "there is no no.ini", "sweep.py", "no.ini")
        self.write("ok.ini", begin)
        self.refused(2, "has one of the words nothing", "sweep.py", "ok.ini", "nothing")
        self.refused(2, "unrecognized arguments: --fast", "sweep.py", "ok.ini", "--fast")
        self.refused(2, "--jobs -1 must be", "sweep.py", "ok.ini", "--jobs=-1")
        done = self.tool("sweep.py", "ok.ini", env={"ESPALIER": self.path("no-program")})
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("there is no program", done.stderr)


def text(group, name, decimals, unit=""):
    values = [g[name] for g in group if np.isfinite(g[name])]
    if not values:
        return "–"
    shown = f"{np.mean(values):.{decimals}f}" + (f" ± {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else "") + unit
    return shown + (f" ({len(values)} of {len(group)})" if len(values) < len(group) else "")


class Compare(ToolTest):
    def test_runs_by_folder(self):
        for name, more in (("plain", ()), ("fast", ("--train.lr=0.1",))):
            for seed in (1, 2):
                self.run_ok(f"{name}-seed{seed}", f"--run.seed={seed}", *more)
        printed = table_of(self.compare("runs/*"))
        self.assertEqual(list(printed), ["fast", "plain"])
        for name in printed:
            tops = [self.column(self.path("runs", f"{name}-seed{s}"), "top1", "evaluations")[-1] for s in (1, 2)]
            self.assertEqual(printed[name]["top-1"], f"{np.mean(tops):.3f} ± {np.std(tops, ddof=1):.3f}")
        plain = list(csv.reader(self.compare("runs/*", "--format", "csv", "--columns", "loss", "--baseline", "fast").splitlines()))
        self.assertEqual(plain[0], ["variant", "seeds", "loss", "loss_deviation", "speed_up", "speed_up_low", "speed_up_high"])
        losses = [self.column(self.path("runs", f"fast-seed{s}"), "loss", "evaluations")[-1] for s in (1, 2)]
        self.assertAlmostEqual(float(plain[1][2]), np.mean(losses), places=6)
        self.assertAlmostEqual(float(plain[1][3]), np.std(losses, ddof=1), places=6)
        latex = self.compare("runs/*", "--format", "latex", "--columns", "top1,mb_down+mb_up", "--target=0.5")
        self.assertIn(r"$\pm$", latex)
        self.assertNotIn("±", latex)
        self.assertEqual(latex.count(r"\\"), 3)
        self.assertRegex(latex, r"(?m)^fast & 2 & ")

    def test_one_run_unfinished_runs_and_runs_without_rows(self):
        folder = self.run_ok("a")
        self.assertEqual(list(table_of(self.compare(folder))), ["a"])
        for name, rows in (("begun", 2), ("empty", 0)):
            shutil.copytree(folder, self.path("runs", name))
            os.remove(self.path("runs", name, "DONE"))
            with h5py.File(self.path("runs", name, "run.h5"), "a") as file:
                file.attrs["config"] = file.attrs["config"].replace("lr = 0.05", f"lr = 0.0{rows + 1}")
                for table in ("rounds", "tasks", "evaluations"):
                    for column in file[table].values():
                        column.resize(rows, axis=0)
        self.assertIn("Note: empty is unfinished.", self.compare("runs/empty").replace("Note: a", "Note: empty"))
        self.refused(2, "runs/begun is unfinished; runs/empty is unfinished", "compare.py", "runs/a", "runs/begun", "runs/empty")
        printed = self.compare("runs/a", "runs/begun", "runs/empty", "--allow-different", "budget")
        self.assertIn("begun is unfinished", printed)
        self.assertEqual(table_of(printed)["empty"]["top-1"], "–")
        self.assertEqual(table_of(printed)["begun"]["rounds"], "2")

    def test_other_data_and_budgets_are_refused_by_name(self):
        self.run_ok("a")
        self.run_ok("b", "--data.alpha=3", "--run.rounds=2", "--device.slow.gflops=0.4")
        self.refused(2, "differ in their data and fleet and budget (data.alpha: ", "compare.py", "runs/a", "runs/b")
        self.refused(2, "--allow-different fleet,budget", "compare.py", "runs/a", "runs/b", "--allow-different", "data")
        shown = table_of(self.compare("runs/a", "runs/b", "--allow-different", "all"))
        self.assertEqual((shown["b"]["data.alpha"], shown["b"]["run.rounds"], shown["b"]["device.slow.gflops"]), ("3", "2", "0.4"))

    def test_speed_ups(self):
        def rows(name, values, first=1):
            return [compare.Row(name, str(first + i), {"t": v}, {}) for i, v in enumerate(values)]

        def found(function, base, other):
            own = function(base, other, "t")
            return [own.value, own.low, own.high], own.how, own.seeds

        a, b = rows("a", [8, 6, 9, 7]), rows("b", [2, 3, 3, 2])
        logs = np.log([4, 2, 3, 3.5])
        half = 3.182446 * logs.std(ddof=1) / 2  # Student's t, three degrees of freedom
        wanted = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
        values, how, seeds = found(compare.speed_up, a, b)
        np.testing.assert_allclose(values, wanted, rtol=1e-3)
        self.assertEqual((how, seeds), ("paired", 4))
        # Percent saved and the difference, also paired.
        np.testing.assert_allclose(found(compare.saving, a, b)[0], 100 * (1 - 1 / wanted), rtol=1e-3)
        steps = np.array([-6, -3, -6, -5])
        half = 3.182446 * steps.std(ddof=1) / 2
        np.testing.assert_allclose(found(compare.difference, a, b)[0], [-5, -5 - half, -5 + half], rtol=1e-3)
        # Other seeds: a bootstrap, here with NumPy.
        a, b = [8.0, 6, 9, 7, 12], [2.0, 3, 3, 2]
        drawn = np.random.default_rng(3)
        means = drawn.choice(a, (40000, 5)).mean(1), drawn.choice(b, (40000, 4)).mean(1)
        for function, wanted in ((compare.speed_up, means[0] / means[1]), (compare.saving, 100 * (1 - means[1] / means[0])),
                                 (compare.difference, means[1] - means[0])):
            values, how, _ = found(function, rows("a", a), rows("b", b, 10))
            self.assertEqual(how, "bootstrap")
            np.testing.assert_allclose(values[1:], np.quantile(wanted, [0.025, 0.975]), rtol=0.02)
            self.assertTrue(values[1] < values[0] < values[2])
        # Seeds that did not get there, or at once, have no part; one pair has a ratio and no interval.
        values, how, seeds = found(compare.speed_up, rows("a", [8, math.nan]), rows("b", [2, 3]))
        self.assertEqual((how, seeds), ("", 1))
        self.assertTrue(math.isnan(values[1]))
        self.assertTrue(math.isnan(found(compare.speed_up, rows("a", [math.nan]), rows("b", [2]))[0][0]))
        self.assertTrue(math.isnan(found(compare.speed_up, rows("a", [0]), rows("b", [2]))[0][0]))
        self.assertEqual(found(compare.speed_up, rows("a", [6, 6, 6]), rows("b", [0, 3, 3], 10))[0], [2, 2, 2])
        self.assertEqual(found(compare.difference, rows("a", [math.inf]), rows("b", [2]))[1], "")
        for degrees, quantile in ((1, 12.7062), (20, 2.0860), (21, 2.0796), (60, 2.0003), (1000, 1.9623)):
            self.assertAlmostEqual(compare.t_quantile(degrees), quantile, places=3)

    def test_savings_and_differences_in_the_table(self):
        self.write("t.csv", "variant,seed,top1,virtual_s,config,commit\n" + "".join(
            f"{name},{seed},{top},{seconds},x,y\n" for name, seed, top, seconds in
            (("a_b%|", 1, 0.5, 10), ("a_b%|", 2, 0.6, 20), ("c", 1, 0.55, 5), ("c", 2, 0.7, 10))))
        words = ("--sweep", "t.csv", "--columns", "virtual_s", "--baseline", "a_b%|", "--saved", "virtual_s", "--difference",
                 "top1")
        printed = self.compare(*words)
        # Both save exactly a half. The differences are 0.05 and 0.1: mean 0.075, Student's t 12.706 with one degree of freedom.
        self.assertIn("| c | 2 | 7.5 ± 3.5 s | 50.0 % (50.0 to 50.0) | +0.075 (−0.243 to +0.393) |\n", printed)
        self.assertIn("| a_b%\\| | 2 | 15.0 ± 7.1 s | – | – |\n", printed)
        self.assertIn("| virtual time, saved | top-1, difference |\n", printed)
        self.assertIn("\nDifference: top-1 of the row minus that of a_b%|", printed)
        plain = list(csv.DictReader(self.compare(*words, "--format=csv").splitlines()))
        self.assertEqual(plain[1]["variant"], "c")
        self.assertEqual(float(plain[1]["virtual_s_saved"]), 50)
        self.assertAlmostEqual(float(plain[1]["top1_difference_low"]), 0.075 - 12.706 * 0.025, places=4)
        latex = self.compare(*words, "--format=latex", "--head", "x^2 ~ \\ <")
        self.assertIn(r"a\_b\%$|$ & 2", latex)
        self.assertIn(r"x\textasciicircum{}2 \textasciitilde{} \textbackslash{} $<$ & seeds", latex)
        self.assertIn("| a\\|b \\*c\\* | seeds", self.compare(*words, "--head", "a|b *c*"))
        self.refused(2, "need --baseline", "compare.py", "--sweep", "t.csv", "--saved", "top1")
        self.refused(2, "no column time for --saved", "compare.py", "--sweep", "t.csv", "--baseline", "c", "--saved", "time")
        self.refused(4, "No such file", "compare.py", "--sweep", "t.csv", "-o", "nowhere/t.md")

    def test_names_without_seeds(self):
        for names, wanted in (((("lr-0.1", "1"),), "lr-0.1"), ((("resnet11", "1"),), "resnet11"), ((("a-seed1", "1"),), "a"),
                              ((("a_s1", "1"), ("a_s2", "2")), "a"), ((("a.1", "1"), ("a.2", "2")), "a"),
                              ((("net11", "1"), ("net12", "2")), "net11"), ((("seed1", "1"),), "seed1"),
                              ((("a seed=12", "12"), ("a seed=3", "3")), "a")):
            self.assertEqual(compare.name_without_seed(list(names)), wanted)

    def test_rows_of_two_commits_are_noted(self):
        self.write("t.csv", "variant,seed,top1,config,commit\na,1,0.5,x,y\na,2,0.6,x,z\n")
        done = self.tool("compare.py", "--sweep", "t.csv")
        self.assertEqual((done.returncode, len(table_of(done.stdout))), (0, 1))
        self.assertIn("different commits of the program: y, z", done.stderr)

    def test_into_a_page(self):
        self.run_ok("a")
        self.write("page.md", "before\n<!-- one -->\nold\n<!-- end one -->\nafter\n")
        self.compare("runs/a", "--into", "page.md", "--mark", "one", "--columns", "top1", "--head", "method")
        with open(self.path("page.md")) as file:
            text = file.read()
        self.assertRegex(text, r"^before\n<!-- one -->\n\| method \| seeds \| top-1 \|\n\|---\|--:\|--:\|\n\| a \| 1 \| 0\.\d+ \|\n<!-- end "
                         r"one -->\nafter\n$")
        self.refused(2, "needs the lines <!-- two -->", "compare.py", "runs/a", "--into", "page.md", "--mark", "two")
        self.refused(3, "there is no no.md", "compare.py", "runs/a", "--into", "no.md", "--mark", "two")
        self.write("turned.md", "<!-- end one -->\n<!-- one -->\n")
        self.refused(2, "each once and in this order", "compare.py", "runs/a", "--into", "turned.md", "--mark", "one")
        write_bytes(self.path("latin.md"), b"\xe9")
        self.refused(3, "latin.md cannot be read: it is not UTF-8", "compare.py", "runs/a", "--into", "latin.md", "--mark", "one")

    def test_a_page_on_a_full_disk_stays(self):
        self.run_ok("a", "--run.rounds=1")
        page = "before\n" * 50 + "<!-- one -->\n<!-- end one -->\n"
        self.write("page.md", page)
        limited = ("import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.argv = sys.argv[1:]; "
                   "runpy.run_path(sys.argv[0], run_name='__main__')")
        for words in (["--into", "page.md", "--mark", "one"], ["-o", "page.md"]):
            done = finish(self.begin([sys.executable, "-c", limited, os.path.join(TOOLS, "compare.py"), "runs/a", *words]), 60)
            self.assertEqual((done.returncode, done.stderr), (4, "compare.py: page.md cannot be written: File too large\n"))
            self.assertEqual(read_bytes(self.path("page.md")).decode(), page)

    def test_columns_of_ones_own_in_a_table(self):
        self.write("t.csv", 'variant,seed,note,top1,loss2,config,commit\na,1,"good, so far",0.5,1,x,y\na,2,,0.25,,x,y\n')
        found = table_of(self.compare("--sweep", "t.csv", "--columns", "top1,loss2"))
        self.assertEqual((found["a"]["top-1"], found["a"]["loss2"]), ("0.375 ± 0.177", "1.0 (1 of 2)"))
        self.refused(2, "no column note", "compare.py", "--sweep", "t.csv", "--columns", "note")

    def test_refusals(self):
        folder = self.run_ok("a")
        shutil.copytree(folder, self.path("runs", "b"))
        os.truncate(self.path("runs", "b", "run.h5"), 3000)
        self.refused(3, "cannot be read", "compare.py", "runs/a", "runs/b")
        self.refused(3, "there is no", "compare.py", ".")
        self.refused(2, "no run has evaluations of tset; there are test", "compare.py", "runs/a", "--evaluated", "tset")
        self.refused(3, "give a target such as 0.8", "compare.py", "runs/a", "--target", "80")
        for target in ("nan", "0", "-0.5", "inf"):
            self.refused(2, f"--target {target} is no quality", "compare.py", "runs/a", f"--target={target}")
        self.refused(3, "no run matches", "compare.py", "none*")
        self.refused(2, "give runs' folders, or --sweep", "compare.py")
        self.refused(2, "invalid choice: 'html'", "compare.py", "runs/a", "--format", "html")
        self.refused(2, "no column colour", "compare.py", "runs/a", "--columns", "colour")
        self.refused(2, "no variant x for --baseline", "compare.py", "runs/a", "--baseline", "x")
        self.refused(2, "--allow-different time", "compare.py", "runs/a", "--allow-different", "time")
        self.refused(3, "there is no no.csv", "compare.py", "--sweep", "no.csv")
        self.write("t.csv", "variant,seed,top1,config,commit\na,1,0.5,x,y\na,2,zero,x,y\n")
        self.refused(2, "is damaged", "compare.py", "--sweep", "t.csv")
        self.write("t.csv", "variant,seed,top1,config,commit\na,1,0.5,x,y\na,1,0.4,x,y\n")
        self.refused(2, "have the seed 1", "compare.py", "--sweep", "t.csv")
        self.refused(2, "no row with variant = z", "compare.py", "--sweep", "t.csv", "--where", "variant=z")
        self.write("t.csv", "variant,seed,top1\n")
        self.refused(2, "has no row", "compare.py", "--sweep", "t.csv")
        self.write("t.csv", "x,y\n1,2\n")
        self.refused(2, "no column seed", "compare.py", "--sweep", "t.csv")


class Paper(ToolTest):
    """inputs/cos2p/compare.ini, docs/methods/cos2p.csv and the tables of docs/methods/cos2p.md belong together."""

    def setUp(self):
        super().setUp()
        sys.path.insert(0, os.path.join(TOOLS, "papers"))
        import cos2p
        self.cos2p = cos2p
        self.addCleanup(setattr, cos2p, "PAGE", cos2p.PAGE)
        with open(cos2p.ROWS, newline="") as file:
            self.found = list(csv.DictReader(file))

    def test_the_tables_of_the_page(self):
        with open(self.cos2p.PAGE) as file:
            page = file.read()
        emptied = re.sub(r"(?s)(<!-- (?!end)([a-z0-9 ]+) -->\n).*?(<!-- end \2 -->)", r"\1\3", page)
        self.assertLess(len(emptied), len(page) - 5000)
        self.cos2p.PAGE = self.write("page.md", emptied)
        self.cos2p.main()
        with open(self.cos2p.PAGE) as file:
            self.assertEqual(file.read(), page)
        # One row, made here.
        own = [r for r in self.found if (r["table"], r["task"], r["method"]) == ("methods", "cifar10", "fjord")]

        def cell(column, form):
            values = np.array([float(row[column]) for row in own])
            return f"{values.mean():{form}} ± {values.std(ddof=1):{form}}"

        self.assertIn(f"| fjord | 3 | {cell('server_top1', '.3f')} | {cell('local_top1', '.3f')} | {cell('target_s', '.1f')} s | "
                      f"{cell('peak_mb', '.1f')} MB | {cell('weak_peak_mb', '.1f')} MB | {cell('utilisation', '.2f')} | "
                      f"{cell('mb_down', '.0f')}, {cell('mb_up', '.0f')} MB | {cell('rounds', '.0f')} |", page)

    def test_the_sweep_knows_the_rows(self):
        made = Sweep(os.path.join(os.environ["ESPALIER_INPUTS"], "cos2p", "compare.ini"))
        cells = {cell.key: cell for cell in made.cells}
        self.assertEqual(len(cells), 107)
        rows = {(r["table"], r["task"], r["method"], r["seed"]): r for r in self.found}
        self.assertLessEqual(set(rows), set(cells))
        some = [("methods", "cifar10", "cos2p", "2"), ("methods", "agnews", "fedavg, smallest model", "1"),
                ("methods", "cifar10", "depthfl with fedavg", "3"), ("ablations", "cifar10", "literal drift", "1"),
                ("pretrained", "cifar10", "fedavg, smallest model", "1"), ("pretrained", "cifar10", "cos2p, random masks", "3"),
                ("masks", "cifar10", "random", "2")]
        resolve(made, [cells[key] for key in some])
        for key in some:
            self.assertEqual(cells[key].config, rows[key]["config"], key)


if __name__ == "__main__":
    unittest.main()
