"""The Python tools on runs of split training: figures against h5py and NumPy, and one sentence where a tool shows only
tasks."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import unittest

import numpy as np

from support import SMALL, ProgramTest

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
sys.path.insert(0, TOOLS)
import espalier_h5  # noqa: E402
import plot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from split_test import INPUT  # noqa: E402

PARTS = {"computes": "compute_s", "on links": "transfer_s", "waits for workers": "waiting_s", "waits for the host": "top_s"}


class SplitTools(ProgramTest):
    @classmethod
    def setUpClass(cls):
        """Two runs, trained once. In the first a client holds the top, so bytes pass the server's links and others. In the second
        each worker has a top on the server and waits for other clusters, and iterations are recorded."""
        trainer = cls("run_ok")
        trainer.setUp()
        cls.addClassCleanup(trainer.doCleanups)
        trainer.input = trainer.write("split.ini", INPUT)
        cls.run_folder = trainer.run_ok("one", "--split.host=fastest", "--split.top=merged", "--split.iterations=3")
        cls.each = trainer.run_ok("each", "--method.name=splitfed_v1", "--split.iterations=3", "--device.slow.batch=5",
                                  "--record.iterations=true", "--clients.per_round=3")
        trainer.input = trainer.write("rounds.ini", SMALL)
        cls.of_rounds = trainer.run_ok("rounds", "--run.rounds=1")

    def tool(self, name, *words, status=0):
        done = subprocess.run([sys.executable, os.path.join(TOOLS, name), *words], cwd=self.folder.name, text=True,
                              capture_output=True)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_rounds_are_sums_of_workers_and_clusters(self):
        run = espalier_h5.open_run(self.run_folder)
        self.assertEqual(run.protocol, "split")
        workers, clusters = self.table(self.run_folder, "split_rounds"), self.table(self.run_folder, "clusters")
        self.assertEqual(run.rounds["round"].tolist(), [1, 2, 3, 4])
        for i in range(4):
            rows = [r for r in range(len(workers["round"])) if workers["round"][r] == i + 1]
            self.assertEqual(len(rows), 3)
            samples = sum(workers["samples"][r] for r in rows)
            loss = sum(workers["train_loss"][r] * workers["samples"][r] for r in rows) / samples
            self.assertAlmostEqual(run.rounds["train_loss"][i], loss, 12)
            self.assertAlmostEqual(run.rounds["virtual_time_s"][i], clusters["ended_s"][i], 12)
            self.assertAlmostEqual(run.rounds["waiting_s"][i], sum(workers["waiting_s"][r] for r in rows), 12)
            self.assertEqual(run.rounds["device_bytes"][i], sum(workers["bytes_up"][r] + workers["bytes_down"][r] for r in rows))
            self.assertEqual(run.rounds["bytes_up"][i], clusters["server_bytes_up"][i])
            spent = sum(workers[part][r] for r in rows for part in PARTS.values())
            self.assertAlmostEqual(run.rounds["waiting_share"][i], run.rounds["waiting_s"][i] / spent, 12)
            own = max(workers["peak_bytes"][workers["round"] <= i + 1])
            self.assertEqual(run.rounds["peak_client_bytes"][i], max(own, *clusters["peak_bytes"][:i + 1]))
        self.assertEqual(run.units["rounds/device_bytes"], "B")

    def plot(self, picture, *runs, out=None):
        """Exit status and errors of plot.py, in this process."""
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            status = plot.main([*runs, "-p", picture, "-o", self.path(out or picture + ".png")])
        return status, errors.getvalue()

    def drawn(self, picture, runs, **view):
        axes = Figure().add_subplot()
        return plot.PICTURES[picture](axes, [espalier_h5.open_run(run) for run in runs], plot.View(**view)), axes

    def test_the_gantt_chart_has_the_recorded_times(self):
        for folder, first, has_server in ((self.run_folder, "client 0 (fast)", False), (self.each, "server", True)):
            rows, axes = self.drawn("gantt", [folder], start=0)
            workers, clusters, iterations = (self.table(folder, t) for t in ("split_rounds", "clusters", "iterations"))
            self.assertEqual(axes.get_yticklabels()[0].get_text(), first)
            self.assertEqual(len(axes.get_yticklabels()), 4 + has_server)
            wanted = []
            for i, number in enumerate(workers["round"]):
                at = workers["begun_s"][i]
                for part, column in PARTS.items():
                    wanted.append((workers["client"][i], part, at, workers[column][i]))
                    at += workers[column][i]
                self.assertAlmostEqual(at, workers["ended_s"][i], 9)
                own = np.flatnonzero((clusters["round"] == number) & (clusters["cluster"] == workers["cluster"][i]))[0]
                end = max((clusters["ended_s"] + clusters["waiting_s"])[clusters["round"] == number])
                wanted.append((workers["client"][i], "waits for clusters", clusters["ended_s"][own], end - clusters["ended_s"][own]))
                if not has_server and i % 3 == 0:  # iterations are not recorded, so the steps of the top are one bar
                    wanted.append((clusters["host"][own], "works as host", workers["begun_s"][i], clusters["top_s"][own]))
            wanted += [(-1, "works as host", begin, end - begin) for begin, end in zip(iterations["received_s"], iterations["stepped_s"])]
            self.assertEqual(len(iterations["round"]), 4 * 3 * 3 if has_server else 0)
            wanted = sorted(row for row in wanted if row[3] > 1e-12)
            self.assertEqual([row[:2] for row in sorted(rows)], [row[:2] for row in wanted])
            np.testing.assert_allclose([row[2:] for row in sorted(rows)], [row[2:] for row in wanted], atol=1e-9)
            self.assertEqual(any(row[1] == "waits for clusters" for row in rows), has_server)
            # Half of the second round, and one client.
            first_s, second_s = clusters["ended_s"].reshape(4, -1).max(1)[:2]
            middle, client = (first_s + second_s) / 2, workers["client"][workers["round"] == 2][0]
            cut, axes = self.drawn("gantt", [folder], start=first_s, end=middle, clients=(int(client),))
            self.assertEqual(axes.get_xlim()[1], middle)
            self.assertEqual({row[0] for row in cut}, {client, -1} if has_server else {client})
            spent = sum(row[3] for row in cut if row[0] == client)
            # The bottom waits for its turn on the server's link, or for the way of the bottom and the top to the host.
            self.assertAlmostEqual(spent, middle - workers["begun_s"][workers["round"] == 2][0], 9)

    def test_values_over_rounds(self):
        table = self.table(self.each, "split_rounds")
        for picture, values in (("batches", table["batch"]), ("updates", table["compute_s"] + table["transfer_s"])):
            lines, axes = self.drawn(picture, [self.each])
            self.assertEqual(sorted(lines), sorted(set(table["client"])))
            for client, (rounds, drawn) in lines.items():
                np.testing.assert_array_equal(rounds, table["round"][table["client"] == client])
                np.testing.assert_allclose(drawn, values[table["client"] == client])
            self.assertEqual(axes.get_xlabel(), "round")
        self.assertEqual(set(table["batch"]), {5, 7})

    def test_waiting_of_groups(self):
        curves, axes = self.drawn("waiting", [self.run_folder, self.each], group=("method",))
        shares = []
        for folder in (self.run_folder, self.each):
            workers, clusters = self.table(folder, "split_rounds"), self.table(folder, "clusters")
            # Each worker waits within its cluster, and then for the other clusters.
            between = clusters["waiting_s"] * clusters["workers"]
            waits, spent = ([sum(values[table["round"] == number].sum() for table, values in pairs) for number in range(1, 5)] for pairs in (
                ((workers, workers["waiting_s"]), (clusters, between)),
                ((workers, sum(workers[part] for part in PARTS.values())), (clusters, between))))
            shares.append(np.divide(waits, spent))
        self.assertEqual([curve.name for curve in curves], ["splitfed_v2 (1 run)", "splitfed_v1 (1 run)"])
        for curve, share in zip(curves, shares):
            np.testing.assert_array_equal(curve.x, range(1, 5))
            np.testing.assert_allclose(curve.y, share)
        self.assertGreater(shares[1].min(), 0.1)
        self.assertEqual(axes.get_xlabel(), "round")

    def test_the_times_of_all_rounds(self):
        for folder in (self.run_folder, self.each):
            axes = Figure().add_subplot()
            sums = plot.draw_shares(axes, [espalier_h5.open_run(folder)], plot.View())
            workers, clusters = self.table(folder, "split_rounds"), self.table(folder, "clusters")
            for part, column in PARTS.items():
                np.testing.assert_allclose(sums[part], [workers[column][workers["client"] == c].sum() for c in range(4)], atol=1e-9)
            self.assertAlmostEqual(sums["waits for clusters"].sum(), (clusters["waiting_s"] * clusters["workers"]).sum(), 9)
            held = clusters["host"] >= 0
            self.assertAlmostEqual(sums["works as host"].sum(), clusters["top_s"][held].sum(), 9)
        rows, _ = self.drawn("memory", [self.run_folder])
        workers, clusters = self.table(self.run_folder, "split_rounds"), self.table(self.run_folder, "clusters")
        self.assertEqual(rows[:, 0].tolist(), list(range(4)))
        for client, peak, _, _ in rows:
            own = [*workers["peak_bytes"][workers["client"] == client], *clusters["peak_bytes"][clusters["host"] == client]]
            self.assertEqual(peak, max(own))

    def test_tools_show_the_run(self):
        for picture in ("summary", "quality", "utilisation", "memory", "gantt", "updates", "batches", "waiting"):
            self.assertEqual(self.plot(picture, self.run_folder, self.each), (0, ""))
            self.assertTrue(os.path.exists(self.path(picture + ".png")))
        self.assertEqual(self.plot("retention", self.run_folder), (2, f"plot.py: {self.run_folder}/run.h5 is a run of split training, which has "
                                                                   "no tasks; this can be drawn of runs with rounds of clients only\n"))
        for picture in ("batches", "waiting"):
            self.assertEqual(self.plot(picture, self.of_rounds, self.each, out="no.png"), (
                2, f"plot.py: {self.of_rounds}/run.h5 is no run of split training; only of such runs there is the picture {picture}\n"))
        self.assertFalse(os.path.exists(self.path("no.png")))
        self.tool("report.py", self.run_folder, "-o", self.path("report.html"))
        with open(self.path("report.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertIn("What each worker did", page)
        self.assertEqual(page.count('data-label="waits for the host"'), 4)
        host = self.column(self.run_folder, "host", "clusters")
        told = [int(n) for n in re.findall(r'data-label="rounds as host of a top"><div>(\d+)<', page)]
        self.assertEqual(told, [int((host == c).sum()) for c in range(4)])
        for words in ("4, 3 of them workers in a round", "3 iterations in a round", "between devices", "Batch sizes"):
            self.assertIn(words, page)
        self.assertIn("waits of", self.tool("follow.py", "--once", self.run_folder))
        self.assertIn("one", self.tool("compare.py", self.run_folder))
        self.tool("track.py", self.run_folder, "--to", "trace", "-o", self.path("trace.json"))
        with open(self.path("trace.json"), encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        slices = [e for e in events if e.get("ph") == "X" and "waiting_s" in e.get("args", {})]
        self.assertEqual(len(slices), 12)
        ended = self.column(self.run_folder, "ended_s", "split_rounds")
        self.assertAlmostEqual(max(e["ts"] + e["dur"] for e in slices), ended.max() * 1e6, 2)
        np.testing.assert_allclose(sum(e["args"]["compute_s"] for e in slices),
                                   self.column(self.run_folder, "compute_s", "split_rounds").sum())


if __name__ == "__main__":
    unittest.main()
