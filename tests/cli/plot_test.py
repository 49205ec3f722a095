"""tools/plot.py: every picture of runs as users have them, good and bad, and drawn values against h5py and NumPy."""

import contextlib
import copy
import io
import math
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
sys.path.insert(0, TOOLS)
import espalier_h5  # noqa: E402
import plot  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from support import ProgramTest  # noqa: E402

ALL = ("summary", *(picture for picture in plot.PICTURES if picture not in plot.OF_SPLIT))
# Tasks that crash and tasks that run out of memory, so that failures are drawn too.
FAULTY = ("--run.rounds=12", "--method.name=semi_async", "--faults.crash=0.15", "--device.tiny.memory_mb=0.05")


def read(folder):
    """The tables of a run as h5py has them."""
    with h5py.File(os.path.join(folder, "run.h5")) as file:
        return {table: {c: d[()] for c, d in file[table].items()} for table in ("rounds", "tasks", "evaluations")}


class PlotTest(ProgramTest):
    """Runs of one class are trained once: seeds 1, 2, 3 of a synchronous method, and one with failures."""

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.shared.cleanup)
        trainer = cls("run_ok")
        trainer.folder = cls.shared
        trainer.input = trainer.write("small.ini", plot_input())
        cls.seeds = [trainer.run_ok(f"plain-{s}", f"--run.seed={s}", "--run.rounds=6") for s in (1, 2, 3)]
        cls.faulty = trainer.run_ok("faulty", *FAULTY)
        pause = unittest.mock.patch.object(espalier_h5, "PAUSE_S", 0.001)
        pause.start()
        cls.addClassCleanup(pause.stop)

    def run_of(self, name, *settings):
        """A new run of the input of this test."""
        self.input = self.write("small.ini", plot_input())
        return self.run_ok(name, *settings)

    def plot(self, *words):
        """Exit status, output and errors of plot.py, in this process; the picture is self.out."""
        self.out = self.path("out.svg")
        with contextlib.suppress(FileNotFoundError):
            os.remove(self.out)
        output, errors = io.StringIO(), io.StringIO()
        out = () if "-o" in words else ("-o", self.out)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = plot.main([*words, *out])
        return status, output.getvalue(), errors.getvalue()

    def assert_drawn(self, *words):
        status, output, errors = self.plot(*words)
        self.assertEqual((status, errors), (0, ""), words)
        self.assertGreater(os.path.getsize(self.out), 5000)
        return output

    def assert_sentence(self, statuses, words_in_it, *words):
        status, output, errors = self.plot(*words)
        self.assertIn(status, statuses, (words, errors))
        self.assertEqual(output, "")
        self.assertRegex(errors, r"^plot\.py: [^\n]+\n$")
        self.assertIn(words_in_it, errors)
        self.assertFalse(os.path.exists(self.out))

    def copied(self, name, change=None, source=None):
        """A copy of a run whose file `change` edits."""
        folder = self.path(name)
        os.makedirs(folder)
        shutil.copy(os.path.join(source or self.faulty, "run.h5"), folder)
        if change:
            with h5py.File(os.path.join(folder, "run.h5"), "r+") as file:
                change(file)
        return folder


def plot_input():
    from support import SMALL
    return SMALL.replace("4*slow", "3*slow, 1*tiny").replace(
        "[device.slow]", "down_mbps = 50\nup_mbps = 20\nlatency_ms = 3\n[device.tiny]\ngflops = 1\n[device.slow]\nmemory_mb = 64")


