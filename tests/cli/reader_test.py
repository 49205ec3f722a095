"""tools/espalier_h5.py: one run and many, tables of any protocol, hashes of configurations, figures, damaged files."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import unittest
from unittest import mock

import h5py
import numpy as np

from support import ESPALIER, ProgramTest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(ROOT, "tools")
sys.path.insert(0, TOOLS)
import espalier_h5  # noqa: E402
from espalier_h5 import RunError, open_run, run_paths, runs, summary  # noqa: E402

try:
    import pandas
except ImportError:
    pandas = None


class Reader(ProgramTest):
    @classmethod
    def setUpClass(cls):
        espalier_h5.TRIES = 2  # damaged files fail at once

    def copy(self, run, name):
        """A copy of a run, to be changed with h5py."""
        shutil.copytree(run, self.path("runs", name))
        return self.path("runs", name)

    def three(self):
        return [self.run_ok("seed1"), self.run_ok("seed2", "--run.seed=2", "--train.lr=0.1"),
                self.run_ok("seed10", "--run.seed=10", "--method.name=fedasync", "--run.rounds=9")]

    def test_many_runs(self):
        folders = self.three()
        many = runs([self.path("runs", "seed*")])
        self.assertEqual(many.names, ["seed1", "seed2", "seed10"])
        self.assertEqual(many.options["run.seed"].tolist(), [1, 2, 10])
        self.assertEqual(many.options["train.lr"].dtype, float)
        self.assertNotIn("run.name", many.options)
        self.assertNotIn("train.batch", many.options)
        for name in ("rounds", "tasks", "evaluations", "clients"):
            joined = many.columns(name)
            single = [self.table(folder, name) for folder in folders]
            for column, values in single[0].items():
                wanted = np.concatenate([table[column] for table in single])
                wanted = wanted.astype(str) if wanted.dtype.kind in "SO" else wanted
                np.testing.assert_array_equal(joined[column], wanted, err_msg=f"{name}/{column}")
                self.assertEqual(joined[column].dtype.kind, wanted.dtype.kind)
            lengths = [len(next(iter(table.values()))) for table in single]
            self.assertEqual(joined["run"].tolist(), sum(([n] * k for n, k in zip(many.names, lengths)), []))
            self.assertEqual(joined["method.name"].tolist(),
                             sum(([n] * k for n, k in zip(["fedavg", "fedavg", "fedasync"], lengths)), []))

    def test_equal_names_become_folders(self):
        folder = self.run_ok("a")
        other = self.copy(folder, "b")
        self.assertEqual(runs([folder, other]).names, [folder, other])
        self.assertEqual(len(runs([folder, os.path.join(folder, "run.h5"), self.path("runs", "*")])), 2)
        self.assertEqual(run_paths([folder, other, folder]), [folder, other])  # in the order in which they are first named

    def test_tables_of_other_protocols(self):
        folder = self.copy(self.run_ok("plain"), "more")
        kind = h5py.enum_dtype({"forward": 0, "backward": 7}, basetype="i1")
        with h5py.File(os.path.join(folder, "run.h5"), "a") as file:
            for name in ("hops", "method/stages", "method/stages/inner"):
                table = file.create_group(name)
                table["hop"] = np.arange(4)
                table["kind"] = np.array([0, 7, 7, 0, 0], dtype=kind)  # one row more: it is being written
                table["is_late"] = np.array([True, False, False, True])
                table["note"] = ["ä", "b", "c", "d"]
                table["position"] = np.arange(8.0).reshape(4, 2)
                table.create_dataset("scalar", data=3)
            file["hops/hop"].attrs["units"] = "1"
            file["alone"] = 5
        run = open_run(folder)
        self.assertEqual(set(run.tables) - {"rounds", "tasks", "evaluations", "clients", "method"},
                         {"hops", "method/fleet", "method/stages", "method/stages/inner"})
        self.assertEqual(set(run.method) - {"method"}, {"fleet", "stages", "stages/inner"})
        for name in ("hops", "method/stages"):
            table = run.tables[name]
            self.assertEqual(set(table), {"hop", "kind", "is_late", "note", "position"})
            self.assertEqual(table["kind"].tolist(), ["forward", "backward", "backward", "forward"])
            self.assertEqual(table["is_late"].tolist(), [True, False, False, True])
            self.assertEqual(table["note"].tolist(), ["ä", "b", "c", "d"])
            self.assertEqual(table["position"].tolist(), [[0, 1], [2, 3], [4, 5], [6, 7]])
        self.assertEqual(run.units["hops/hop"], "1")
        both = runs([self.path("runs", "plain"), folder])
        self.assertEqual(both.columns("hops")["hop"].tolist(), [0, 1, 2, 3])
        self.assertEqual(len(both.table("hops")["run"]), 4)
        with self.assertRaisesRegex(RunError, "no run has a table nothing"):
            both.table("nothing")

    def test_a_column_that_one_run_lacks(self):
        folder = self.run_ok("new")
        old = self.copy(folder, "old")
        with h5py.File(os.path.join(old, "run.h5"), "a") as file:
            rows = len(file["tasks/steps"])
            del file["tasks/steps"], file["tasks/outcome"]
        tasks = runs([old, folder]).columns("tasks")
        self.assertTrue(np.isnan(tasks["steps"][:rows]).all())
        np.testing.assert_array_equal(tasks["steps"][rows:], self.column(folder, "steps"))
        self.assertEqual(set(tasks["outcome"][:rows]), {""})

    @unittest.skipUnless(pandas, "pandas is not installed")
    def test_data_frames(self):
        self.three()
        tasks = runs([self.path("runs", "*")]).tasks
        self.assertIsInstance(tasks, pandas.DataFrame)
        means = tasks.groupby("run.seed")["train_loss"].mean()
        for seed in (1, 2, 10):
            self.assertAlmostEqual(means[seed],
                                   np.nanmean(self.column(self.path("runs", f"seed{seed}"), "train_loss")))

    @unittest.skipIf(pandas, "pandas is installed")
    def test_arrays_without_pandas(self):
        self.run_ok("a")
        tasks = runs(self.path("runs", "a")).tasks
        self.assertIsInstance(tasks, dict)
        self.assertIsInstance(tasks["client"], np.ndarray)

    def test_hashes(self):
        defaults = espalier_h5.default_config(ESPALIER)

        def stored(name, *settings):
            return open_run(self.run_ok(name, *settings)).hash(defaults)

        first = stored("a")
        printed = self.espalier("run", self.input, "--print-config", "--run.dir=elsewhere").stdout
        self.assertEqual(espalier_h5.configuration_hash(printed, defaults), first)
        self.assertEqual(stored("b", "--train.weight_decay=0"), first)
        self.assertEqual(stored("c", "--train.weight_decay=0.5") == first, False)
        # An option that is new in the program and at its default does not change the hash.
        more = "\n[new]\nthing = 3\n"
        self.assertEqual(espalier_h5.configuration_hash(printed + more, defaults + more), first)
        self.assertNotEqual(espalier_h5.configuration_hash(printed + more, defaults), first)

    def test_figures(self):
        folder = self.run_ok("a", "--method.name=semi_async", "--run.rounds=8", "--record.evaluate_every=2")
        rounds, tasks = self.table(folder, "rounds"), self.table(folder)
        seen = self.table(folder, "evaluations")
        target = (seen["top1"][0] + seen["top1"].max()) / 2
        first = [i for i in range(len(seen["top1"])) if seen["top1"][i] >= target][0]
        found = summary(open_run(folder), target)
        bytes_before = sum(int(rounds["bytes_down"][i] + rounds["bytes_up"][i]) for i in range(len(rounds["round"]))
                           if rounds["version"][i] <= seen["version"][first])
        busy = length = begin = 0
        for end, share in zip(rounds["virtual_time_s"], rounds["utilisation"], strict=True):
            busy, length, begin = busy + share * (end - begin), length + end - begin, end
        wanted = {"top1": seen["top1"][-1], "best_top1": seen["top1"].max(), "loss": seen["loss"][-1],
                  "target_s": seen["virtual_time_s"][first], "target_rounds": seen["version"][first],
                  "target_mb": bytes_before / 1e6, "peak_mb": tasks["peak_bytes"].max() / 1e6, "utilisation": busy / length,
                  "mb_down": rounds["bytes_down"].sum() / 1e6, "mb_up": rounds["bytes_up"].sum() / 1e6,
                  "rounds": 8, "virtual_s": rounds["virtual_time_s"][-1], "wall_s": rounds["wall_time_s"][-1],
                  "updates": rounds["updates_merged"].sum(), "failures": 0,
                  "staleness": tasks["staleness"][tasks["outcome"] == b"merged"].mean()}
        for name, value in wanted.items():
            self.assertAlmostEqual(found[name], value, places=9, msg=name)
        never = summary(open_run(folder), 1.0)
        self.assertTrue(np.isnan(never["target_s"]) and np.isnan(never["target_mb"]))

    def test_a_run_without_rows(self):
        folder = self.copy(self.run_ok("a"), "empty")
        os.remove(os.path.join(folder, "DONE"))
        with h5py.File(os.path.join(folder, "run.h5"), "a") as file:
            for name in ("rounds", "tasks", "evaluations"):
                for column in file[name].values():
                    column.resize(0, axis=0)
        run = open_run(folder)
        self.assertFalse(run.is_finished)
        found = summary(run, 0.5)
        self.assertEqual((found["rounds"], found["updates"], found["mb_up"]), (0, 0, 0))
        self.assertTrue(np.isnan(found["top1"]) and np.isnan(found["peak_mb"]) and np.isnan(found["utilisation"]))
        self.assertEqual(len(runs([self.path("runs", "a"), folder]).columns("tasks")["task"]),
                         len(self.column(self.path("runs", "a"), "task")))

    def test_a_file_that_the_caller_has_open(self):
        folder = self.run_ok("a")
        with h5py.File(os.path.join(folder, "run.h5")) as file:
            np.testing.assert_array_equal(open_run(folder).tasks["client"], file["tasks/client"][()])

    def test_the_size_of_the_model(self):
        run = self.run_ok("a", "--method.name=heterofl", "--method.widths=0.5")
        self.assertEqual(espalier_h5.model_parameters(open_run(run)), 144 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10)
        checkpoint = self.checkpoint(run)
        for name in os.listdir(os.path.dirname(checkpoint)):
            os.truncate(os.path.join(os.path.dirname(checkpoint), name), 100)
        self.assertIsNone(espalier_h5.model_parameters(open_run(run)))

    def test_options_that_are_not_at_their_defaults(self):
        changed = espalier_h5.changed_options("[run]\nname = b\nseed = 2\nrounds = 5\n[device.d]\ngflops = 1\n",
                                              "[run]\nname = a\nseed = 1\nrounds = 5\n")
        self.assertEqual(changed, {"run.seed": ("2", "1"), "device.d.gflops": ("1", None)})

    def test_refusals(self):
        folder = self.run_ok("a")

        def refused(words, change=None, path=None):
            target = self.copy(folder, f"bad{len(os.listdir(self.path('runs')))}")
            if change:
                change(os.path.join(target, "run.h5"))
            with self.assertRaises(RunError) as caught:
                runs(target if path is None else path)
            self.assertIn(words, str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
            self.assertEqual(caught.exception.status, 3)

        def version(path):
            with h5py.File(path, "a") as file:
                file.attrs["version"] = [2, 0]

        def other(path):
            with h5py.File(path, "w") as file:
                file["x"] = 1

        def no_table(path):
            with h5py.File(path, "a") as file:
                del file["tasks"]

        def flip(path):
            with open(path, "r+b") as file:
                content = bytearray(file.read())
                for i in range(8, 400):
                    content[i] ^= 0x5A
                file.seek(0)
                file.write(content)

        refused("newer format", version)
        refused("is not a run file", other)
        refused("it has no table tasks", no_table)
        refused("cannot be read", lambda path: os.truncate(path, os.path.getsize(path) // 2))
        refused("cannot be read", lambda path: os.truncate(path, 0))
        refused("cannot be read", flip)
        refused("there is no", os.remove)
        refused("there is no", path=self.path("nothing"))
        refused("no run matches", path=self.path("noth*"))
        refused("no run is given", path=[])

    def test_a_damaged_file_can_neither_stop_nor_crash_a_tool(self):
        """What the HDF5 library does with some damaged files, here by functions in its place."""
        folder = self.run_ok("a")

        def for_ever(path):
            while True:
                pass

        def crash(path):
            os.kill(os.getpid(), signal.SIGSEGV)

        for read in (for_ever, crash):
            with mock.patch.object(espalier_h5, "_read", read), mock.patch.object(espalier_h5, "CPU_S", 1):
                with self.assertRaisesRegex(RunError, "run.h5 cannot be read: it is damaged"):
                    open_run(folder)
        with mock.patch.object(espalier_h5, "_open", lambda path: bytearray(5 << 30)):
            with self.assertRaisesRegex(RunError, "run.h5 cannot be read: MemoryError"):
                open_run(folder)
        with self.assertRaises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # no child is left

    def test_text_that_is_no_text(self):
        folder = self.run_ok("a")
        with h5py.File(os.path.join(folder, "run.h5"), "a") as file:
            del file.attrs["config"]
            file.attrs.create("config", b"[run]\nname = \xff", dtype=h5py.string_dtype("utf-8"))
        with self.assertRaisesRegex(RunError, "cannot be read: 'utf-8' codec"):
            open_run(folder)

    def test_patterns_leave_other_files_out(self):
        folder = self.run_ok("a")
        self.write(os.path.join("runs", "notes.txt"), "")
        os.mkdir(self.path("runs", "no-run"))
        self.assertEqual(run_paths([self.path("runs", "*")]), [folder])
        self.assertEqual(run_paths([self.path("**", "run.h5")]), [os.path.join(folder, "run.h5")])

    def test_installs(self):
        for package in ("pip", "setuptools", "wheel"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed; tools/setup.sh --tests installs it")
        source = self.path("tools")
        shutil.copytree(TOOLS, source)
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
                               "--no-index", "--target", self.path("site"), source], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        folder = self.run_ok("a")
        program = "import sys, espalier_h5; print(espalier_h5.__file__, len(espalier_h5.runs(sys.argv[1]).tables))"
        done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True,
                              cwd=self.folder.name, env={**os.environ, "PYTHONPATH": self.path("site")})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(self.path("site"), done.stdout)
        # Every command works on a run, from any folder.
        for words in (["compare", folder], ["follow", folder], ["plot", folder], ["report", folder], ["sweep", "--help"],
                      ["track", folder, "--to", "csv"]):
            if words[0] == "plot" and importlib.util.find_spec("matplotlib") is None:
                continue
            command = self.path("site", "bin", "espalier-" + words[0])
            done = subprocess.run([sys.executable, command, *words[1:]], capture_output=True, text=True,
                                  cwd=self.folder.name, env={**os.environ, "PYTHONPATH": self.path("site")})
            self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        for name in ("plot.png", "report.html"):
            self.assertTrue(os.path.exists(os.path.join(folder, name)), name)


if __name__ == "__main__":
    unittest.main()
