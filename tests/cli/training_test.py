"""Optimiser state, batches in parts and batches by device, in whole runs: the same on any number of
ranks, with correct records."""

import os
import unittest

import numpy as np

from support import ProgramTest

ADAM = ("--train.optimizer=adamw", "--train.lr=0.002", "--train.schedule=cosine", "--train.warmup=1")
WIDTHS = ("--method.name=fedrolex",)  # the units of a client change with every version


class TrainingTest(ProgramTest):
    def test_kept_state_is_the_same_on_any_number_of_ranks(self):
        settings = (*ADAM, *WIDTHS, "--train.optimizer_state=keep", "--train.label_smoothing=0.1")
        runs = [self.run_ok(f"ranks-{n}", *settings, ranks=n) for n in (1, 2, 3)]
        for other in runs[1:]:
            self.assert_same(runs[0], other)
        tasks = self.table(runs[0])
        # Two moments of every value, dense, and the submodel that they belong to.
        state = tasks["state_bytes"] - 2 * 4 * tasks["parameters"]
        self.assertTrue(((state > 0) & (state < 512)).all(), state)
        reset = self.table(self.run_ok("reset", *ADAM, *WIDTHS))
        self.assertTrue((reset["state_bytes"] == 0).all())
        first = tasks["base_version"] == 0
        self.assertTrue((tasks["bytes_up"][first] == reset["bytes_up"][first]).all())

    def test_losses_are_those_of_all_samples_however_they_are_cut(self):
        """Batches, parts and test batches of unequal sizes; the weights do not change."""
        still = ("--train.lr=0", "--run.rounds=1", "--clients.count=3", "--clients.fleet=")
        cuts = {"one": ("--train.batch=1000",), "batches": ("--train.batch=97",),
                "parts": ("--train.batch=97", "--train.accumulate=5"), "tests": ("--record.evaluate_batch=119",)}
        runs = {name: self.run_ok(name, *still, *cut) for name, cut in cuts.items()}
        tasks = self.table(runs["one"])
        right = np.average(tasks["train_loss"], weights=self.column(runs["one"], "samples", "clients")[tasks["client"]])
        for name, run in runs.items():
            self.assertAlmostEqual(self.column(run, "train_loss", "rounds")[0] / right, 1, places=6, msg=name)
            for column in ("loss", "top1", "top5"):
                values = self.column(run, column, "evaluations")
                self.assertAlmostEqual(values[0], self.column(runs["one"], column, "evaluations")[0], places=6)

    def test_parts_cost_less_memory_and_the_same_work(self):
        whole = self.table(self.run_ok("whole", "--train.batch=12"))
        parts = self.table(self.run_ok("parts", "--train.batch=12", "--train.accumulate=4"))
        for column in ("flops", "steps", "samples", "compute_s", "bytes_down"):
            self.assertTrue((whole[column] == parts[column]).all(), column)
        self.assertTrue((parts["peak_bytes"] < whole["peak_bytes"]).all())

    def test_penalties_are_charged_once_for_each_step(self):
        """In operations and in virtual time, whatever passes a method makes and however a batch is cut."""
        mlp = 32 * (144 + 1) + 16 * (32 + 1)
        # A search has no penalty; half of the epochs and of the units are trained after it.
        cnn = 2 * (9 + 1) + 4 * (2 * 9 + 1) + 8 * (4 * 9 + 1)
        search = ("--method.name=cos2p", "--method.widths=0.5", "--model.name=cnn", "--model.channels=4,8",
                  "--model.kernel=3", "--model.features=16", "--method.mask_steps=3", "--train.epochs=2")
        fjord = ("--method.name=fjord", "--method.widths=1")
        roofline = [f"--device.{name}.{field}" for name in ("fast", "slow") for field in ("memory_gbps=0.25", "overhead_us=7")]
        cases = {"fedavg": (), "parts": ("--train.accumulate=3",), "fjord": fjord,
                 "drawn": (*fjord, "--method.ordered_distillation=false"), "roofline": roofline, "search": search}
        for name, settings in cases.items():
            plain, sparse = (self.table(self.run_ok(f"{name}{weight}", "--run.rounds=1", *settings,
                                                     f"--train.group_lasso={weight}"))
                             for weight in (0, 0.001))
            grouped = cnn if name == "search" else mlp
            steps = plain["steps"] - (3 if name == "search" else 0)
            flops, moved = 4 * grouped, 12 * grouped
            speed = np.where(plain["client"] < 3, 2e9, 0.5e9)
            step_s = np.maximum(flops / speed, moved / 0.25e9) + 7e-6 if name == "roofline" else flops / speed
            self.assertTrue((sparse["flops"] - plain["flops"] == flops * steps).all(), name)
            self.assertTrue((steps > 1).all())
            # Both times are rounded to nanoseconds.
            longer = sparse["compute_s"] - plain["compute_s"]
            self.assertLess(abs(longer - step_s * steps).max(), 1.1e-9, name)
            for column in ("peak_bytes", "bytes_down", "bytes_up"):
                self.assertTrue((sparse[column] == plain[column]).all(), (name, column))

    def test_penalties_without_values_are_refused(self):
        refuse = lambda words, *settings: self.assert_refused(2, words, "run", self.input, *settings)
        refuse("model.norm = batch", "--train.scale_l1=0.001")
        refuse("train.group_lasso", "--train.group_lasso=-1")
        self.assertFalse(os.path.exists(self.path("runs")))

    def test_a_device_class_may_have_its_own_batch(self):
        run = self.run_ok("mixed", "--device.fast.batch=25")
        samples, device = (self.column(run, name, "clients") for name in ("samples", "device"))
        tasks = self.table(run)
        for client, steps, flops in zip(tasks["client"], tasks["steps"], tasks["flops"]):
            batch = 25 if device[client].startswith(b"fast") else 10
            self.assertEqual(steps, -(-samples[client] // batch))
            # Work depends on the samples, not on the batch.
            self.assertEqual(flops * samples[tasks["client"][0]], tasks["flops"][0] * samples[client])

    def test_bad_combinations_are_refused(self):
        refuse = lambda words, *settings: self.assert_refused(2, words, "run", self.input, *settings)
        refuse("train.optimizer", "--train.optimizer=lion")
        refuse("train.beta1", "--train.optimizer=adam", "--train.beta1=1")
        refuse("train.nesterov", "--train.nesterov=true")
        refuse("train.epsilon", "--train.optimizer=adam", "--train.epsilon=0")
        refuse("device.fast.batch", "--device.fast.batch=-1")

    def test_costs_of_each_block_are_listed(self):
        listed = self.espalier("list", "models", "-v")
        self.assertEqual(listed.returncode, 0, listed.stderr)
        lenet = listed.stdout.split("\nlenet ")[1].split("\ncnn ")[0].splitlines()
        total = next(line for line in lenet if line.split()[0] == "total").split()
        self.assertEqual(total[1], "61706")
        blocks = [line.split() for line in lenet[3:] if line.split()[0] != "total"]
        for column in range(1, 9):
            self.assertEqual(sum(int(b[column]) for b in blocks), int(total[column]))
        # The families' own defaults: MergeSFL's network for speech; VGG 11 with batch norm, as torchvision's features and one layer.
        pairs = ((3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512))
        vgg = sum(9 * a * b + b + 2 * b for a, b in pairs) + 512 * 10 + 10
        totals = [line.split()[1] for line in listed.stdout.splitlines() if line.split()[0] == "total"]
        self.assertIn("26915", totals)
        self.assertIn(str(vgg), totals)


if __name__ == "__main__":
    unittest.main()