class GoodRuns(PlotTest):
    def test_every_picture_of_one_run_and_of_many(self):
        for picture in ALL:
            with self.subTest(picture):
                self.assert_drawn(self.faulty, "-p", picture)
                self.assert_drawn(*self.seeds, self.faulty, "-p", picture)

    def test_a_pattern_stands_for_runs(self):
        folder = os.path.dirname(self.seeds[0])
        for words in (["plain-*"], ["plain-*", "plain-1"], ["plain-*", "plain-1/run.h5"]):  # each run once
            output = self.assert_drawn(*(os.path.join(folder, word) for word in words), "-p", "quality", "--target", "2")
            self.assertEqual([line[0] for line in output.splitlines()[:-1]], ["1", "2", "3"])
        self.assert_drawn(os.path.join(folder, "plain-[12]"))
        self.assert_sentence((3,), "no run matches", os.path.join(folder, "nothing-*"))

    def test_formats_and_default_name(self):
        for ending, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")):
            files = [self.path(f"{i}{ending}") for i in range(2)]
            for file in files:
                self.assertEqual(self.plot(self.faulty, "-o", file)[0], 0)
            first, second = (pathlib.Path(file).read_bytes() for file in files)
            self.assertTrue(first.startswith(magic))
            self.assertEqual(first, second)  # the same command, the same bytes
        run = self.copied("alone")
        for words, name in (((), "plot.png"), (("-p", "gantt"), "gantt.png")):
            done = subprocess.run([sys.executable, os.path.join(TOOLS, "plot.py"), run, *words], text=True, capture_output=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(done.stdout.strip(), os.path.join(run, name))
            self.assertTrue(os.path.exists(os.path.join(run, name)))

    def test_names_that_matplotlib_could_take_for_something_else(self):
        def rename(file):
            file.attrs["config"] = file.attrs["config"].replace("name = faulty", "name = _$x_{$", 1)
        run = self.copied("odd", rename)
        for picture in ALL:
            self.assert_drawn(run, self.seeds[0], "-p", picture)
        figure = plot.figure("quality", [plot.open_run(run), plot.open_run(self.seeds[0])])
        self.assertEqual(len(figure.legends[0].get_texts()), 2)

    def test_unfinished_run(self):
        run, job = self.long_run("killed")
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        for picture in ALL:
            self.assert_drawn(run, "-p", picture)

    def test_run_being_written(self):
        run, job = self.long_run("live")
        try:
            for picture in ALL:
                self.assert_drawn(run, self.seeds[0], "-p", picture)
            self.assertIsNone(job.poll())  # it still went on
        finally:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()

    def long_run(self, name):
        """A run that has begun and goes on for long."""
        words = self.command("run", self.input, f"--run.name={name}", "--run.rounds=200000")
        job = subprocess.Popen(words, cwd=self.folder.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
        run, begun, until = self.path("runs", name), False, time.time() + 60
        while not begun and time.time() < until:
            time.sleep(0.1)
            with contextlib.suppress(espalier_h5.RunError):
                begun = len(espalier_h5.open_run(run).evaluations["loss"]) > 2
        self.assertTrue(begun)
        return run, job


class BadInput(PlotTest):
    def test_every_picture_of_every_bad_file(self):
        def newer(file):
            version = file.attrs["version"].copy()
            version[0] += 1
            file.attrs["version"] = version

        def no_rows(file):
            for table in ("rounds", "tasks", "evaluations"):
                for column in file[table].values():
                    column.resize((0,))

        half, text = self.copied("half"), self.copied("text")
        with open(os.path.join(half, "run.h5"), "r+b") as file:
            file.truncate(os.path.getsize(file.name) // 2)
        with open(os.path.join(text, "run.h5"), "w") as file:
            file.write("round,loss\n1,2.3\n")
        os.mkdir(self.path("folder"))
        bad = {
            half: "cannot be read", text: "", self.path("folder"): "give a run's folder", self.path("none"): "there is no",
            self.copied("newer", newer): "newer", self.copied("empty", no_rows): "no rows",
            self.checkpoint(self.faulty): "not a run",
        }
        for run, words in bad.items():
            for picture in ALL:
                with self.subTest(run=os.path.basename(run), picture=picture):
                    self.assert_sentence((3,), words, run, "-p", picture)
        done = subprocess.run([sys.executable, os.path.join(TOOLS, "plot.py"), half], text=True, capture_output=True)
        self.assertEqual(done.returncode, 3)
        self.assertRegex(done.stderr, r"^plot\.py: [^\n]+\n$")

    def test_an_empty_run_beside_others_is_left_out(self):
        empty = self.copied("empty", lambda file: [c.resize((0,)) for t in ("rounds", "tasks", "evaluations")
                                                   for c in file[t].values()])
        status, _, errors = self.plot(empty, self.faulty)
        self.assertEqual(status, 0)
        self.assertRegex(errors, r"^note: \S*empty\S* has no rows yet and is left out\n$")

    def test_flipped_bits(self):
        """A picture (of values that may be wrong) or one sentence."""
        with open(os.path.join(self.faulty, "run.h5"), "rb") as file:
            whole = file.read()
        draw = random.Random(5)
        refused = 0
        for i in range(24):
            damaged = bytearray(whole)
            for _ in range((1, 30, 300)[i % 3]):
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            with open(self.path("flipped.h5"), "wb") as file:
                file.write(damaged)
            status, _, errors = self.plot(self.path("flipped.h5"), "-p", ALL[i % len(ALL)])
            self.assertIn(status, (0, 2, 3))
            if status:
                refused += 1
                self.assertRegex(errors, r"^plot\.py: [^\n]+\n$")
        self.assertGreater(refused, 0)

    def test_damaged_values(self):
        """Any value can be wrong: not a number, negative, huge."""
        runs = [espalier_h5.open_run(path) for path in (self.faulty, self.seeds[0])]
        draw = random.Random(6)
        for i in range(4 * len(ALL)):
            damaged = copy.deepcopy(runs)
            for run in damaged:
                for table in (run.rounds, run.tasks, run.evaluations, run.clients):
                    for values in table.values():
                        if draw.random() < 0.2:
                            wild = {"f": (np.nan, np.inf, -np.inf, 1e300, -1), "i": (-1, 0, 2**62, -2**63)}
                            values[draw.randrange(len(values))] = draw.choice(wild.get(values.dtype.kind, ("?",)))
            with self.subTest(i), unittest.mock.patch.object(plot, "open_run", lambda path: damaged[int(path)]):
                status, _, errors = self.plot("0", "1", "-p", ALL[i % len(ALL)])
                self.assertIn(status, (0, 2, 3))
                if status:
                    self.assertRegex(errors, r"^plot\.py: [^\n]+\n$")

    def test_a_run_of_a_protocol_with_other_tables(self):
        run = self.copied("other", lambda file: file["rounds"].pop("coverage_mean"))
        self.assert_sentence((2,), "no column coverage_mean in /rounds", run, "-p", "coverage")
        self.assert_drawn(run)
        needs = {"rounds": ("summary", "quality", "staleness", "utilisation", "coverage", "trained"),
                 "tasks": ("summary", "memory", "updates", "gantt"), "evaluations": ("summary", "quality")}
        for table, pictures in needs.items():
            run = espalier_h5.open_run(self.faulty)
            setattr(run, table, {})
            with unittest.mock.patch.object(plot, "open_run", lambda path: run):
                for picture in pictures:
                    with self.subTest(table=table, picture=picture):
                        self.assert_sentence((2,), f"no table /{table}", "run", "-p", picture)

    def test_requests_that_cannot_be_met(self):
        for words, sentence in (
            (("-p", "pie"), "there is no picture pie; there are summary, quality"),
            (("-o", self.path("a.jpg")), "must end with .png, .svg or .pdf"),
            (("-o", self.path("missing", "a.png")), "No such file"),
            (("--group", "no.option"), "no option no.option"),
            (("--group", "method", "-p", "gantt"), "does not use --group"),
            (("--target=0.5", "-p", "memory"), "does not use --target"),
            (("--target", "nan"), "finite"),
            (("--target", "high"), "invalid float"),
            (("--against", "money", "-p", "quality"), "--against money"),
            (("--measure", "beauty"), "no column beauty"),
            (("--measure", "set"), "takes a column of numbers"),
            (("--set", "moon"), "no evaluations of the set 'moon', but of test"),
            (("--smooth", "0"), "--smooth"),
            (("--smooth", "9" * 30), "--smooth must be at least 1 and at most"),
            (("--y", "0.5,0.5", "-p", "quality"), "--y 0.5,0.5 must be two numbers"),
            (("--y", "0.9,0.5", "-p", "quality"), "the smaller one first"),
            (("--y", "0,1,2", "-p", "quality"), "--y 0,1,2"),
            (("--y", "0,inf", "-p", "quality"), "--y 0,inf"),
            (("--y", "0,1"), "the picture summary does not use --y"),
            (("--from", "5", "--to", "2"), "nothing between"),
            (("--from", "1e9"), "the run ends at"),
            (("--clients", "0,x"), "--clients 0,x"),
            (("--clients", "5-2"), "--clients 5-2"),
            (("--clients", "77"), "no client 77"),
            (("--size", "big"), "--size big"),
            (("--colour", "red"), "unrecognized arguments"),
            (self.seeds * 3 + ["-p", "gantt"], "give at most 6"),
        ):
            with self.subTest(words):
                more = [self.copied(f"copy-{i}") for i in range(6)] if sentence == "give at most 6" else []
                self.assert_sentence((4 if sentence == "No such file" else 2,), sentence, self.faulty, *more, *words)

    def test_help_fits_a_screen(self):
        done = subprocess.run([sys.executable, os.path.join(TOOLS, "plot.py"), "--help"], text=True, capture_output=True)
        self.assertEqual(done.returncode, 0)
        lines = done.stdout.rstrip().splitlines()
        self.assertLessEqual(len(lines), 40)
        self.assertLessEqual(max(len(line) for line in lines), 100)
        self.assertTrue(lines[-1].startswith("  tools/plot.py "))


class DrawnValues(PlotTest):
    def draw(self, picture, folders, **view):
        """Returned values and axes."""
        axes = Figure().add_subplot()
        runs = [espalier_h5.open_run(folder) for folder in folders]
        return plot.PICTURES[picture](axes, runs, plot.View(**view)), axes

    def test_limits_of_the_vertical_axis(self):
        curves, axes = self.draw("quality", [self.faulty], limits=(0.25, 0.375))
        self.assertEqual(axes.get_ylim(), (0.25, 0.375))
        np.testing.assert_array_equal(curves[0].y, self.draw("quality", [self.faulty])[0][0].y)
        view = plot.view_of(plot.parse(["run", "--y=-1,0.5e1", "-p", "quality"]))
        figure = plot.figure("quality", [espalier_h5.open_run(self.faulty)], view)
        self.assertEqual({axes.get_ylim() for axes in figure.axes}, {(-1, 5)})

    def test_quality_against_each_axis(self):
        for folder in (self.seeds[1], self.faulty):
            tables = read(folder)
            rounds, tests = tables["rounds"], tables["evaluations"]
            row = np.array([list(rounds["version"]).index(v) for v in tests["version"]])
            expected = {
                "virtual": tests["virtual_time_s"],
                "rounds": rounds["round"][row],
                "wall": rounds["wall_time_s"][row],
                "bytes": np.cumsum(rounds["bytes_up"] + rounds["bytes_down"])[row],
            }
            self.assertGreaterEqual(len(row), 6)
            for against, x in expected.items():
                curves, axes = self.draw("quality", [folder], against=(against,))
                np.testing.assert_array_equal(curves[0].x, x)
                np.testing.assert_array_equal(curves[0].y, tests["top1"])
                line = axes.get_lines()[0]
                np.testing.assert_array_equal(line.get_ydata(), tests["top1"])
                drawn, ratio = line.get_xdata(), x[-1] / line.get_xdata()[-1]  # the unit of the axis
                np.testing.assert_allclose(drawn * ratio, x, rtol=1e-12)
                names = {1.0: "(s)", 60.0: "(min)", 1e3: "(kB)", 1e6: "(MB)"}
                if against != "rounds":
                    self.assertTrue(axes.get_xlabel().endswith(names[float(f"{ratio:.9g}")]))

    def test_seeds_as_mean_and_band(self):
        tables = [read(folder) for folder in self.seeds]
        values = np.array([t["evaluations"]["top1"] for t in tables])
        curves, axes = self.draw("quality", self.seeds + [self.faulty], group=("method",), against=("rounds",))
        self.assertEqual([curve.name for curve in curves], ["fedavg (3 runs)", "semi_async (1 run)"])
        np.testing.assert_array_equal(curves[0].x, tables[0]["rounds"]["round"])
        np.testing.assert_allclose(curves[0].y, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(curves[0].high - curves[0].y, values.std(0, ddof=1), atol=1e-12)
        np.testing.assert_allclose(curves[0].y - curves[0].low, values.std(0, ddof=1), atol=1e-12)
        np.testing.assert_array_equal(curves[1].y, read(self.faulty)["evaluations"]["top1"])
        self.assertIsNone(curves[1].low)
        self.assertEqual(len(axes.collections), 1)
        # Against time, seeds have points at different times: straight lines, where all seeds have values.
        times = [t["evaluations"]["virtual_time_s"] for t in tables]
        curve = self.draw("quality", self.seeds, group=("method",))[0][0]
        self.assertEqual(curve.x[0], max(t[0] for t in times))
        self.assertEqual(curve.x[-1], min(t[-1] for t in times))
        mean = np.mean([np.interp(curve.x, t, v) for t, v in zip(times, values)], axis=0)
        np.testing.assert_allclose(curve.y, mean, rtol=1e-12)

    def test_other_differences_in_a_group_are_told(self):
        _, _, errors = self.plot(*self.seeds, self.faulty, "--group", "data.name", "-p", "quality", "--against", "rounds")
        self.assertRegex(errors, r"^note: the runs of synthetic differ in more than the seed: [^\n]+\n$")
        self.assertEqual(self.plot(*self.seeds, "--group", "data.name", "-p", "quality")[2], "")

    def test_target(self):
        tables = read(self.seeds[0])
        top1 = tables["evaluations"]["top1"]
        target = (top1.min() + top1.max()) / 2
        first = next(i for i, value in enumerate(top1) if value >= target)
        rounds = tables["rounds"]
        megabytes = (rounds["bytes_up"] + rounds["bytes_down"])[:first + 1].sum() / 1e6
        output = self.assert_drawn(self.seeds[0], "--target", f"{target:.6f}", "-p", "quality")
        self.assertIn(f" after {tables['evaluations']['virtual_time_s'][first]:.6g} s virtual, "
                      f"round {rounds['round'][first]}, {megabytes:.6g} MB, ", output)
        self.assertIn("does not reach top1 2\n", self.assert_drawn(self.seeds[0], "--target", "2"))
        losses = tables["evaluations"]["loss"]  # of a loss, less is better
        goal = (losses.min() + losses.max()) / 2
        output = self.assert_drawn(self.seeds[0], "--target", str(goal), "--measure", "loss")
        self.assertIn(f", round {np.flatnonzero(losses <= goal)[0] + 1}, ", output)

    def test_staleness_utilisation_coverage(self):
        rounds = read(self.faulty)["rounds"]
        self.assertGreater(rounds["staleness_max"].max(), 0)
        for picture, x, y, bound in (("staleness", "virtual_time_s", "staleness_mean", "staleness_max"),
                                     ("utilisation", "virtual_time_s", "utilisation", None),
                                     ("coverage", "round", "coverage_mean", "coverage_min"),
                                     ("trained", "round", "coverage_ever", None)):
            curves, axes = self.draw(picture, [self.faulty])
            np.testing.assert_array_equal(curves[0].x, rounds[x])
            np.testing.assert_array_equal(curves[0].y, rounds[y])
            if bound:
                np.testing.assert_array_equal(axes.get_lines()[1].get_ydata(), rounds[bound])
        curves, _ = self.draw("staleness", [self.faulty], smooth=3)
        expected = [rounds["staleness_mean"][max(0, i - 2):i + 1].mean() for i in range(len(rounds["round"]))]
        np.testing.assert_allclose(curves[0].y, expected, atol=1e-12)

    def test_rounds_without_a_value(self):
        """They break neither a line nor a moving mean, and a run without any is not counted in its group."""
        runs = [espalier_h5.open_run(folder) for folder in self.seeds]
        share = runs[0].rounds["utilisation"]
        share[::2] = np.nan
        axes = Figure().add_subplot()
        plot.draw_utilisation(axes, runs[:1], plot.View())
        np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), share[1::2])
        curve = plot.draw_utilisation(axes, runs[:1], plot.View(smooth=2))[0]
        expected = [np.nanmean(share[max(0, i - 1):i + 1]) for i in range(1, len(share))]
        np.testing.assert_allclose(curve.y, [np.nan, *expected], atol=1e-12)
        runs[2].evaluations["top1"][:] = np.nan
        curve = plot.draw_quality(axes, runs, plot.View(group=("method",), against=("rounds",)))[0]
        self.assertEqual(curve.name, "fedavg (2 of 3 runs)")
        np.testing.assert_allclose(curve.y, (runs[0].evaluations["top1"] + runs[1].evaluations["top1"]) / 2, atol=1e-12)

    def test_memory(self):
        tasks = read(self.faulty)["tasks"]
        rows, axes = self.draw("memory", [self.faulty])
        failed = tasks["outcome"] == b"out_of_memory"
        self.assertTrue(failed.any())
        self.assertGreater(len(rows), 3)
        for client, peak, cap, count in rows:
            mine = tasks["client"] == client
            self.assertEqual(peak, tasks["peak_bytes"][mine].max())
            self.assertEqual(cap, tasks["cap_bytes"][mine].max())
            self.assertEqual(count, (failed & mine).sum())
        labels = [label.get_text() for label in axes.get_yticklabels()]
        self.assertEqual(labels[0], "client 0 (fast)")
        self.assertEqual([t.get_text() for t in axes.get_legend().get_texts()],
                         ["measured peak", "memory of its device", "out of memory"])

    def test_retention(self):
        """HeteroFL's levels: a client of width w holds these parameters of an mlp 144-32-16-10."""
        def held(width):
            a, b = math.ceil(width * 32), math.ceil(width * 16)
            return 144 * a + a + a * b + b + 10 * b + 10

        run = self.run_of("levels", "--method.name=heterofl", "--run.rounds=3")
        tasks = read(run)["tasks"]
        lines, axes = self.draw("retention", [run])
        self.assertEqual(sorted(lines), list(range(7)))
        widths = {client: tasks["share"][tasks["client"] == client][0] for client in lines}
        self.assertEqual(set(widths.values()), {1, 0.5, 0.25})
        for client, (x, y) in lines.items():
            mine = tasks["client"] == client
            np.testing.assert_array_equal(x, np.sort(tasks["base_version"][mine]) + 1)
            np.testing.assert_allclose(y, np.full(len(x), held(widths[client]) / held(1)), rtol=1e-12)
        self.assertIn("share of the model's", axes.get_ylabel())
        # If no client holds the whole model, the share is still of the whole model, whose size is in the checkpoint.
        half = self.run_of("half", "--method.name=heterofl", "--method.widths=0.5", "--run.rounds=1")
        for _, y in self.draw("retention", [half])[0].values():
            np.testing.assert_allclose(y, held(0.5) / held(1), rtol=1e-12)
        shutil.copy(os.path.join(half, "run.h5"), self.path("alone.h5"))
        lines, axes = self.draw("retention", [self.path("alone.h5")])
        self.assertEqual({value for _, y in lines.values() for value in y}, {1.0})
        self.assertIn("share of the largest submodel's", axes.get_ylabel())

    def test_statistics_are_no_parameters(self):
        run = self.run_of("norm", "--model.name=cnn", "--model.channels=4", "--model.features=8", "--model.norm=batch",
                          "--run.rounds=1", "--data.synthetic_samples=60")
        with h5py.File(self.checkpoint(run)) as file:
            self.assertTrue(any("running_mean" in name for name in file["model"]))
        for _, y in self.draw("retention", [run])[0].values():
            self.assertEqual(y.tolist(), [1.0])

    def test_update_times(self):
        tasks = read(self.seeds[0])["tasks"]
        lines, _ = self.draw("updates", [self.seeds[0]])
        self.assertEqual(sorted(lines), list(range(7)))
        for client, (x, y) in lines.items():
            mine = (tasks["client"] == client) & (tasks["outcome"] == b"merged")
            order = np.argsort(tasks["base_version"][mine])
            np.testing.assert_array_equal(x, tasks["base_version"][mine][order] + 1)
            np.testing.assert_allclose(y, (tasks["finished_s"] - tasks["sent_s"])[mine][order], rtol=1e-12)
        self.assertEqual(list(self.draw("updates", [self.seeds[0]], clients=(2, 5))[0]), [2, 5])

    def test_gantt_of_a_range(self):
        tables = read(self.faulty)
        tasks, end = tables["tasks"], tables["rounds"]["virtual_time_s"][-1]
        for start, stop, clients in ((0.0, end, ()), (0.3 * end, 0.6 * end, ()), (0.31 * end, 0.32 * end, (0, 4, 6))):
            bars, axes = self.draw("gantt", [self.faulty], start=start, end=stop, clients=clients)
            self.assertEqual(axes.get_xlim(), (start, stop))
            for client in clients or range(7):
                mine = tasks["client"] == client
                begin = tasks["sent_s"][mine]
                for part in ("download", "compute", "upload"):
                    length = np.nan_to_num(tasks[part + "_s"][mine])
                    length = np.minimum(length, np.maximum(tasks["finished_s"][mine] - begin, 0))
                    seen = np.clip(begin + length, start, stop) - np.clip(begin, start, stop)
                    drawn = sum(b[3] for b in bars if b[0] == client and b[1] == part)
                    self.assertAlmostEqual(drawn, seen.sum(), places=12)
                    begin = begin + length
        self.assertGreater(len(bars), 0)
        everything, axes = self.draw("gantt", [self.faulty], start=0.0, end=end)
        words = [t.get_text() for t in axes.get_legend().get_texts()]
        self.assertIn("crashed", words)
        self.assertIn("out of memory", words)


class Legible(PlotTest):
    def boxes(self, figure):
        """The page, and the box of each text, legend and pair of axes that is drawn."""
        renderer = FigureCanvasAgg(figure).get_renderer()
        with plot.matplotlib.rc_context(plot.STYLE):
            figure.draw(renderer)
        legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
        drawn = [*figure.axes, *legends, *(axes.xaxis.label for axes in figure.axes)]
        return figure.bbox.padded(2), [thing.get_tightbbox(renderer) for thing in drawn]

    def assert_whole(self, figure):
        page, boxes = self.boxes(figure)
        for box in boxes:
            self.assertTrue(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, box)

    def test_legends_are_not_cut(self):
        runs = [espalier_h5.open_run(folder) for folder in (*self.seeds, self.faulty)]
        for run, method in zip(runs, ("fedasync", "fedavg", "semi_async", "fedavg")):
            run.config = {**run.config, "method.name": method}
        twice = [run for run in runs for _ in range(2)]
        for picture in ("summary", "utilisation", "quality"):
            for against in (("virtual",), ("virtual", "bytes")):
                for dpi in (60, 80, 160):  # the fewer pixels, the wider the letters
                    figure = plot.figure(picture, twice, plot.View(group=("method",), against=against, target=0.1))
                    figure.set_dpi(dpi)
                    self.assert_whole(figure)

    def test_many_kinds_of_failures_and_the_label_below_a_gantt(self):
        run = espalier_h5.open_run(self.faulty)
        kinds = np.array([*plot.FAILURES])
        run.tasks["outcome"] = np.resize(kinds, len(run.tasks["outcome"]))
        for size in (None, (5.5, 4)):
            figure = plot.figure("gantt", [run], plot.View(), size)
            self.assert_whole(figure)
            axes, legend, label = self.boxes(figure)[1]
            self.assertEqual(len(figure.axes[0].get_legend().get_texts()), 4 + len(kinds))
            self.assertFalse(legend.overlaps(label))

    def test_forty_curves_have_all_their_names(self):
        run = espalier_h5.open_run(self.seeds[0])
        runs = [copy.copy(run) for _ in range(40)]
        for i, one in enumerate(runs):
            one.config = {**run.config, "run.name": f"r{i}", "train.lr": str(i)}
        self.assert_whole(plot.figure("staleness", runs))

    def test_a_size_is_kept_or_refused(self):
        for words in (("-p", "gantt", "--size", "2x1"), ("-p", "quality", "--size", "1.5x1.5"),
                      ("-p", "utilisation", "--group", "method,seed,lr,batch", "--size", "3.4x1.8")):
            self.assert_sentence((2,), "give a larger --size", *self.seeds, self.faulty, *words)
        out = self.path("sized.png")
        for words in (("-p", "utilisation", "--size", "4x3"), ("-p", "quality", "--group", "method,seed", "--size", "9x6")):
            self.assertEqual(self.plot(*self.seeds, self.faulty, *words, "--dpi", "100", "-o", out)[0], 0)
            with open(out, "rb") as file:
                size = struct.unpack(">II", file.read(24)[16:])
            self.assertEqual(size, tuple(int(100 * float(side)) for side in words[-1].split("x")))

    def test_a_run_of_one_round(self):
        run = espalier_h5.open_run(self.run_of("one", "--run.rounds=1"))
        axes = Figure().add_subplot()
        plot.PICTURES["quality"](axes, [run], plot.View(against=("rounds",)))
        self.assertEqual([tick for tick in axes.get_xticks() if tick % 1], [])
        figure = plot.figure("summary", [run])
        for line in figure.axes[2].get_lines():  # the losses: a line through one point is seen by its marker only
            self.assertNotIn(line.get_marker(), (None, "None", ""))
        figure = plot.figure("quality", [run] * 9)
        self.assertEqual({line.get_marker() for line in figure.axes[0].get_lines()}, {"o"})

    def test_a_group_without_a_mean_on_an_axis(self):
        def later(file):
            file["rounds/wall_time_s"][...] = file["rounds/wall_time_s"][()] + 1000.0
        run = self.copied("later", later, self.seeds[0])
        words = (run, self.seeds[1], "-p", "quality", "--group", "method", "--target", "0.01")
        status, output, errors = self.plot(*words)
        self.assertEqual(status, 0)
        self.assertRegex(errors, r"^note: the runs of fedavg \(2 runs\) have no part of the axis 'wall time' in common[^\n]+\n$")
        self.assertRegex(output, r"^fedavg \(2 runs\): top1 0.01 after [\d.]+ s virtual, round 1, [\d.]+ MB\n")
        self.assert_sentence((2,), "no part of the axis 'wall time' in common", *words, "--against", "wall")

    def test_labels_of_groups_name_the_option(self):
        names = plot.groups([espalier_h5.open_run(run) for run in self.seeds], ("method", "seed"))
        self.assertEqual(list(names), [f"fedavg, seed {s}" for s in (1, 2, 3)])

    def test_a_client_without_a_measured_peak_has_no_dot(self):
        run = espalier_h5.open_run(self.faulty)
        run.tasks["peak_bytes"][run.tasks["outcome"] == "out_of_memory"] = 0  # the submodel itself did not fit
        rows = plot.client_memory(run)
        self.assertIn(0, rows[:, 1])
        axes = Figure().add_subplot()
        plot.draw_memory(axes, [run], plot.View())
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        self.assertEqual(len(dots), (rows[:, 1] > 0).sum())

    def test_eighteen_runs(self):
        def variant(seed, method, window):
            def change(file):
                text = file.attrs["config"].replace("name = plain-1", f"name = cifar-{method}-w{window}-s{seed}", 1)
                text = text.replace("seed = 1", f"seed = {seed}", 1).replace("name = fedavg", f"name = {method}", 1)
                file.attrs["config"] = text.replace("grace_s = 0", f"grace_s = {window}", 1)
            return change

        runs = [espalier_h5.open_run(self.copied(f"{m}{w}{s}", variant(s, m, w), self.seeds[0]))
                for m in ("fedavg", "fedasync", "semi_async") for w in (0, 1) for s in (1, 2, 3)]
        for picture in ("summary", "quality", "staleness", "utilisation", "coverage"):
            with self.subTest(picture):
                figure = plot.figure(picture, runs)
                renderer = FigureCanvasAgg(figure).get_renderer()
                figure.draw(renderer)
                legend = figure.legends[0]
                names = [entry.get_text() for entry in legend.get_texts()]
                self.assertEqual(len(set(names)), 18)
                self.assertEqual(names[0], "fedavg-w0-s1")
                box, page = legend.get_window_extent(renderer), figure.bbox
                self.assertTrue(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)
                for axes in figure.axes:
                    self.assertFalse(box.overlaps(axes.get_tightbbox(renderer)))
                looks = {(line.get_color(), str(line._dash_pattern)) for line in figure.axes[0].get_lines()[:18]}
                self.assertEqual(len(looks), 18)
        colours = [look["color"] for look in plot.looks(runs, plot.View(), 18)]
        self.assertEqual(len(set(colours)), 6)  # one for each method and window; seeds differ in dashes
        self.assertTrue(all(len(set(colours[i:i + 3])) == 1 for i in range(0, 18, 3)))

    def test_looks_do_not_repeat_silently(self):
        most = len(plot.COLOURS) * len(plot.DASHES)
        self.assertEqual(len({str(plot.look(i)) for i in range(most)}), most)
        run = espalier_h5.open_run(self.seeds[0])
        runs = []
        for i in range(most + 1):
            runs.append(copy.copy(run))
            runs[-1].config = {**run.config, "run.name": f"r{i}", "train.lr": str(i)}
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            plot.tell("quality", runs, plot.View())
        self.assertIn(f"with {most + 1} curves some look alike", errors.getvalue())

    def test_colour_blind_people_tell_neighbours_apart(self):
        """Colours as seen with each kind of colour blindness (matrices of Machado, Oliveira and Fernandes 2009, severity
        1) differ by more than 10 in CIELAB; 2.3 is a just noticeable difference."""
        kinds = {
            "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
            "none": np.eye(3),
        }
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

        def lab(colour, kind):
            rgb = np.array(to_rgb(colour))
            linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
            t = xyz @ np.clip(kind @ linear, 0, 1) / xyz.sum(1)
            x, y, z = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
            return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

        for palette in (plot.COLOURS, [colour for _, colour in plot.SPANS]):
            for name, kind in kinds.items():
                seen = [lab(colour, np.array(kind)) for colour in palette]
                apart = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
                self.assertGreater(apart, 10, name)

    def test_every_axis_has_its_unit(self):
        runs = [espalier_h5.open_run(self.faulty)]
        for picture in ALL[1:]:
            # Rounds of clients have no common step; regions_tools_test.py has that axis.
            axes_of_rounds = [axis for axis in plot.AGAINST if axis != "steps"]
            for against in axes_of_rounds if picture not in plot.OF_ONE_RUN else ("virtual",):
                axes = Figure().add_subplot()
                plot.PICTURES[picture](axes, runs, plot.View(against=(against,)))
                self.assertRegex(axes.get_xlabel(), r"\((s|min|B|kB|MB|kB, log scale|MB, log scale)\)$|^round")
                if picture not in ("memory", "gantt"):  # these have clients there
                    self.assertNotEqual(axes.get_ylabel(), "")


if __name__ == "__main__":
    unittest.main()
