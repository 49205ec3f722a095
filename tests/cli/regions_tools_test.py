"""The Python tools on runs of regions: figures against h5py and NumPy, and one sentence where a tool shows only rounds."""

import csv
import json
import os
import sys
import tempfile
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
sys.path.insert(0, TOOLS)
import espalier_h5  # noqa: E402
import plot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from regions_test import INPUT  # noqa: E402
from support import ProgramTest, finish  # noqa: E402


class RegionsToolsTest(ProgramTest):
    """The runs are trained once: regions of two speeds, with overlap and without."""

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.shared.cleanup)
        trainer = cls("run_ok")
        trainer.folder = cls.shared
        trainer.input = trainer.write("regions.ini", INPUT)
        cls.runs = [trainer.run_ok("cocodc"),
                    trainer.run_ok("diloco", "--method.name=diloco", "--regions.overlap=0", "--regions.outer_lr=0.5")]
        with open(os.path.join(cls.runs[0], "log.txt"), encoding="utf-8") as file:
            cls.told = dict(word.split("=") for word in file.read().split("done: ")[1].split() if "=" in word)

    def tool(self, name, *words, status=0, runs=None):
        command = [sys.executable, os.path.join(TOOLS, name), *(self.runs[:1] if runs is None else runs), *words]
        done = finish(self.begin(command), 300)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stderr if status else done.stdout

    def test_periods_are_those_of_the_tables(self):
        for folder in self.runs:
            run = espalier_h5.open_run(folder)
            self.assertEqual(run.protocol, "regions")
            regions, exchanges = self.table(folder, "regions"), self.table(folder, "exchanges")
            evaluated = dict(zip(self.column(folder, "version", "evaluations"), self.column(folder, "virtual_time_s", "evaluations")))
            np.testing.assert_array_equal(run.rounds["version"], [1, 2, 3, 4])
            np.testing.assert_array_equal(run.rounds["step"], [8, 16, 24, 32])
            for i, period in enumerate((1, 2, 3, 4)):
                rows = [r for r in range(len(regions["period"])) if regions["period"][r] == period]
                sent = [r for r in range(len(exchanges["region"])) if 8 * (period - 1) < exchanges["sent_step"][r] <= 8 * period]
                self.assertEqual(len(rows), 4)
                self.assertEqual(run.rounds["bytes_up"][i], sum(exchanges["bytes_up"][r] for r in sent))
                self.assertEqual(run.rounds["bytes_down"][i], sum(exchanges["bytes_down"][r] for r in sent))
                samples = sum(regions["samples"][r] for r in rows)
                loss = sum(regions["train_loss"][r] * regions["samples"][r] for r in rows) / samples
                self.assertAlmostEqual(run.rounds["train_loss"][i], loss, 12)
                self.assertEqual(run.rounds["virtual_time_s"][i], evaluated[period])
                self.assertAlmostEqual(run.rounds["stall_s"][i], sum(regions["stall_s"][r] for r in rows), 12)

    def test_a_run_without_all_regions_of_a_period(self):
        copy = self.path("part.h5")
        with h5py.File(os.path.join(self.runs[0], "run.h5")) as old, h5py.File(copy, "w") as file:
            for name, value in old.attrs.items():
                file.attrs[name] = value
            for table in old:
                old.copy(table, file)
            for table, rows in (("regions", 6), ("evaluations", 1)):
                for name in list(file[table]):
                    values = file[table][name][:rows]
                    del file[table][name]
                    file[table][name] = values
        self.assertEqual(len(espalier_h5.open_run(copy).rounds["round"]), 1)
        with h5py.File(copy, "a") as file:
            del file["exchanges"]
        with self.assertRaisesRegex(espalier_h5.RunError, "it has no table exchanges"):
            espalier_h5.open_run(copy)

    def test_summary_has_the_figures_that_the_program_prints(self):
        found = espalier_h5.summary(espalier_h5.open_run(self.runs[0]), target=0.2)
        for name, key, digits in (("mb_up", "up_mb", 3), ("mb_down", "down_mb", 3), ("virtual_s", "virtual_s", 3), ("top1", "top1", 4)):
            self.assertAlmostEqual(found[name], float(self.told[key]), digits)
        self.assertEqual((found["rounds"], found["steps"]), (4, 32))
        top1, versions = (self.column(self.runs[0], name, "evaluations") for name in ("top1", "version"))
        version = versions[np.flatnonzero(top1 >= 0.2)[0]]
        self.assertEqual(found["target_steps"], 8 * version)
        for absent in ("updates", "failures", "staleness", "wall_s"):
            self.assertNotIn(absent, found)
        many = espalier_h5.runs(self.runs)
        self.assertEqual(len(many.columns("rounds")["version"]), 8)
        self.assertEqual(len(many.columns("exchanges")["region"]), sum(len(self.column(r, "region", "exchanges")) for r in self.runs))

    def test_versions_without_all_regions(self):
        """Of regions that never wait, are away, or come back, the rounds are the versions that were made, with all bytes of the
        exchanges."""
        self.input = self.write("regions.ini", INPUT)
        decoupled = ("--method.name=decoupled_diloco", "--regions.overlap=0", "--run.rounds=5")
        for name, settings in (
                ("decoupled", decoupled), ("rarely", (*decoupled, "--record.evaluate_every=2")),
                ("away", ("--faults.crash=0.3", "--faults.vanish=0.2", "--run.rounds=6")),
                ("back", ("--method.name=diloco", "--regions.overlap=0", "--faults.crash=0.2", "--faults.clients=1,2", "--run.rounds=6"))):
            folder = self.run_ok(name, *settings)
            with self.subTest(name), open(os.path.join(folder, "DONE"), encoding="utf-8") as file:
                told = dict(word.split("=") for word in file.read().split() if "=" in word)
                run = espalier_h5.open_run(folder)
                found = espalier_h5.summary(run)
                for key, column, digits in (("rounds", "rounds", 0), ("up_mb", "mb_up", 3), ("virtual_s", "virtual_s", 3)):
                    self.assertEqual(told[key], f"{found[column]:.{digits}f}", key)
                # The shared copy that a region takes when it is back is in no table.
                for column in ("bytes_up", "bytes_down"):
                    self.assertEqual(run.rounds[column].sum(), self.column(folder, column, "exchanges").sum(), column)
                times = dict(zip(self.column(folder, "version", "evaluations").tolist(),
                                 self.column(folder, "virtual_time_s", "evaluations").tolist()))
                places = dict(zip(run.rounds["version"].tolist(), run.rounds["virtual_time_s"].tolist()))
                self.assertEqual(times, {version: places[version] for version in times})
                self.assertTrue((np.diff(run.rounds["virtual_time_s"]) >= 0).all())
                # A region that trained nothing has no loss; those of the others count.
                self.assertTrue(np.isfinite(run.rounds["train_loss"]).all(), run.rounds["train_loss"])
                # Time that a region lost is not drawn as work.
                done, _ = espalier_h5.region_spans(run)
                regions = self.table(folder, "regions")
                shown = {part: sum(end - begin for _, kind, begin, end in done if kind == part) for part in ("compute", "lost")}
                self.assertLess(abs(shown["compute"] - regions["compute_s"].sum()), 0.02 * regions["compute_s"].sum())
                self.assertEqual(shown["lost"] > 0, (regions["lost_steps"] > 0).any(), name)
                for region in range(4):
                    mine = sorted(span[2:] for span in done if span[0] == region)
                    self.assertEqual([begin for begin, _ in mine[1:]], [end for _, end in mine[:-1]])

    def test_spans_are_the_times_of_the_regions(self):
        for folder in self.runs:
            done, travels = espalier_h5.region_spans(espalier_h5.open_run(folder))
            regions = self.table(folder, "regions")
            for region in range(4):
                mine = regions["region"] == region
                for part, column in (("compute", "compute_s"), ("stall", "stall_s")):
                    total = sum(end - begin for r, p, begin, end in done if (r, p) == (region, part))
                    if part == "compute":
                        self.assertAlmostEqual(total, regions[column][mine].sum(), 6)
                    else:  # the stall before the first step of a next period is the next period's
                        self.assertGreaterEqual(total + 1e-6, regions[column][mine].sum())
            self.assertEqual(len(travels), np.isfinite(self.column(folder, "arrived_s", "exchanges")).sum())

    def test_pictures(self):
        runs = [espalier_h5.open_run(folder) for folder in self.runs]
        curves = plot.curves_of(runs, "loss", "steps")
        for curve, folder in zip(curves, self.runs):
            np.testing.assert_array_equal(curve.x, [8, 16, 24, 32])
            np.testing.assert_array_equal(curve.y, self.column(folder, "loss", "evaluations"))
        for against, words in (("steps", "step"), ("rounds", "period"), ("virtual", "virtual time (s)")):
            axes = Figure().add_subplot()
            plot.PICTURES["quality"](axes, runs, plot.View(against=(against,)))
            self.assertEqual(axes.get_xlabel(), words)
        drawn = plot.curves_of(runs, "loss", "bytes")[0]
        self.assertAlmostEqual(drawn.x[-1] * 1e-6, float(self.told["up_mb"]) + float(self.told["down_mb"]), 3)
        for picture in ("summary", "quality", "utilisation", "memory", "gantt"):
            out = self.path(picture + ".svg")
            self.tool("plot.py", "-p", picture, "-o", out, runs=self.runs)
            self.assertGreater(os.path.getsize(out), 5000)
        for picture, words in (("staleness", "staleness_mean"), ("coverage", "coverage_mean"), ("updates", "no tasks"), ("retention", "no tasks")):
            errors = self.tool("plot.py", "-p", picture, status=2)
            self.assertRegex(errors, rf"^plot\.py: .*run of regions.*{words}.*\n$")
        self.assertIn("wall_time_s", self.tool("plot.py", "-p", "quality", "--against=wall", status=2))

    def test_compare_and_sweep(self):
        table = self.tool("compare.py", "--columns=top1,steps,stall_s,mb_up", runs=self.runs)
        row = next(line for line in table.splitlines() if line.startswith("| cocodc"))
        self.assertIn("| 32 |", row)
        self.write("regions.ini", INPUT)
        self.write("grid.ini", "[sweep]\ninput = regions.ini\nseeds = 1, 2\nrun.rounds = 2\n[variant {regions.arrival}]\n"
                               "regions.arrival = [replace, compensate]\n")
        done = finish(self.begin([sys.executable, os.path.join(TOOLS, "sweep.py"), "grid.ini"]), 300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(self.path("grid.csv"), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["steps"] for row in rows], ["16"] * 4)
        self.assertGreater(len({row["loss"] for row in rows}), 2)

    def test_report(self):
        page = self.path("report.html")
        self.tool("report.py", "-o", page)
        with open(page, encoding="utf-8") as file:
            text = file.read()
        self.assertIn("What each region did", text)
        for words in ("Updates in a round", "No task is recorded", "failed tasks"):
            self.assertNotIn(words, text)
        data = text.split('id="data">')[1].split("</script>")[0]
        self.assertEqual(json.loads(data), {})
        self.assertEqual(text.count('data-label="region"'), 4)

    def test_exports(self):
        folder = self.path("csv")
        self.tool("track.py", "--to=csv", "-o", folder)
        for name in ("regions", "exchanges", "evaluations", "clients"):
            with open(os.path.join(folder, name + ".csv"), newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            table = self.table(self.runs[0], name)
            self.assertEqual(len(rows), len(next(iter(table.values()))))
            self.assertEqual(list(rows[0]), list(table))
        trace = self.path("trace.json")
        self.tool("track.py", "--to=trace", "-o", trace)
        with open(trace, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        computed = sum(e["dur"] for e in events if e["ph"] == "X" and e["name"] == "compute") * 1e-6
        self.assertAlmostEqual(computed, self.column(self.runs[0], "compute_s", "regions").sum(), 5)
        self.assertEqual(sum(e["ph"] == "X" and e["name"].startswith("period ") for e in events), 4)
        self.tool("track.py", "--to=tensorboard", "-o", self.path("board"))
        self.assertEqual(len(os.listdir(self.path("board"))), 1)

    def test_follow(self):
        line = self.tool("follow.py").splitlines()[0]
        self.assertTrue(line.startswith("period 4/4   top-1 "), line)
        screen = self.tool("follow.py", "--once")
        self.assertEqual(sum(line.startswith("region ") for line in screen.splitlines()), 4)
        self.assertNotIn("left about", screen)


if __name__ == "__main__":
    unittest.main()
