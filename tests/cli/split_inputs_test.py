"""The inputs in inputs/split/: every method runs for two short rounds, VGG16 on 80 devices passes the check, and the program takes
every variant of the sweeps."""

import glob
import os
import re
import sys
import unittest

import numpy as np

from support import ProgramTest

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "split")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from sweep_file import Sweep  # noqa: E402
from sweep_rows import resolve  # noqa: E402

CIFAR = os.path.exists(os.path.join(os.environ.get("ESPALIER_DATA", ""), "cifar-10-batches-bin", "data_batch_1.bin"))
# In place of CIFAR-10: plans and bytes do not depend on pixels.
STAND_IN = ("--data.name=synthetic", "--data.synthetic_shape=3,32,32", "--data.synthetic_samples=900", "--data.train_limit=0",
            "--data.test_limit=0")
METHODS = {"splitfed_v1", "splitfed_v2", "mergesfl", "adasfl", "locfedmix_sl", "parallelsfl"}


class Inputs(ProgramTest):
    def run_input(self, name, *settings):
        """Two rounds of an input, and the tables of its workers and of its clusters."""
        self.input = os.path.join(INPUTS, name + ".ini")
        run = self.run_ok("-".join([name, *settings[:1]]).replace("--method.name=", ""), "--run.rounds=2", *settings)
        return run, self.table(run, "split_rounds"), self.table(run, "clusters")

    def assert_bytes(self, rows, features, parameters):
        """Features and labels up, gradients down, and the bottom both ways, each with 4 bytes."""
        np.testing.assert_array_equal(rows["bytes_up"], 4 * (rows["samples"] * (features + 1) + parameters))
        np.testing.assert_array_equal(rows["bytes_down"], 4 * (rows["samples"] * features + parameters))

    def test_splitfed(self):
        for method, tops in (("splitfed_v1", 8), ("splitfed_v2", 1)):
            with self.subTest(method):
                run, rows, clusters = self.run_input("digits-splitfed", f"--method.name={method}", "--split.iterations=8")
                np.testing.assert_array_equal(rows["client"].reshape(2, 8), [range(8)] * 2)
                np.testing.assert_array_equal(rows["iterations"], 8)
                self.assertEqual(len(clusters["round"]), 2 * tops)
                # LeNet's convolutions, and 16 maps of 5 x 5.
                self.assert_bytes(rows, 400, 6 * 26 + 16 * 151)
                # Better than a guess among ten digits.
                self.assertLess(self.column(run, "loss", "evaluations")[-1], np.log(10))

    def test_methods_with_batches_of_a_control_module(self):
        batches = {}
        for method in ("mergesfl", "adasfl", "locfedmix_sl"):
            with self.subTest(method):
                _, rows, clusters = self.run_input("mergesfl-cifar10", f"--method.name={method}", *STAND_IN, "--split.iterations=2",
                                                   "--train.batch=16")
                np.testing.assert_array_equal(rows["iterations"], 2)
                self.assertTrue((clusters["host"] == -1).all())
                # Two convolutions, and 32 maps of 8 x 8.
                self.assert_bytes(rows, 2048, 3 * 16 * 9 + 16 + 16 * 32 * 9 + 32)
                batches[method] = [dict(zip(rows["client"][mine], rows["batch"][mine]))
                                   for mine in (rows["round"] == 1, rows["round"] == 2)]
        for workers in batches["mergesfl"]:  # at least an eighth of twenty, at most half
            self.assertTrue(3 <= len(workers) <= 10, workers)
        for method in ("mergesfl", "adasfl"):
            for workers in batches[method]:
                self.assertLessEqual(max(workers.values()), 16)
                self.assertLess(2 * min(workers.values()), max(workers.values()))
        for method in ("adasfl", "locfedmix_sl"):
            for workers in batches[method]:
                self.assertEqual(sorted(workers), list(range(20)))
        self.assertEqual(set(batches["locfedmix_sl"][0].values()), {16})

    @unittest.skipUnless(CIFAR, "skipped: ESPALIER_DATA names no folder with CIFAR-10")
    def test_mergesfl_on_its_own_data(self):
        run, _, _ = self.run_input("mergesfl-cifar10", "--data.partition=iid", "--split.iterations=10", "--data.train_limit=2000",
                                   "--data.test_limit=200")
        self.assertLess(self.column(run, "loss", "evaluations")[-1], np.log(10))

    def test_parallelsfl(self):
        run, rows, clusters = self.run_input("parallelsfl-digits", "--method.name=parallelsfl", "--method.most_iterations=4")
        down = self.column(run, "down_mbps", "clients")
        self.assert_bytes(rows, 400, 6 * 26 + 16 * 151)
        for number in (1, 2):
            mine = clusters["round"] == number
            hosts = clusters["host"][mine]
            everyone = np.concatenate([hosts, rows["client"][rows["round"] == number]])
            np.testing.assert_array_equal(np.sort(everyone), range(20))
            # The fastest cluster makes all iterations. A host takes one bottom for 5 Mbit/s of its link, and four at most.
            self.assertEqual(clusters["iterations"][mine].max(), 4)
            self.assertTrue((clusters["workers"][mine] <= np.minimum(4, down[hosts] // 5)).all())
        # Only whole models pass the server's links: both convolutions, 400 features, 120 and 84 neurons, ten digits.
        model = 4 * (6 * 26 + 16 * 151 + 401 * 120 + 121 * 84 + 85 * 10)
        np.testing.assert_array_equal(clusters["server_bytes_up"], model)
        np.testing.assert_array_equal(clusters["server_bytes_down"], model)


class Paper(ProgramTest):
    """inputs/split/paper-vgg16.ini, whose first round is planned and not trained."""

    BOTTOM = sum(9 * before * after + 3 * after for before, after in  # weights, biases, two parameters of each norm
                 zip([3, 64, 64, 128, 128, *3 * [256], *5 * [512]], [*2 * [64], *2 * [128], *3 * [256], *6 * [512]]))
    TOP = (512 * 4 * 4 + 1) * 4096 + 4097 * 4096 + 4097 * 100

    def check(self, method):
        """The numbers of the description: workers, tops, fewest and most iterations, MB of a bottom and of a top."""
        done = self.espalier("run", os.path.join(INPUTS, "paper-vgg16.ini"), "--check", f"--method.name={method}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"bottom   13 of 16 blocks, {self.BOTTOM} parameters, 8192 features a sample\n", done.stdout)
        self.assertIn(f"top      from block classifier.0, {self.TOP} parameters\n", done.stdout)
        found = re.search(r"^round +(\d+) workers, tops: (\d+), iterations: (\d+)(?: to (\d+))?\n"
                          r"memory +([\d.]+) MB at most for a bottom, ([\d.]+) MB for a top$", done.stdout, re.M)
        workers, tops, fewest, most, bottom, top = found.groups()
        return int(workers), int(tops), int(fewest), int(most or fewest), float(bottom), float(top)

    def bottom_mb(self, batch):
        """Weights and gradients, and for a batch the image, what each convolution and each ReLU between two of them gives, what each
        pooling gives with one byte for its place, and the features as a message."""
        size, values = 144, 3 * 144**2 + 512 * 4 * 4
        for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            values += channels * ((2 * convolutions - 1) * size**2 + 1.25 * (size // 2)**2)
            size //= 2
        return 4e-6 * (2 * self.BOTTOM + batch * values)

    def test_eighty_devices(self):
        # The loss and scratch memory come on top of what is counted here.
        workers, tops, fewest, most, bottom, top = self.check("mergesfl")
        self.assertTrue(10 <= workers <= 40)  # an eighth to half of the devices
        self.assertEqual((tops, fewest, most), (1, 42, 42))
        self.assertTrue(self.bottom_mb(2) < bottom < 1.05 * self.bottom_mb(64))
        self.assertAlmostEqual(top, 12e-6 * self.TOP, 2)  # weights and gradients, and the weights as a message
        workers, tops, fewest, most, bottom, top = self.check("parallelsfl")
        self.assertEqual(workers + tops, 80)
        self.assertLessEqual(workers, 6 * tops)  # each bottom has 5 of the 30 Mbit/s of its host
        self.assertEqual(most, 20)
        self.assertGreater(fewest, 5)
        self.assertTrue(self.bottom_mb(64) < bottom < 1.05 * self.bottom_mb(64))
        self.assertAlmostEqual(top, 12e-6 * self.TOP, 2)


class Sweeps(ProgramTest):
    def test_the_program_takes_every_variant(self):
        methods = set()
        sweeps = sorted(glob.glob(os.path.join(INPUTS, "compare*.ini")))
        self.assertTrue(sweeps)
        for path in sweeps:
            with self.subTest(os.path.basename(path)):
                made = Sweep(path)
                resolve(made, made.cells)
                self.assertEqual([(cell.name, cell.error) for cell in made.cells if cell.error], [])
                self.assertEqual(len({cell.config for cell in made.cells}), len(made.cells))
                methods |= {re.search(r"^\[method\]\nname = (\S+)", cell.text, re.M)[1] for cell in made.cells}
        self.assertLessEqual(METHODS, methods)


if __name__ == "__main__":
    unittest.main()
