"""The Python tools on runs of split training: figures against h5py and NumPy, and one sentence where a tool shows only
tasks."""

import json
import os
import subprocess
import sys
import unittest

import numpy as np

from support import ProgramTest

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools")
sys.path.insert(0, TOOLS)
import espalier_h5  # noqa: E402
from split_test import INPUT  # noqa: E402


class SplitTools(ProgramTest):
    @classmethod
    def setUpClass(cls):
        """One run, trained once: a client holds the top, so bytes pass the server's links and others."""
        trainer = cls("run_ok")
        trainer.setUp()
        cls.addClassCleanup(trainer.doCleanups)
        trainer.input = trainer.write("split.ini", INPUT)
        cls.run_folder = trainer.run_ok("one", "--split.host=fastest", "--split.top=merged", "--split.iterations=3")

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
        self.assertEqual(run.units["rounds/device_bytes"], "B")

    def test_tools_show_the_run(self):
        for picture in ("summary", "quality", "utilisation", "memory"):
            self.tool("plot.py", self.run_folder, "-p", picture, "-o", self.path(picture + ".png"))
        self.assertIn("is a run of split training, which has no tasks",
                      self.tool("plot.py", self.run_folder, "-p", "gantt", "-o", self.path("no.png"), status=2))
        self.tool("report.py", self.run_folder, "-o", self.path("report.html"))
        with open(self.path("report.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertIn("What each worker did", page)
        self.assertEqual(page.count('data-label="waits for the top"'), 4)
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
