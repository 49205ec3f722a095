"""Text from language models: checkpoints of bytes and of words, folders with a tokenizer, SmolLM2, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from support import ProgramTest, finish

INPUT = """
[run]
name = text
rounds = 3
[data]
name = text
dir = .
file = text.txt
length = 32
[model]
name = gpt
depth = 2
embed = 32
heads = 2
[clients]
count = 2
[train]
batch = 8
steps = 40
optimizer = adamw
lr = 0.01
"""
SENTENCE = "The cat sat on the mat, and the dog — à côté — sat on the log. "


def alphabet():
    """GPT-2's character of each byte."""
    visible = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    others = [b for b in range(256) if b not in visible]
    return {**{b: chr(b) for b in visible}, **{b: chr(256 + i) for i, b in enumerate(others)}}


class GenerateTest(ProgramTest):
    models = {}  # checkpoints by settings: each is trained once

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.shared.cleanup)

    def setUp(self):
        super().setUp()
        self.write("text.txt", SENTENCE * 60)
        self.input = self.write("text.ini", INPUT)

    def trained(self, *settings):
        if settings not in self.models:
            copy = os.path.join(self.shared.name, f"{len(self.models)}.h5")
            shutil.copy(self.checkpoint(self.run_ok("text", *settings)), copy)
            self.models[settings] = copy
        return self.models[settings]

    def generate(self, model, *words, given=None, binary=False):
        job = subprocess.run(self.command("generate", model, *words), cwd=self.folder.name, input=given, capture_output=True, timeout=300)
        self.assertEqual(job.returncode, 0, job.stderr)
        self.assertRegex(job.stderr.decode(), r"^prompt: \d+ tokens in .* tokens/s\); text: \d+ tokens in .* tokens/s\); context \d+ ")
        out = job.stdout
        self.assertTrue(out.endswith(b"\n"))
        return out[:-1] if binary else out[:-1].decode()

    def folder_of(self, checkpoint, **more):
        """A folder as tools/get_model.py writes it, with one token for each byte and the marks <end> and <other>."""
        os.mkdir(self.path("folder"))
        done = self.espalier("export", checkpoint, self.path("folder", "model.safetensors"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.write("folder/model.ini", "[model]\nname = gpt\ndepth = 2\nembed = 32\nheads = 2\n")
        tokenizer = {"added_tokens": [],
                     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
                     "model": {"type": "BPE", "vocab": {c: b for b, c in alphabet().items()}, "merges": []}, **more}
        self.write("folder/tokenizer.json", json.dumps(tokenizer))
        return self.path("folder")

    def test_a_checkpoint_of_bytes(self):
        model = self.trained()
        text = self.generate(model, "--prompt=The cat ", "--tokens=20", binary=True)
        self.assertEqual(len(text), 20)
        # Trained on one sentence, it knows some of its words.
        self.assertTrue(set(re.findall(rb"[a-z]+", text)) & {b"sat", b"on", b"the", b"mat", b"and", b"dog", b"log"}, text)
        for words in (["--no_cache"], ["--threads=1"], ["--threads=2"]):
            self.assertEqual(self.generate(model, "--prompt=The cat ", "--tokens=20", *words, binary=True), text, words)
        self.assertEqual(self.generate(model, "--prompt=-", "--tokens=20", given=b"The cat ", binary=True), text)
        numbers = ",".join(str(b) for b in b"The cat ")
        ids = self.generate(model, f"--prompt={numbers}", "--tokens=20", "--ids")
        self.assertEqual(bytes(int(i) for i in ids.split()), text)

    def test_a_text_longer_than_the_model_looks_back(self):
        model = self.trained()
        words = ("--prompt=" + ",".join(str(b) for b in (SENTENCE * 3).encode()), "--tokens=100", "--ids")
        long = self.generate(model, *words)
        self.assertEqual(long, self.generate(model, *words, "--no_cache"))
        self.assertEqual(len(long.split()), 100)
        short = self.generate(model, "--prompt=The cat ", "--tokens=40", "--context=8", binary=True)
        self.assertEqual(short, self.generate(model, "--prompt=The cat ", "--tokens=40", "--context=8", "--no_cache", binary=True))

    def test_draws(self):
        model = self.trained()

        def drawn(*words):
            return self.generate(model, "--prompt=84,104", "--tokens=30", "--temperature=2", "--ids", *words)
        text = drawn("--seed=3")
        self.assertEqual(text, drawn("--seed=3", "--no_cache"))
        self.assertNotEqual(text, drawn("--seed=4"))
        # The first tokens of a text do not depend on how many follow.
        self.assertEqual(self.generate(model, "--prompt=84,104", "--tokens=9", "--temperature=2", "--seed=3", "--ids").split(),
                         text.split()[:9])
        greedy = self.generate(model, "--prompt=84,104", "--tokens=30", "--ids")
        self.assertEqual(drawn("--top_k=1"), greedy)
        self.assertEqual(drawn("--top_p=0.000001"), greedy)

    def test_a_checkpoint_of_words(self):
        model = self.trained("--data.tokens=words", "--data.vocabulary=40")
        text = self.generate(model, "--prompt=the CAT", "--tokens=12")
        self.assertEqual(len(text.split(" ")), 12)
        self.assertLessEqual(set(text.split(" ")), set(re.findall(r"\w+|[^\w\s]", SENTENCE.lower())) | {"<unk>", "<pad>"})

    def test_a_model_without_attention(self):
        model = self.trained("--model.name=lstm", "--model.hidden=16", "--model.layers=1")
        self.assertEqual(len(self.generate(model, "--prompt=The", "--tokens=40", binary=True)), 40)

    def test_a_folder(self):
        checkpoint = self.trained()
        folder = self.folder_of(checkpoint)
        wanted = self.generate(checkpoint, "--prompt=The cat ", "--tokens=20", binary=True)
        text = self.generate(folder, "--prompt=The cat ", "--tokens=20")
        self.assertEqual(text, wanted.decode(errors="replace"))
        self.assertEqual(self.generate(checkpoint, "--prompt=The cat ", "--tokens=20", f"--tokenizer={folder}/tokenizer.json"), text)

    def test_a_mark_ends_the_text(self):
        checkpoint = self.trained()
        wanted = self.generate(checkpoint, "--prompt=The cat ", "--tokens=20", binary=True)
        end = wanted[5]
        added = [{"id": end, "content": "<end>", "special": True}]
        folder = self.folder_of(checkpoint, added_tokens=added)
        before = wanted[:wanted.index(end)].decode(errors="replace")
        self.assertEqual(self.generate(folder, "--prompt=The cat ", "--tokens=20"), before)
        # A special token is no text, even if the text goes on.
        self.assertEqual(self.generate(folder, "--prompt=The cat ", "--tokens=20", "--ignore_end"),
                         wanted.replace(bytes([end]), b"").decode(errors="replace"))
        # The folder's own list of ends comes before the tokenizer's marks.
        other = next((b for b in wanted if b != end), end)
        self.write("folder/config.json", json.dumps({"eos_token_id": [other]}))
        until = wanted[:wanted.index(other)]
        self.assertEqual(self.generate(folder, "--prompt=The cat ", "--tokens=20"),
                         until.replace(bytes([end]), b"").decode(errors="replace"))

    def test_refusals(self):
        model = self.trained()
        refused = self.assert_refused
        refused(2, "needs a model", "generate")
        refused(2, "needs --prompt", "generate", model)
        refused(2, "there is no none.h5", "generate", "none.h5", "--prompt=a")
        refused(2, "neither a checkpoint", "generate", self.path("text.txt"), "--prompt=a")
        refused(2, "one model", "generate", model, model, "--prompt=a")
        refused(2, "no token", "generate", model, "--prompt=")
        refused(2, "--tokens is a whole number", "generate", model, "--prompt=a", "--tokens=0")
        refused(2, "--tokens=VALUE", "generate", model, "--prompt=a", "--tokens")
        refused(2, "--temperature is a number", "generate", model, "--prompt=a", "--temperature=-1")
        refused(2, "to 1000000, not '2e6'", "generate", model, "--prompt=a", "--temperature=2e6")
        refused(2, "--context = 33 is more than the 32 tokens", "generate", model, "--prompt=a", "--context=33")
        os.makedirs(self.path("a-run", "checkpoints"))
        refused(2, "is a run's folder without checkpoints; name a checkpoint (.h5)", "generate", self.path("a-run"), "--prompt=a")
        refused(2, "--top_p is a number", "generate", model, "--prompt=a", "--temperature=1", "--top_p=1.5")
        refused(2, "--top_k needs --temperature", "generate", model, "--prompt=a", "--top_k=5")
        refused(2, "--ids has no value", "generate", model, "--prompt=a", "--ids=true")
        refused(2, "given twice", "generate", model, "--prompt=a", "--prompt=b")
        refused(2, "not '--warmth'", "generate", model, "--prompt=a", "--warmth=1")
        refused(2, "the token 256", "generate", model, "--prompt=256", "--ids")
        refused(2, "a token of --prompt is", "generate", model, "--prompt=1,x", "--ids")
        refused(3, "no-such.json", "generate", model, "--prompt=a", "--tokenizer=no-such.json")
        refused(3, "is no JSON object", "generate", model, "--prompt=a", f"--tokenizer={self.path('text.txt')}")
        damaged = self.path("damaged.h5")
        with open(model, "rb") as file, open(damaged, "wb") as copy:
            copy.write(file.read()[:-1000])
        refused(4, "damaged.h5", "generate", damaged, "--prompt=a")

    def test_refused_folders(self):
        checkpoint = self.trained()
        os.mkdir(self.path("empty"))
        self.assert_refused(2, "has no model.ini", "generate", self.path("empty"), "--prompt=a")
        folder = self.folder_of(checkpoint, normalizer={"type": "NFC"})
        self.assert_refused(3, "normalizer", "generate", folder, "--prompt=a")
        os.remove(os.path.join(folder, "tokenizer.json"))
        self.assert_refused(2, "what its tokens are", "generate", folder, "--prompt=a")
        self.assertEqual(len(self.generate(folder, "--prompt=65", "--ids", "--tokens=3").split()), 3)
        self.assert_refused(2, "--context = 33 is more than the 32 tokens", "generate", folder, "--prompt=65", "--ids", "--context=33")
        self.write("folder/config.json", '{"max_position_embeddings": 12}')
        self.assert_refused(2, "--context = 13 is more than the 12 tokens", "generate", folder, "--prompt=65", "--ids", "--context=13")
        self.assertEqual(len(self.generate(folder, "--prompt=65", "--ids", "--tokens=30", "--context=12").split()), 30)
        self.write("folder/model.ini", "[model]\nname = gpt\ndepth = 3\nembed = 32\nheads = 2\n")
        self.assert_refused(3, "lacks", "generate", folder, "--prompt=65", "--ids")

    def test_a_model_of_images(self):
        self.input = self.write("digits.ini", "[run]\nname = d\nrounds = 1\n[data]\nname = digits\n[model]\nname = mlp\n[clients]\ncount = 2\n"
                                              "[train]\nsteps = 1\n")
        self.assert_refused(2, "does not predict the next token", "generate", self.checkpoint(self.run_ok("d")), "--prompt=a")


class SmolLM2Test(ProgramTest):
    """The folder that `tools/get_model.py smollm2` writes, if $ESPALIER_SMOLLM2 names one."""

    PROMPT = "The history of the steam engine begins"

    def setUp(self):
        super().setUp()
        self.model = os.environ.get("ESPALIER_SMOLLM2")
        if not self.model:
            self.skipTest("$ESPALIER_SMOLLM2 names no folder with SmolLM2")

    def generate(self, *words):
        done = finish(self.begin(self.command("generate", self.model, *words)), 600)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout[:-1]

    def test_two_hundred_tokens_are_those_of_transformers(self):
        try:
            import tokenizers
            import torch
            import transformers
        except ImportError as error:
            self.skipTest(f"{sys.executable}: {error}")
        tokenizer = tokenizers.Tokenizer.from_file(os.path.join(self.model, "tokenizer.json"))
        prompt = tokenizer.encode(self.PROMPT).ids
        theirs = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
        wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=200, min_new_tokens=200, do_sample=False)[0, len(prompt):].tolist()
        ours = self.generate("--prompt=" + ",".join(map(str, prompt)), "--ids", "--tokens=200", "--ignore_end")
        self.assertEqual([int(token) for token in ours.split()], wanted)
        self.assertEqual(self.generate("--prompt=" + self.PROMPT, "--tokens=200", "--ignore_end"), tokenizer.decode(wanted))

    def test_the_cache_changes_no_token(self):
        words = ("--prompt=" + self.PROMPT, "--tokens=40", "--ignore_end")
        self.assertEqual(self.generate(*words), self.generate(*words, "--no_cache"))


if __name__ == "__main__":
    unittest.main()
