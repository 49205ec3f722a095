"""Models of a hundred million parameters: ViT-B/16 and GPT-2 small, from safetensors files with their customary names, in
one round of two steps."""

import os
import re
import resource
import sys
import unittest

import numpy
import safetensors.numpy

from support import ESPALIER, MPIRUN, ProgramTest, finish

MOST_BYTES = 24e9

VIT = """
[run]
rounds = 1
[model]
name = vit
depth = 12
embed = 768
heads = 12
patch = 16
[data]
name = synthetic
synthetic_shape = 3, 224, 224
synthetic_classes = 1000
synthetic_samples = 4
test_limit = 1
[clients]
count = 1
[train]
batch = 2
steps = 2
lr = 0
"""

GPT = """
[run]
rounds = 1
[model]
name = gpt
depth = 12
embed = 768
heads = 12
[data]
name = synthetic
synthetic_vocabulary = 50257
synthetic_labels = next_token
length = 1024
synthetic_samples = 2
test_limit = 1
[clients]
count = 1
[train]
batch = 1
steps = 2
lr = 0
"""


def vit_shapes():
    """timm's vit_base_patch16_224."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768),
              "patch_embed.proj.weight": (768, 3, 16, 16), "patch_embed.proj.bias": (768,),
              "norm.weight": (768,), "norm.bias": (768,),
              "head.weight": (1000, 768), "head.bias": (1000,)}
    for i in range(12):
        for name, shape in {"norm1.weight": (768,), "norm1.bias": (768,),
                            "attn.qkv.weight": (2304, 768), "attn.qkv.bias": (2304,),
                            "attn.proj.weight": (768, 768), "attn.proj.bias": (768,),
                            "norm2.weight": (768,), "norm2.bias": (768,),
                            "mlp.fc1.weight": (3072, 768), "mlp.fc1.bias": (3072,),
                            "mlp.fc2.weight": (768, 3072), "mlp.fc2.bias": (768,)}.items():
            shapes[f"blocks.{i}.{name}"] = shape
    return shapes


def gpt_shapes():
    """Hugging Face's gpt2: linear layers stored [in, out], the head tied to wte."""
    shapes = {"transformer.wte.weight": (50257, 768), "transformer.wpe.weight": (1024, 768),
              "transformer.ln_f.weight": (768,), "transformer.ln_f.bias": (768,)}
    for i in range(12):
        for name, shape in {"ln_1.weight": (768,), "ln_1.bias": (768,),
                            "attn.c_attn.weight": (768, 2304), "attn.c_attn.bias": (2304,),
                            "attn.c_proj.weight": (768, 768), "attn.c_proj.bias": (768,),
                            "ln_2.weight": (768,), "ln_2.bias": (768,),
                            "mlp.c_fc.weight": (768, 3072), "mlp.c_fc.bias": (3072,),
                            "mlp.c_proj.weight": (3072, 768), "mlp.c_proj.bias": (768,)}.items():
            shapes[f"transformer.h.{i}.{name}"] = shape
    return shapes


