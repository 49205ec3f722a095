"""The inputs in inputs/language/: short runs on stand-ins of their texts."""

import json
import os
import unittest

import numpy as np

from support import ProgramTest


class Roles(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "language", "leaf-lstm.ini")
        speech = "to be or not to be that is the question whether it is nobler in the mind to suffer " * 5
        of_role = {"x": [speech[i:i + 80] for i in range(300)], "y": list(speech[80:380])}
        users = [f"ROLE {i}" for i in range(24)]
        os.makedirs(self.path("data", "leaf-shakespeare"))
        self.write("data/leaf-shakespeare/all.json", json.dumps({"users": users, "user_data": dict.fromkeys(users, of_role)}))

    def short(self, name, *settings, **more):
        """The table of evaluations."""
        run = self.run_ok(name, f"--data.dir={self.path('data')}", "--data.test_share=0.4", "--run.rounds=6", "--model.hidden=24",
                          "--train.steps=8", "--train.lr=0.03", "--record.evaluate_every=3", *settings, **more)
        tasks = self.table(run, "tasks")
        self.assertEqual(np.bincount(tasks["merged_version"])[1:].tolist(), [10] * 6)
        self.assertTrue((tasks["samples"] == 8 * 10).all())
        return self.table(run, "evaluations")

    def test_ten_roles_of_a_round_learn_every_next_character(self):
        found = self.short("every", ranks=3)
        self.assertLess(found["loss"][-1], found["loss"][0])
        self.assertLess(found["perplexity"][-1], 10)  # 12.1 for a model of the letters' frequencies
        self.assertTrue(np.isnan(found["top1"]).all())

    def test_or_the_character_after_the_last(self):
        found = self.short("last", "--data.leaf_labels=last")
        self.assertGreater(found["top1"][-1], 0.24)  # 0.23 are blanks
        self.assertTrue(np.isnan(found["perplexity"]).all())


class HiddenBytes(ProgramTest):
    def test_two_rounds_of_three_widths(self):
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "language", "masked-encoder.ini")
        os.makedirs(self.path("tinyshakespeare"))
        self.write("tinyshakespeare/input.txt", "to be or not to be that is the question whether it is nobler in the mind " * 1000)
        run = self.run_ok("masked", f"--data.dir={self.folder.name}", "--run.rounds=2", "--train.steps=1", "--record.evaluate_every=1",
                          "--data.test_limit=20", "--clients.per_round=20", ranks=3)
        tasks = self.table(run, "tasks")
        self.assertEqual(np.unique(tasks["share"]).tolist(), [0.25, 0.5, 1])
        self.assertEqual(set(tasks["outcome"].tolist()), {b"merged"})
        found = self.table(run, "evaluations")
        self.assertLess(found["perplexity"][-1], 257)
        self.assertTrue((tasks["samples"] == 32).all())


class Evaluation(ProgramTest):
    def test_the_windows_of_a_drawn_model_that_is_smaller(self):
        self.input = os.path.join(os.environ["ESPALIER_INPUTS"], "language", "smollm2-perplexity.ini")
        os.mkdir(self.path("tokens"))
        tokens = np.random.default_rng(1).integers(0, 50, 2000 + 41 * 512).astype(np.uint16)
        for name, values in (("tokens", tokens), ("documents", np.array([0, 2000, len(tokens)])), ("split", np.array([0, 1], np.uint8))):
            np.save(self.path("tokens", name + ".npy"), values)
        self.write("tokens/meta.json", json.dumps({"vocabulary": 50}))
        settings = (f"--data.dir={self.folder.name}", "--data.file=tokens", "--model.init=", "--model.embed=72", "--model.depth=1",
                    "--model.mlp=64", "--record.evaluate_batch=7")
        run = self.run_ok("small", *settings)
        found = self.table(run, "evaluations")
        self.assertEqual(found["version"].tolist(), [0])
        # First weights know nothing of tokens that follow no law: the perplexity is about the number of tokens.
        self.assertLess(abs(found["perplexity"][0] / 50 - 1), 0.1)
        self.assertEqual(len(self.table(run, "tasks")["task"]), 0)


if __name__ == "__main__":
    unittest.main()
