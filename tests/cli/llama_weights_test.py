"""Llama's weights in and out: from a Hugging Face folder into a run, and from its checkpoint into such a folder; what the
program computes with them against Llama in NumPy, and against transformers where it is installed."""

import json
import math
import os
import sys
import unittest

import numpy
import safetensors
import safetensors.numpy

from support import ESPALIER, ProgramTest, finish, replace_in_header

try:
    import torch
    import transformers
    NO_TRANSFORMERS = ""
except ImportError as error:
    NO_TRANSFORMERS = f"transformers cannot be imported: {error}"

# Not the sizes of any default: heads share keys and values, and the head is wider than half of a stream's part.
SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 40,
         "vocab_size": 70, "rms_norm_eps": 1e-3, "rope_theta": 500.0, "tie_word_embeddings": True, "attention_bias": False,
         "mlp_bias": False, "hidden_act": "silu", "max_position_embeddings": 64, "model_type": "llama",
         "architectures": ["LlamaForCausalLM"]}
LENGTH = 23
OPTIONS = ("--model.name=gpt", "--model.embed=48", "--model.depth=3", "--model.heads=6", "--model.kv_heads=2", "--model.mlp=40",
           "--model.fused_qkv=false", "--model.qkv_bias=false", "--model.linear_bias=false", "--model.rms_norm=true",
           "--model.norm_epsilon=1e-3", "--model.activation=swiglu", "--model.positions=rotary", "--model.rotary_base=500",
           "--data.name=tokens", "--data.dir=.", f"--data.length={LENGTH}", "--data.partition=iid", "--clients.fleet=",
           "--clients.count=2")


