"""Masked language models: hidden tokens are predicted, alike on any number of ranks and after a kill."""

import os
import unittest

import numpy as np

from support import ProgramTest

WORDS = "the cat and the dog sat on the mat while a bird sang in the old tree of the garden wall "
MASKED = ("--data.name=text", "--data.file=a.txt", "--data.length=16", "--data.mask_rate=0.15", "--data.partition=iid",
          "--model.name=encoder", "--model.embed=24", "--model.heads=2", "--model.depth=2", "--model.mlp=32",
          "--train.optimizer=adam", "--train.lr=0.01", "--method.name=heterofl", "--method.widths=1,0.5,0.25")


class Masked(ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("a.txt", WORDS * 60)
        self.settings = (*MASKED, f"--data.dir={self.folder.name}")

    def test_the_same_on_any_number_of_ranks(self):
        run = self.run_ok("one", *self.settings)
        for ranks in (2, 3, 5):
            self.assert_same(run, self.run_ok(f"on{ranks}", *self.settings, ranks=ranks))

    def test_continues_after_a_kill(self):
        settings = (*self.settings, "--checkpoint.every=1")
        run = self.run_ok("straight", *settings)
        killed = self.espalier("run", self.input, "--run.name=killed", *settings, env={"ESPALIER_KILL_AT": "checkpoint.renamed:2"})
        self.assertNotEqual(killed.returncode, 0)
        self.assert_same(run, self.run_ok("killed", *settings, ranks=2))

    def test_the_record_has_the_perplexity_of_hidden_tokens(self):
        run = self.run_ok("learns", *self.settings, "--run.rounds=12", "--train.epochs=3", "--method.widths=1")
        found = self.table(run, "evaluations")
        self.assertTrue(np.isnan(found["top1"]).all())
        np.testing.assert_allclose(found["perplexity"], np.exp(found["loss"]), rtol=1e-15)
        # The frequencies of the letters alone give 12.65; both neighbours tell more.
        counts = np.unique(list(WORDS), return_counts=True)[1] / len(WORDS)
        self.assertLess(found["perplexity"][-1], 0.8 * np.exp(-(counts * np.log(counts)).sum()))

    def test_continues_from_its_own_weights(self):
        run = self.run_ok("first", *self.settings)
        self.run_ok("second", *self.settings, f"--model.init={self.checkpoint(run)}", "--run.rounds=1")
        weights = self.path("weights.safetensors")
        done = self.espalier("export", self.checkpoint(run), weights)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.getsize(weights))

    def refused(self, words, **changes):
        """With other values of these options, whose dots are underscores here."""
        kept = [word for word in self.settings if word.split("=")[0][2:].replace(".", "_") not in changes]
        given = [f"--{key.replace('_', '.', 1)}={value}" for key, value in changes.items() if value is not None]
        self.assert_refused(2, words, "run", self.input, *kept, *given)

    def test_what_does_not_fit_is_refused(self):
        self.refused("with hidden tokens; take encoder for it", model_name="gpt", model_mlp=None, method_widths="1")
        self.refused("with hidden tokens; take encoder for it", model_name="lstm")
        self.refused("the samples of digits have another form", data_name="digits", data_dir=None)
        self.refused("data.mask_rate does not work with a split model", method_name="splitfed_v1", method_widths=None)
        self.refused("data.mask_rate", data_mask_rate="1.5")
        self.refused("a language model has no accuracy", run_target_accuracy="0.5")
        self.assertFalse(os.path.exists(self.path("runs")))


if __name__ == "__main__":
    unittest.main()
