"""The shipped inputs of AdaptCL: each trains, and its update times end equal; and its sweep knows the committed rows."""

import csv
import os
import sys
import unittest

import numpy as np

from support import ProgramTest

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "adaptcl")
ROOT = os.path.dirname(os.environ["ESPALIER_INPUTS"])
DATA = os.path.join(os.environ.get("ESPALIER_DATA", ""), "cifar-10-batches-bin", "data_batch_1.bin")
WORKERS = 10
# Sizes depend on bytes and operations only, not on the values that are trained.
SYNTHETIC = ("--data.name=synthetic", "--data.synthetic_shape=3,32,32", "--data.synthetic_samples=300", "--data.train_limit=0",
             "--train.batch=2", "--train.steps=1", "--record.evaluate_every=100")


class Inputs(ProgramTest):
    def run_input(self, model, name, *settings):
        done = self.espalier("run", os.path.join(INPUTS, f"{model}.ini"), f"--run.name={name}", *settings)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.path("runs", name)

    def test_update_times_end_at_the_fastest_or_at_the_floor(self):
        for model, sigma, settings in (("cnn", 5, ()), ("vgg", 5, ()), ("cnn", 20, ()), ("cnn", 20, ("--method.prune_floor=0.02",))):
            with self.subTest(model=model, sigma=sigma, settings=settings):
                run = self.run_input(model, f"{model}-{sigma}-{len(settings)}", *SYNTHETIC, "--run.rounds=16", "--run.horizon=120",
                                     f"--clients.sigma={sigma}", *settings)
                tasks = self.table(run)
                order = np.lexsort((tasks["client"], tasks["base_version"]))
                time = (tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"])[order].reshape(-1, WORKERS)
                retention = (tasks["parameters"] / tasks["parameters"].max())[order].reshape(-1, WORKERS)
                np.testing.assert_allclose(time[0], 1 + (sigma - 1) * np.arange(WORKERS) / (WORKERS - 1), rtol=1e-3)
                is_near = time[-1] <= 1.1 * time[-1, 0]
                # One unit more is at most 1.5 percent of the model.
                is_at_floor = (retention[-1] >= 0.1) & (retention[-1] < 0.115)
                self.assertTrue((is_near | is_at_floor).all(), (time[-1], retention[-1]))
                self.assertEqual(is_near.all(), sigma == 5 or bool(settings))
                self.assertTrue((retention[:, 0] == 1).all())

    def test_the_tiny_input(self):
        self.input = os.path.join(INPUTS, "tiny.ini")
        run = self.same_on_ranks_and_after_a_kill(ranks=(3,), kill="round.merged:9", killed_ranks=3)
        tasks = self.table(run)
        time = tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"]
        first, last = (time[tasks["base_version"] == version] for version in (0, tasks["base_version"].max()))
        self.assertAlmostEqual(first.max() / first.min(), 4, delta=0.01)
        self.assertLessEqual(last.max(), 1.1 * first.min())
        self.assertGreater(tasks["state_bytes"].max(), 0)  # the kept momentum
        self.assertGreater(self.column(run, "top1", "evaluations")[-1], 0.9)

    @unittest.skipUnless(os.path.exists(DATA), "no CIFAR-10 in $ESPALIER_DATA")
    def test_every_input_trains(self):
        for model in ("cnn", "vgg", "resnet"):
            for partition in ("iid", "dirichlet"):
                with self.subTest(model=model, partition=partition):
                    run = self.run_input(model, f"{model}-{partition}", f"--data.partition={partition}", "--run.rounds=2",
                                         "--data.train_limit=1000", "--data.test_limit=50", "--train.steps=1", "--train.batch=5",
                                         "--method.prune_every=1", "--method.prune_until=1")
                    tasks = self.table(run)
                    self.assertTrue((tasks["outcome"] == b"merged").all())
                    self.assertLess(tasks["parameters"][tasks["base_version"] == 1].min(), 0.6 * tasks["parameters"].max())


class Paper(unittest.TestCase):
    """inputs/adaptcl/compare.ini and docs/methods/adaptcl.csv belong together."""

    def test_the_sweep_knows_the_rows(self):
        sys.path.insert(0, os.path.join(ROOT, "tools"))
        from sweep_file import Sweep
        made = Sweep(os.path.join(INPUTS, "compare.ini"))
        cells = {cell.key for cell in made.cells}
        self.assertEqual(len(cells), 99)
        with open(os.path.join(ROOT, "docs", "methods", "adaptcl.csv"), newline="") as file:
            rows = {(row["sigma"], row["method"], row["seed"]) for row in csv.DictReader(file)}
        self.assertLessEqual(rows, cells)
        self.assertTrue(rows)


if __name__ == "__main__":
    unittest.main()