def llama_tensors(random, tied=True, bias=False):
    embed, hidden, keys = SIZES["hidden_size"], SIZES["intermediate_size"], 16

    def linear(rows, columns, deviation=0.15):
        return random.normal(0, deviation, (rows, columns)).astype(numpy.float32)
    tensors = {"model.embed_tokens.weight": linear(SIZES["vocab_size"], embed, 0.5),
               "model.norm.weight": random.normal(1, 0.2, embed).astype(numpy.float32)}
    if not tied:
        tensors["lm_head.weight"] = linear(SIZES["vocab_size"], embed)
    for i in range(SIZES["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[layer + name + ".weight"] = random.normal(1, 0.2, embed).astype(numpy.float32)
        for name, rows, columns in (("self_attn.q_proj", embed, embed), ("self_attn.k_proj", keys, embed),
                                    ("self_attn.v_proj", keys, embed), ("self_attn.o_proj", embed, embed),
                                    ("mlp.gate_proj", hidden, embed), ("mlp.up_proj", hidden, embed),
                                    ("mlp.down_proj", embed, hidden)):
            tensors[layer + name + ".weight"] = linear(rows, columns)
            if bias:
                tensors[layer + name + ".bias"] = linear(1, rows)[0]
    return tensors


def llama_logits(tensors, tokens):
    """Llama (Touvron et al. 2023) in double precision, from its definition; tokens: [length]. Heads [head, position, column]."""
    t = {name: values.astype(numpy.float64) for name, values in tensors.items()}
    heads, groups = SIZES["num_attention_heads"], SIZES["num_attention_heads"] // SIZES["num_key_value_heads"]
    width = SIZES["hidden_size"] // heads
    length = len(tokens)

    def linear(x, name):
        return x @ t[name + ".weight"].T + t.get(name + ".bias", 0)

    def norm(x, name):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + SIZES["rms_norm_eps"]) * t[name + ".weight"]

    def by_head(x):
        return x.reshape(length, -1, width).transpose(1, 0, 2)
    angles = numpy.arange(length)[:, None] * SIZES["rope_theta"] ** (-2.0 * numpy.arange(width // 2) / width)

    def rotated(x):  # column i with column i + width / 2
        first, second = x[..., :width // 2], x[..., width // 2:]
        cos, sin = numpy.cos(angles), numpy.sin(angles)
        return numpy.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    x = t["model.embed_tokens.weight"][tokens]
    for i in range(SIZES["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        y = norm(x, layer + "input_layernorm")
        q = rotated(by_head(linear(y, layer + "self_attn.q_proj")))
        k = rotated(by_head(linear(y, layer + "self_attn.k_proj"))).repeat(groups, 0)
        v = by_head(linear(y, layer + "self_attn.v_proj")).repeat(groups, 0)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(width)
        scores[:, numpy.triu(numpy.ones((length, length), bool), 1)] = -numpy.inf
        weights = numpy.exp(scores - scores.max(-1, keepdims=True))
        y = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + linear(y.transpose(1, 0, 2).reshape(length, -1), layer + "self_attn.o_proj")
        y = norm(x, layer + "post_attention_layernorm")
        gate = linear(y, layer + "mlp.gate_proj")
        x = x + linear(gate / (1 + numpy.exp(-gate)) * linear(y, layer + "mlp.up_proj"), layer + "mlp.down_proj")
    return norm(x, "model.norm") @ t.get("lm_head.weight", t["model.embed_tokens.weight"]).T


def losses(logits, labels):
    shifted = logits - logits.max(-1, keepdims=True)
    return numpy.log(numpy.exp(shifted).sum(-1)) - shifted[numpy.arange(len(labels)), labels]


class LlamaFolderTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.random = numpy.random.default_rng(24)
        self.tokens = self.random.integers(0, SIZES["vocab_size"], 1000).astype(numpy.uint16)
        os.mkdir(self.path("tokens"))
        numpy.save(self.path("tokens", "tokens.npy"), self.tokens)
        numpy.save(self.path("tokens", "documents.npy"), numpy.array([0, 700, 1000]))
        numpy.save(self.path("tokens", "split.npy"), numpy.array([0, 1], numpy.uint8))
        self.write("tokens/meta.json", json.dumps({"vocabulary": SIZES["vocab_size"], "eos": None}))
        self.test_tokens = self.tokens[700:].astype(numpy.int64)

    def save(self, name, tensors, shards=1, sizes=SIZES):
        """A Hugging Face folder."""
        os.mkdir(self.path(name))
        self.write(f"{name}/config.json", json.dumps(sizes))
        if shards == 1:
            safetensors.numpy.save_file(tensors, self.path(name, "model.safetensors"))
            return self.path(name)
        names, placed = sorted(tensors), {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            own = {key: tensors[key] for key in names[i::shards]}
            safetensors.numpy.save_file(own, self.path(name, file))
            placed.update({key: file for key in own})
        self.write(f"{name}/model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": placed}))
        return self.path(name)

    def evaluated(self, name, weights, *settings, ranks=1):
        """An evaluation of `weights` alone."""
        return self.run_ok(name, "--run.rounds=0", f"--model.init={weights}", *OPTIONS, *settings, ranks=ranks)

    def exported(self, run, name, *flags):
        done = self.espalier("export", self.checkpoint(run), self.path(name), *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.path(name)

    def assert_equal_files(self, a, b):
        """The same tensors, bit for bit, of the same types."""
        def stored(path):
            with open(path, "rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
                data = file.read()
            header.pop("__metadata__", None)
            return {name: (line["dtype"], line["shape"], data[line["data_offsets"][0]:line["data_offsets"][1]])
                    for name, line in header.items()}
        a, b = stored(a), stored(b)
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            self.assertEqual(a[name], b[name], name)

    def loss(self, run):
        evaluations = self.table(run, "evaluations")
        self.assertEqual(list(evaluations["version"]), [0])
        self.assertAlmostEqual(evaluations["perplexity"][0], math.exp(evaluations["loss"][0]), 9)
        return evaluations["loss"][0]

    def expected(self, tensors, stride):
        """The mean loss of the windows, of which overlapping ones count only their last `stride` tokens."""
        sums = []
        for begin in range(0, len(self.test_tokens) - LENGTH, stride):
            window = self.test_tokens[begin:begin + LENGTH + 1]
            own = losses(llama_logits(tensors, window[:-1]), window[1:])
            sums.extend(own if begin == 0 else own[-stride:])
        return numpy.mean(sums)

    def assert_near(self, loss, expected):
        # 3 blocks of sums of at most 70 terms, each rounded to 2^-24, on logits of up to 20.
        self.assertLess(abs(loss / expected - 1), 1e-5)


class LlamaTest(LlamaFolderTest):
    def test_a_folder_comes_back_bit_for_bit_and_computes_what_llama_does(self):
        tensors = llama_tensors(self.random)
        folder = self.save("hf", tensors)
        run = self.evaluated("whole", folder)
        self.assert_near(self.loss(run), self.expected(tensors, LENGTH))
        back = self.exported(run, "back")
        self.assert_equal_files(self.path("hf", "model.safetensors"), os.path.join(back, "model.safetensors"))
        with open(os.path.join(back, "config.json")) as file:
            config = json.load(file)
        for key, value in SIZES.items():
            if key != "max_position_embeddings":
                self.assertEqual(config[key], value, key)
        # What was written is read again, by its folder and by the file in it.
        for name, weights in (("again", back), ("file", os.path.join(back, "model.safetensors"))):
            self.assertEqual(self.loss(self.evaluated(name, weights)), self.loss(run))
        # One file has our own names, which are read as well.
        own = self.exported(run, "own.safetensors")
        self.assertIn("h.0.attn.q_proj.weight", safetensors.numpy.load_file(own))
        self.assertEqual(self.loss(self.evaluated("own", own)), self.loss(run))

    def test_shards_in_half_precision_come_back_bit_for_bit(self):
        tensors = llama_tensors(self.random, tied=False, bias=True)
        sizes = {**SIZES, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}
        options = ("--model.tied=false", "--model.qkv_bias=true", "--model.linear_bias=true")
        halves = {name: values.astype(numpy.float16) for name, values in tensors.items()}
        folder = self.save("hf", halves, shards=3, sizes=sizes)
        run = self.evaluated("run", folder, *options)
        self.assert_near(self.loss(run), self.expected(halves, LENGTH))
        back = self.exported(run, "back", "--dtype=float16")
        safetensors.numpy.save_file(halves, self.path("one.safetensors"))
        self.assert_equal_files(self.path("one.safetensors"), os.path.join(back, "model.safetensors"))
        self.assertEqual(self.loss(self.evaluated("again", back, *options)), self.loss(run))

    def test_bfloat16_comes_back_bit_for_bit_and_values_are_rounded_to_even(self):
        tensors = llama_tensors(self.random)
        # The upper half of a float's bits, as a type that NumPy lacks.
        bits = {name: values.view(numpy.uint32) for name, values in tensors.items()}
        rounded = {name: ((b + 0x7fff + (b >> 16 & 1)) >> 16).astype(numpy.uint16) for name, b in bits.items()}
        run = self.evaluated("run", self.save("hf", tensors))
        back = self.exported(run, "back", "--dtype=bfloat16")
        path = self.path("expected.safetensors")
        safetensors.numpy.save_file(rounded, path)
        replace_in_header(path, b'"U16"', b'"BF16"')
        self.assert_equal_files(path, os.path.join(back, "model.safetensors"))
        again = self.exported(self.evaluated("again", back), "again", "--dtype=bfloat16")
        self.assert_equal_files(path, os.path.join(again, "model.safetensors"))

    def test_a_fused_projection_is_written_as_three(self):
        tensors = llama_tensors(self.random)
        for i in range(SIZES["num_hidden_layers"]):  # as many heads of keys and values as of queries
            for third in "kv":
                name = f"model.layers.{i}.self_attn.{third}_proj.weight"
                tensors[name] = numpy.tile(tensors[name], (3, 1))
        folder = self.save("hf", tensors, sizes={**SIZES, "num_key_value_heads": 6})
        run = self.evaluated("run", folder, "--model.fused_qkv=true", "--model.kv_heads=0")
        self.assert_equal_files(self.path("hf", "model.safetensors"), os.path.join(self.exported(run, "back"), "model.safetensors"))

    def test_the_perplexity_of_windows_with_a_stride(self):
        tensors = llama_tensors(self.random)
        folder = self.save("hf", tensors)
        for stride in (5, LENGTH + 1):
            run = self.evaluated(f"by{stride}", folder, f"--data.stride={stride}", "--record.evaluate_batch=7")
            self.assert_near(self.loss(run), self.expected(tensors, stride))

    def test_an_evaluation_alone_is_a_whole_run(self):
        folder = self.save("hf", llama_tensors(self.random))
        settings = ("--record.evaluate_batch=3",)
        one = self.evaluated("one", folder, *settings)
        self.assertEqual(len(self.table(one, "tasks")["task"]), 0)
        for ranks in (2, 3):
            self.assert_same(one, self.evaluated(f"on{ranks}", folder, *settings, ranks=ranks))
        before = self.checkpoint(one)
        self.assertEqual(os.path.basename(before), "ckpt_00000000.h5")
        self.evaluated("one", folder, *settings)  # prints its result again
        # It can be the beginning of a longer run, which is that of a run from the same weights.
        words = (f"--model.init={folder}", "--run.rounds=1", "--run.horizon=1", *OPTIONS, *settings)
        for name in ("short", "longer"):
            self.run_ok(name, *words, f"--run.rounds={1 if name == 'longer' else 0}")
        longer = self.run_ok("short", *words)
        self.assert_equal_models(longer, self.path("runs", "longer"))
        # Regions and splits too.
        for method in ("diloco", "decoupled_diloco", "hier_favg"):
            run = self.run_ok(method, "--run.rounds=0", f"--model.init={folder}", *OPTIONS, *settings, f"--method.name={method}")
            self.assertEqual(self.loss(run), self.loss(one))

    def test_another_architecture_is_refused_before_anything_is_written(self):
        folder = self.save("hf", llama_tensors(self.random))
        words = ("run", self.input, "--run.name=bad", "--run.rounds=0", f"--model.init={folder}", *OPTIONS)
        self.assert_refused(2, "set model.heads = 6 instead of 3", *words, "--model.heads=3", "--model.kv_heads=1")
        self.assert_refused(2, "set model.rotary_base = 500.0 instead of 1000.0", *words, "--model.rotary_base=1000")
        os.remove(self.path("hf", "config.json"))
        self.assert_refused(3, "has no such tensor", *words, f"--model.init={self.indexed_without()}")
        self.assertFalse(os.path.exists(self.path("runs", "bad")))

    def test_unfit_tokens_are_refused_before_anything_is_written(self):
        words = ("run", self.input, "--run.name=bad", *OPTIONS)
        self.write("tokens/meta.json", json.dumps({"vocabulary": int(self.tokens.max())}))
        self.assert_refused(3, f"which is no token of a vocabulary of {self.tokens.max()}", *words)
        self.write("tokens/meta.json", json.dumps({"vocabulary": 70}))
        numpy.save(self.path("tokens", "documents.npy"), numpy.array([0, 700, 1001]))
        self.assert_refused(3, "end with the number of tokens, 1000", *words, "--check")
        self.assertFalse(os.path.exists(self.path("runs", "bad")))

    def test_clients_of_documents_train_alike_on_any_ranks_and_after_a_kill(self):
        folder = self.save("hf", llama_tensors(self.random))
        numpy.save(self.path("tokens", "documents.npy"), numpy.array([0, 100, 300, 420, 700, 1000]))
        numpy.save(self.path("tokens", "split.npy"), numpy.array([0, 0, 0, 0, 1], numpy.uint8))
        numpy.save(self.path("tokens", "client.npy"), numpy.array([2, 0, 2, 1, -1], numpy.int32))
        run = self.same_on_ranks_and_after_a_kill(f"--model.init={folder}", *OPTIONS, "--data.partition=given", "--clients.count=3",
                                                  "--run.rounds=3", "--train.lr=0.1", "--train.batch=4", "--data.stride=9",
                                                  "--train.epochs=1", ranks=(2, 3), kill="round.merged:2")
        clients = self.table(run, "clients")
        self.assertEqual(clients["samples"].tolist(), [(n - 1) // LENGTH for n in (200, 280, 220)])
        found = self.table(run, "evaluations")
        self.assertLess(found["loss"][-1], found["loss"][0])

    def indexed_without(self):
        self.write("hf/model.safetensors.index.json",
                   json.dumps({"weight_map": {"model.absent.weight": "model.safetensors"}}))
        return self.path("hf")

    def test_only_a_llama_is_written_as_a_folder(self):
        run = self.run_ok("mlp", "--run.rounds=0")
        self.assert_refused(2, "has not the architecture of Llama", "export", self.checkpoint(run), "folder")
        self.assertFalse(os.path.exists(self.path("folder")))
        self.assert_refused(2, "--dtype is float32, bfloat16 or float16", "export", self.checkpoint(run), "x.safetensors",
                            "--dtype=int8")

    def peak(self, *words):
        """The most memory of the program, in bytes. A process begins with its parent's peak, so the parent is a small one."""
        measure = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
                   "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)")
        done = finish(self.begin([sys.executable, "-c", measure, ESPALIER, *words]), 100)
        self.assertEqual(done.returncode, 0, done.stderr)
        return 1024 * int(done.stdout)

    def test_loading_needs_little_more_than_the_model(self):
        # One table of 64 MB, and a file as large beside it, of which only pieces are in memory.
        vocabulary, embed = 65536, 256
        self.write("tokens/meta.json", json.dumps({"vocabulary": vocabulary}))
        words = ("run", self.input, "--check", *OPTIONS, "--model.depth=1", "--model.heads=4", "--model.kv_heads=4", "--model.mlp=256")
        path = self.path("large.safetensors")
        safetensors.numpy.save_file({"model.embed_tokens.weight": numpy.ones((vocabulary, embed), numpy.float32)}, path)
        model = 4 * vocabulary * embed
        without = self.peak(*words, "--model.embed=8")
        drawn = self.peak(*words, f"--model.embed={embed}")
        loaded = self.peak(*words, f"--model.embed={embed}", f"--model.init={path}", "--model.init_partial=true")
        self.assertGreater(drawn - without, 0.9 * model)
        self.assertLess(loaded - without, 1.2 * model)


@unittest.skipIf(NO_TRANSFORMERS, NO_TRANSFORMERS)
class TransformersTest(LlamaFolderTest):
    def test_an_export_loads_strictly_and_computes_the_same(self):
        tensors = llama_tensors(self.random)
        run = self.evaluated("run", self.save("hf", tensors))
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            self.exported(run, "back"), dtype=torch.float32, output_loading_info=True)
        self.assertFalse(any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report)
        for name, values in model.state_dict().items():
            if name in tensors:
                self.assertEqual(values.numpy().tobytes(), tensors[name].tobytes(), name)
        with torch.no_grad():
            window = torch.from_numpy(self.test_tokens[None, :LENGTH])
            logits = model(window).logits[0].double().numpy()
        # Rotary angles are rounded to floats there: 2^-24 of an angle of up to 23.
        numpy.testing.assert_allclose(logits, llama_logits(tensors, self.test_tokens[:LENGTH]), atol=2e-4)


if __name__ == "__main__":
    unittest.main()
