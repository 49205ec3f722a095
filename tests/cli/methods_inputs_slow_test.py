"""The inputs in inputs/baselines/, and every variant of the comparison of all methods: two short rounds of each."""

import glob
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "baselines")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))
from sweep_file import Sweep  # noqa: E402

SHORT = ("--run.rounds=2", "--run.virtual_limit=0", "--data.test_limit=40", "--train.steps=2", "--record.evaluate_every=2")
# In place of CIFAR-10.
STAND_IN = ("--data.name=synthetic", "--data.synthetic_shape=3,32,32", "--data.synthetic_samples=900", "--data.train_limit=0",
            "--data.min_per_client=10")
# Methods that docs/methods/comparison.md leaves out: clients' models differ from the server's, only adapters are trained, or the
# protocol is another.
NOT_COMPARED = {"fedper", "fedbn", "hetlora", "diloco", "sync_dp", "local_sgd", "streaming_diloco", "cocodc",
                "decoupled_diloco"}


class Inputs(ProgramTest):
    def assert_two_rounds(self, name, *settings):
        run = self.run_ok(name, *settings, *SHORT)
        self.assertEqual(list(self.column(run, "version", "evaluations"))[-1], 2)

    def test_every_input(self):
        for path in sorted(glob.glob(os.path.join(INPUTS, "*.ini"))):
            name = os.path.basename(path)[:-4]
            if name in ("compare", "cifar10"):
                continue
            with self.subTest(name):
                self.input = path
                self.assert_two_rounds(name, "--data.train_limit=600")

    def test_every_variant_of_the_comparison(self):
        made = Sweep(os.path.join(INPUTS, "compare.ini"))
        self.input = os.path.join(INPUTS, "cifar10.ini")
        methods = set()
        for number, cell in enumerate(cell for cell in made.cells if cell.seed == 1):
            methods.add(cell.options.get("method.name", "fedavg"))
            with self.subTest(cell.name):
                self.assert_two_rounds(f"variant{number}", *(f"--{key}={value}" for key, value in cell.options.items()), *STAND_IN)
        self.assertEqual(self.known_methods() - methods, NOT_COMPARED)

    def known_methods(self):
        """The first words of the lines of each list of methods, which ends with an empty line."""
        lists = self.espalier("list", "methods").stdout.split("methods (method.name)\n")[1:]
        return {line.split()[0] for text in lists for line in text.split("\n\n")[0].splitlines() if not line.startswith(" ")}


if __name__ == "__main__":
    unittest.main()