class LargeTest(ProgramTest):
    def check(self, text, shapes, parameters):
        self.input = self.write("large.ini", text)
        random = numpy.random.default_rng(1)
        tensors = {name: random.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
                   for name, shape in shapes.items()}
        self.assertEqual(sum(t.size for t in tensors.values()), parameters)
        start = self.path("start.safetensors")
        safetensors.numpy.save_file(tensors, start)

        checked = self.espalier("run", self.input, "--check", f"--model.init={start}")
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn(f"{parameters} parameters", checked.stdout)

        run = self.run_ok("large", f"--model.init={start}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        self.assertLess(peak, MOST_BYTES)
        print(f"largest process: {peak / 1e9:.2f} GB", flush=True)

        # With a learning rate of 0 every weight stays equal to the file.
        out = self.path("out.safetensors")
        done = self.espalier("export", self.checkpoint(run), out)
        self.assertEqual(done.returncode, 0, done.stderr)
        got = safetensors.numpy.load_file(out)
        self.assertEqual(len(got), len(tensors))
        for name, values in tensors.items():
            mine = got[name.removeprefix("transformer.")]
            if name.startswith("transformer.h.") and values.ndim == 2:
                values = values.T
            self.assertTrue((mine == values.reshape(mine.shape)).all(), name)

    def test_vit_base_16(self):
        self.check(VIT, vit_shapes(), 86_567_656)

    def test_gpt_2_small(self):
        self.check(GPT, gpt_shapes(), 124_439_808)


SERVER = """
[run]
rounds = 4
[data]
name = synthetic
synthetic_shape = 1, 8, 8
synthetic_samples = 60
[model]
name = mlp
hidden = 5300, 5100
[clients]
count = 3
[train]
batch = 20
lr = 0.01
[checkpoint]
every = 1
"""

# Runs its arguments, and prints the largest resident memory of them on stderr with the rank.
METER = """
import os, resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
os.write(2, f"<rank {os.environ.get('OMPI_COMM_WORLD_RANK', '0')} {most}>\\n".encode())
sys.exit(status)
"""


# Three regions or workers on devices whose times are of one size with those of their links.
PARTS = """
[run]
rounds = 3
[data]
name = synthetic
synthetic_shape = 1, 8, 8
synthetic_samples = 60
[model]
name = mlp
hidden = 2900, 2800, 900
[clients]
count = 3
fleet = 3*one
[device.one]
gflops = 50
down_mbps = 5000
up_mbps = 5000
[train]
batch = 4
[checkpoint]
every = 1
"""


class ServerMemory(ProgramTest):
    def peak(self, text, *words, ranks=1):
        meter = [sys.executable, "-c", METER, ESPALIER, "run", self.write("server.ini", text), *words]
        done = finish(self.begin(meter if ranks == 1 else [MPIRUN, "-n", str(ranks), *meter]), 600)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout, int(re.search(r"<rank 0 (\d+)>", done.stderr).group(1))

    def said_and_used(self, text, *words):
        """What --check says is at most needed, the memory of this check, and what a run on three ranks uses."""
        said, before = self.peak(text, *words, "--check")
        most = float(re.search(r"server +([\d.]+) MB at most", said).group(1)) * 1e6
        _, used = self.peak(text, *words, "--overwrite", ranks=3)
        self.assertLessEqual(used, most)
        self.assertLessEqual(most, 1.25 * used)
        return most, before, used

    def test_with_a_checkpoint_in_each_round_is_what_check_says(self):
        """27 million parameters: at most three models beside the updates and the payloads of two versions."""
        _, before, used = self.said_and_used(SERVER)
        model = 4 * (64 * 5300 + 5300 * 5100)
        libraries = before - model
        self.assertLess(used, libraries + (3 + 3 + 2) * model + 64 * 2**20)

    def test_of_regions_is_what_check_says(self):
        """Eight to eleven million parameters; with the states of all regions at once the server took more than is said."""
        for words in (["--method.name=diloco", "--regions.period=2"],
                      ["--method.name=streaming_diloco", "--regions.period=4", "--regions.overlap=1",
                       "--model.hidden=2100,2000,1900"],
                      ["--method.name=sync_dp", "--regions.period=2", "--train.momentum=0.9"],
                      ["--method.name=decoupled_diloco", "--regions.period=4"]):
            with self.subTest(words=words):
                self.said_and_used(PARTS, *words)

    def test_of_split_models_is_what_check_says(self):
        for words in (["--method.name=splitfed_v2"],
                      ["--method.name=splitfed_v1", "--split.cut=1", "--train.momentum=0.9",
                       "--train.optimizer_state=keep"],
                      ["--method.name=hier_favg", "--split.iterations=2"]):
            with self.subTest(words=words):
                self.said_and_used(PARTS, *words)


if __name__ == "__main__":
    unittest.main()
