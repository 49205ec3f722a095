"""Frozen parameters and adapters in whole runs: what stays as it was, bytes, the same values on any number of ranks and after a
kill, submodels, export, refusals."""

import os
import unittest

import h5py
import numpy as np

from support import ProgramTest

LAYERS = ((144, 32), (32, 16), (16, 10))  # inputs and outputs of the small input's fc1, fc2 and fc3
FROZEN = sum(inputs * outputs + outputs for inputs, outputs in LAYERS[:2])
HEAD = 16 * 10 + 10


def frozen_at(width):
    """Frozen values of a submodel that keeps this part of both hidden layers, with the head trained."""
    a, b = int(np.ceil(32 * width)), int(np.ceil(16 * width))
    return 144 * a + a + a * b + b


class Frozen(ProgramTest):
    def test_stay_bit_for_bit_and_the_rest_is_trained(self):
        first = self.model(self.run_ok("first", "--train.lr=0", "--run.rounds=1"))
        for name, settings, trained in (("head", ["--train.only=head"], "fc3"), ("rest", ["--train.freeze=layer?"], "fc3"),
                                        ("one", ["--train.freeze=fc1.*, head"], "fc2")):
            for entry, values in self.model(self.run_ok(name, *settings)).items():
                check = self.assertFalse if entry.startswith(trained) else self.assertTrue
                check(np.array_equal(values, first[entry]), f"{name}: {entry}")

    def test_an_input_that_freezes_nothing_is_as_without(self):
        self.assert_same(self.run_ok("a"), self.run_ok("b", "--train.freeze=", "--train.only="))

    def test_bytes_of_whole_models(self):
        whole = self.table(self.run_ok("whole", "--run.rounds=4"))
        head = self.table(self.run_ok("head", "--run.rounds=4", "--train.only=head"))
        np.testing.assert_array_equal(whole["bytes_up"] - head["bytes_up"], 4 * FROZEN)
        less = whole["bytes_down"] - head["bytes_down"]
        for client in range(7):
            np.testing.assert_array_equal(less[whole["client"] == client], [0] + [4 * FROZEN] * 3)

    def test_bytes_of_submodels(self):
        """A client that keeps its width receives the frozen values of the units that it does not have yet: none after its first
        task with leading units, and with a window that rolls what the union of its windows gains."""
        wide = ("--method.widths=0.5", "--run.rounds=6", "--method.masked_loss=false")
        for method in ("heterofl", "fedrolex"):
            whole = self.table(self.run_ok(method, f"--method.name={method}", *wide))
            head = self.table(self.run_ok(method + "-head", f"--method.name={method}", *wide, "--train.only=head"))
            # What a message carries in the other run but not here, apart from the frozen values of the task.
            received = head["bytes_down"] - (whole["bytes_down"] - 4 * frozen_at(0.5))
            for client in range(7):
                mine = received[whole["client"] == client]
                expected, before = [], 0
                for task in range(6):
                    # The union of windows of 16 of 32 and 8 of 16 units, each one unit further than the last.
                    a, b = (16, 8) if method == "heterofl" else (min(32, 16 + task), min(16, 8 + task))
                    held = 144 * a + a + a * b + b
                    expected.append(4 * (held - before))
                    before = held
                np.testing.assert_array_equal(mine, expected, err_msg=method)

    def test_the_first_download_takes_longer(self):
        table = self.table(self.run_ok("slow", "--train.only=head", "--device.fast.down_mbps=1", "--device.slow.down_mbps=1"))
        first = table["base_version"] == 0
        np.testing.assert_allclose((table["download_s"][first].mean() - table["download_s"][~first].mean()), 4 * FROZEN * 8e-6)

    def test_memory_stays_within_its_bound(self):
        done = self.espalier("run", self.input, "--train.only=head", "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"{FROZEN + HEAD} parameters, {HEAD} of them trained and {FROZEN} frozen", done.stdout)
        table = self.table(self.run_ok("head", "--train.only=head"))
        self.assertGreater(table["peak_bytes"].min(), 4 * FROZEN)


class SameValues(ProgramTest):
    def test_submodels_over_frozen_parts(self):
        for method in ("heterofl", "fedrolex"):
            with self.subTest(method=method):
                self.setUp()
                self.same_on_ranks_and_after_a_kill(f"--method.name={method}", "--train.only=layer2, head", "--run.rounds=4",
                                                    "--train.optimizer=adam", "--train.optimizer_state=keep")

    def test_adapters_with_ranks_of_their_own(self):
        self.same_on_ranks_and_after_a_kill("--method.name=hetlora", "--model.adapter_rank=4", "--train.only=adapters, head",
                                            "--run.rounds=4", "--method.window=semi_async")

    def test_from_initial_weights_of_a_file(self):
        first = self.run_ok("base", "--run.rounds=2")
        begin = f"--model.init={self.checkpoint(first)}"
        one = self.run_ok("lora", begin, "--model.adapter_rank=2", "--train.only=adapters", "--run.seed=5")
        two = self.run_ok("lora-3", begin, "--model.adapter_rank=2", "--train.only=adapters", "--run.seed=5", ranks=3)
        self.assert_same(one, two)
        base = self.model(first)
        for name, values in self.model(one).items():
            if name in base:
                np.testing.assert_array_equal(values, base[name], err_msg=name)

    def test_other_rules(self):
        methods = ("scaffold", "feddyn", "fedprox", "moon", "fjord", "dc_asgd", "fednova", "depthfl", "splitmix", "adaptcl", "prunefl",
                   "fiarse", "fedper", "fedadam")
        for method in methods:
            with self.subTest(method=method):
                settings = [f"--method.name={method}", "--train.freeze=fc1.weight", "--run.rounds=2"]
                settings += {"moon": ["--model.projection=4"], "splitmix": ["--model.members=2", "--train.freeze=*fc1.weight"],
                             "depthfl": ["--model.name=cnn", "--model.exits=2", "--train.freeze=conv1.weight"]}.get(method, [])
                self.assert_same(self.run_ok(method, *settings), self.run_ok(method + "-2", *settings, ranks=2))


class Regions(ProgramTest):
    def test_frozen_values_stay_and_ranks_agree(self):
        settings = ("--method.name=diloco", "--train.only=head", "--run.rounds=3", "--regions.period=4", "--clients.count=2",
                    "--clients.fleet=2*fast")
        one = self.run_ok("one", *settings)
        self.assert_same(one, self.run_ok("three", *settings, ranks=3))
        first = self.model(self.run_ok("first", *settings, "--train.lr=0"))
        for name, values in self.model(one).items():
            (self.assertFalse if name.startswith("fc3") else self.assertTrue)(np.array_equal(values, first[name]), name)


class Export(ProgramTest):
    def test_adds_adapters_to_the_weights_or_keeps_them(self):
        run = self.run_ok("lora", "--model.adapter_rank=2", "--model.adapter_alpha=6", "--train.only=adapters")
        sizes = {}
        for how in ("merge", "keep"):
            file = self.path(how + ".safetensors")
            done = self.espalier("export", self.checkpoint(run), file, f"--adapters={how}")
            self.assertEqual(done.returncode, 0, done.stderr)
            from safetensors.numpy import load_file
            sizes[how] = load_file(file)
        self.assertEqual(set(sizes["keep"]) - set(sizes["merge"]),
                         {f"fc{i}.lora_{factor}.weight" for i in (1, 2, 3) for factor in "AB"})
        for i in (1, 2, 3):
            kept = sizes["keep"]
            expected = kept[f"fc{i}.weight"] + 3 * kept[f"fc{i}.lora_B.weight"] @ kept[f"fc{i}.lora_A.weight"]
            np.testing.assert_allclose(sizes["merge"][f"fc{i}.weight"], expected, rtol=1e-5, atol=1e-6)
            self.assertFalse(np.array_equal(sizes["merge"][f"fc{i}.weight"], kept[f"fc{i}.weight"]))
        # A model without adapters takes the merged file as it is.
        plain = self.run_ok("plain", f"--model.init={self.path('merge.safetensors')}", "--train.lr=0", "--run.rounds=1")
        lora = self.column(run, "loss", "evaluations")[-1]
        np.testing.assert_allclose(self.column(plain, "loss", "evaluations")[-1], lora, rtol=1e-5)


class Refusals(ProgramTest):
    def test_one_sentence_each(self):
        for words, settings in (("'haed' is no block and no parameter", ["--train.only=head, haed"]),
                                ("leave nothing to train", ["--train.freeze=*"]),
                                ("has no adapters; set model.adapter_rank", ["--train.only=adapters"]),
                                ("names only frozen parameters", ["--method.personal=layer1", "--train.only=head"]),
                                ("'conv' is no linear layer", ["--model.adapter_rank=2", "--model.adapter_modules=conv"]),
                                ("need adapters", ["--method.name=hetlora", "--model.adapter_rank=0", "--train.only=head"]),
                                ("not for split models", ["--method.name=splitfed_v1", "--train.only=head"])):
            self.assert_refused(2, words, "run", self.input, *settings)
        self.assertFalse(os.path.exists(self.path("runs")))


class Input(ProgramTest):
    def test_two_rounds(self):
        if not os.environ.get("ESPALIER_DATA"):
            self.skipTest("ESPALIER_DATA is not set, so there is no text")
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "language", "tiny-lora.ini")
        with h5py.File(os.path.join(self.run_ok("a", "--run.rounds=2"), "run.h5")) as file:
            self.assertEqual(len(file["rounds/round"]), 2)


if __name__ == "__main__":
    unittest.main()
