"""Every model family in whole runs: equal on any number of ranks, equal to FedAvg at the methods' neutral settings, and trained
by FedAvg, HeteroFL and FedRolex."""

import unittest

import numpy as np

from support import ProgramTest

IMAGES = ("--data.synthetic_shape=3,8,8", "--data.synthetic_samples=240")
TOKENS = ("--data.synthetic_vocabulary=32", "--data.length=12", "--data.synthetic_samples=240")
SLIM = ("--model.embed=24", "--model.heads=2", "--model.depth=2", "--train.optimizer=adam", "--train.lr=0.003")

# Each with its usual norm; the learning rates suit all three methods in a few rounds.
FAMILIES = {
    "mlp": IMAGES,
    "lenet": ("--data.synthetic_shape=1,20,20", "--data.synthetic_samples=240", "--model.norm=batch"),
    "cnn": (*IMAGES, "--model.channels=8,16", "--model.features=32", "--model.norm=batch"),
    "cnn1d": ("--data.synthetic_shape=2,120", "--data.synthetic_samples=240", "--model.channels=8,16", "--model.first_kernel=9",
              "--model.first_stride=2"),
    "vgg": ("--data.synthetic_shape=3,32,32", "--data.synthetic_samples=240", "--model.width=4"),
    "resnet": (*IMAGES, "--model.width=4"),
    "vit": (*IMAGES, *SLIM, "--model.patch=2"),
    "gpt": (*TOKENS, *SLIM, "--data.synthetic_labels=next_token", "--data.partition=iid"),
    "encoder": (*TOKENS, *SLIM),
    "lstm": (*TOKENS, "--model.embed=12", "--model.hidden=24", "--data.synthetic_labels=next_token", "--data.partition=iid",
             "--train.optimizer=adam", "--train.lr=0.01"),
}


class FamiliesTest(ProgramTest):
    def settings(self, family, *more):
        return ("--run.rounds=2", f"--model.name={family}", *FAMILIES[family], *more)

    def test_the_list_is_complete(self):
        listed = self.espalier("list", "models").stdout
        names = [line.split()[0] for line in listed.splitlines() if line.strip()]
        self.assertEqual(sorted(FAMILIES), sorted(name for name in names if name in FAMILIES))
        self.assertEqual(len(names), len(FAMILIES), listed)

    def test_same_values_on_any_number_of_ranks(self):
        for family in FAMILIES:
            with self.subTest(family=family):
                settings = self.settings(family, "--method.name=fedrolex")
                one = self.run_ok(f"{family}-1", *settings)
                for ranks in (2, 3, 5):
                    self.assert_same(one, self.run_ok(f"{family}-{ranks}", *settings, ranks=ranks))

    def test_neutral_settings(self):
        neutral = ("--method.widths=1", "--method.scaler=false", "--method.masked_loss=false")
        for family in FAMILIES:
            with self.subTest(family=family):
                fedavg = self.run_ok(f"{family}-fedavg", *self.settings(family))
                for method in ("heterofl", "fedrolex"):
                    other = self.run_ok(f"{family}-{method}",
                                        *self.settings(family, f"--method.name={method}", *neutral))
                    self.assert_same(fedavg, other, "--values")

    def test_three_methods_learn(self):
        for family in FAMILIES:
            for method in ("fedavg", "heterofl", "fedrolex"):
                with self.subTest(family=family, method=method):
                    more = [f"--method.name={method}", "--run.rounds=8", "--train.epochs=2"]
                    if method != "fedavg":
                        # Language models have no classes to mask; layer norms need no scaler.
                        more += ["--method.widths=1,0.5", "--method.masked_loss=false"]
                    run = self.run_ok(f"{family}-{method}", *self.settings(family, *more))
                    losses = self.column(run, "loss", "evaluations")
                    guess = np.log(32 if "--data.synthetic_labels=next_token" in FAMILIES[family] else 10)  # the loss of a uniform prediction
                    self.assertLess(losses[-1], 0.9 * guess, losses)

    def test_a_language_model_has_a_perplexity(self):
        run = self.run_ok("gpt", *self.settings("gpt"))
        found = self.table(run, "evaluations")
        self.assertTrue(np.allclose(found["perplexity"], np.exp(found["loss"]), rtol=1e-12))
        self.assertTrue(np.isnan(found["top1"]).all())
        again = self.run_ok("gpt", *self.settings("gpt"))  # finished: the last line again
        self.assertEqual(again, run)
        self.assert_refused(2, "run.target_accuracy", "run", self.input, "--run.name=other",
                            *self.settings("gpt"), "--run.target_accuracy=0.5")


if __name__ == "__main__":
    unittest.main()
