"""Llama models in files: GGUF and Hugging Face folders in, one safetensors file out, tensor by tensor.

    architecture, tensors = read_folder("folder")        # or read_gguf("model.gguf"), which also returns the package's reader
    write_safetensors("model.safetensors", architecture.shapes(), tensors, "float32")

The names are those of Hugging Face's Llama. Values are read and converted in pieces, so a model may be larger than the memory.
"""

import contextlib
import dataclasses
import json
import math
import mmap
import pathlib
import re
import struct
from typing import Callable

import numpy as np

from command_line import refuse, writing

CHUNK = 1 << 22  # values that are converted at a time
GGUF_TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
STORED = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
LARGEST_HEADER = 100_000_000  # the format's own limit
# Buffers in older Hugging Face files that follow from the architecture.
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

HEAD = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


class FileError(Exception):
    """One sentence about a file or an option. The tools end with `status`: 2 for what they do not support, 3 for damaged data."""

    def __init__(self, sentence, status=2):
        super().__init__(sentence)
        self.status = status


@contextlib.contextmanager
def errors_end_the_tool(output):
    """Ends a tool that writes `output` with one sentence and the status of what went wrong."""
    try:
        with writing(output):
            yield
    except FileError as error:
        refuse(error, error.status)


@dataclasses.dataclass
class Architecture:
    """The sizes of a Llama model, by the names of its config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    def shapes(self):
        """The shape of each tensor by its name, in the order of the model."""
        width, mlp = self.hidden_size, self.intermediate_size
        keys = width // self.num_attention_heads * self.num_key_value_heads
        shapes = {"model.embed_tokens.weight": (self.vocab_size, width)}
        for block in range(self.num_hidden_layers):
            for name, shape in (("input_layernorm", (width,)), ("self_attn.q_proj", (width, width)),
                                ("self_attn.k_proj", (keys, width)), ("self_attn.v_proj", (keys, width)),
                                ("self_attn.o_proj", (width, width)), ("post_attention_layernorm", (width,)),
                                ("mlp.gate_proj", (mlp, width)), ("mlp.up_proj", (mlp, width)), ("mlp.down_proj", (width, mlp))):
                shapes[f"model.layers.{block}.{name}.weight"] = shape
        shapes["model.norm.weight"] = (width,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, width)
        return shapes

    def parameters(self):
        return sum(int(np.prod(shape)) for shape in self.shapes().values())


@dataclasses.dataclass
class Tensor:
    """`rows(begin, end)` returns rows of a matrix, or values of a vector, as float32."""

    shape: tuple
    rows: Callable

    def chunks(self):
        step = max(1, CHUNK // int(np.prod(self.shape[1:])))
        for begin in range(0, self.shape[0], step):
            yield self.rows(begin, min(begin + step, self.shape[0]))


def list_of(names):
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_sizes(a, where):
    """Refuses sizes that no Llama model has."""
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "num_key_value_heads", "max_position_embeddings"):
        value = getattr(a, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FileError(f"{where} has {name} {value}, which is no positive number", 3)
    if not (math.isfinite(a.rms_norm_eps) and a.rms_norm_eps > 0 and math.isfinite(a.rope_theta) and a.rope_theta > 0):
        raise FileError(f"{where} has rms_norm_eps {a.rms_norm_eps} and rope_theta {a.rope_theta}; both must be positive", 3)
    if a.hidden_size % a.num_attention_heads or a.num_attention_heads % a.num_key_value_heads:
        raise FileError(f"{where} has a width of {a.hidden_size}, {a.num_attention_heads} heads and {a.num_key_value_heads} heads of "
                        "keys and values; each must be a multiple of the next", 3)
    if a.hidden_size // a.num_attention_heads % 2:
        raise FileError(f"{where} has heads of {a.hidden_size // a.num_attention_heads} columns; rotary positions need an even number", 3)


def check(architecture, tensors, where):
    """Refuses missing, further and wrongly shaped tensors."""
    if architecture.num_hidden_layers > len(tensors):
        raise FileError(f"{where} lacks tensors: it has {len(tensors)} for {architecture.num_hidden_layers} blocks", 3)
    shapes = architecture.shapes()
    if missing := shapes.keys() - tensors.keys():
        raise FileError(f"{where} lacks {list_of(sorted(missing))}", 3)
    if unknown := tensors.keys() - shapes.keys():
        raise FileError(f"{where} has {list_of(sorted(unknown))}, which the Llama architecture lacks")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise FileError(f"{where} has {name} {list(tensors[name].shape)} instead of {list(shape)}", 3)


# GGUF

def half_by_half(columns, heads, rows):
    """The order of rows that undoes the format's permutation of queries and keys: it stores the pairs of rows that one angle rotates
    beside each other, while Hugging Face's Llama rotates row i of the first half of a head with row i of the second."""
    return np.arange(rows).reshape(heads, columns // 2, 2).swapaxes(1, 2).ravel()


def hugging_face_name(name):
    """Of "blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight" and "attn_q". Unknown names stay as they are."""
    if (match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)) and match[2] in BLOCK:
        return f"model.layers.{match[1]}.{BLOCK[match[2]]}.weight", match[2]
    stem = name.removesuffix(".weight")
    return (f"{HEAD[stem]}.weight" if stem in HEAD else name), stem


def gguf_rows(tensor, order):
    """The function `rows` of a tensor of a GGUF file."""
    from gguf import dequantize
    data = tensor.data  # float32, or rows of bytes, mapped

    def rows(begin, end):
        part = data[begin:end] if order is None else data[order[begin:end]]
        return dequantize(np.ascontiguousarray(part), tensor.tensor_type)
    return rows


@contextlib.contextmanager
def damage_is_one_sentence(path):
    """Turns whatever odd values of a damaged GGUF file raise, here or in the package, into a FileError."""
    try:
        yield
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, MemoryError) as error:
        raise FileError(f"{path} is damaged or was cut short: {' '.join(str(error).split())}", 3) from None


# Bytes of a value by its type in a GGUF file, and the types without a fixed size.
GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
GGUF_STRING, GGUF_ARRAY = 8, 9


class Header:
    """Walks over the header of a GGUF file. A struct.error says that it leaves the file."""

    def __init__(self, mapped):
        self.mapped, self.place = mapped, 4

    def number(self, form):
        value, = struct.unpack_from("<" + form, self.mapped, self.place)
        self.place += struct.calcsize(form)
        return value

    def skip(self, kind):
        if kind == GGUF_STRING:
            length = self.number("Q")
            self.place += length
        elif kind == GGUF_ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in GGUF_BYTES:
                self.place += GGUF_BYTES[inner] * count
            else:
                for _ in range(count):
                    self.skip(inner)
        elif kind in GGUF_BYTES:
            self.place += GGUF_BYTES[kind]
        else:
            raise ValueError(f"it has a value of type {kind}")

    def walk(self):
        self.number("I")  # version
        tensors, values = self.number("Q"), self.number("Q")
        for _ in range(values):
            self.skip(GGUF_STRING)
            self.skip(self.number("I"))
        for _ in range(tensors):
            self.skip(GGUF_STRING)
            dimensions = self.number("I")
            self.place += 8 * dimensions
            self.number("I"), self.number("Q")  # type and place


def check_header(path):
    """Refuses a damaged header: with a wrong count the package's reader goes on behind the end of the file, for ever."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            Header(mapped).walk()
        except (struct.error, RecursionError):
            raise ValueError("its header does not end within the file") from None


def open_gguf(path):
    """The package's reader."""
    from gguf import GGUFReader
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise FileError(f"{path} is no GGUF file")
        with damage_is_one_sentence(path):
            check_header(path)
            return GGUFReader(path)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None


def gguf_value(reader, name, default=None):
    field = reader.get_field(name)
    return default if field is None else field.contents()


def gguf_architecture(reader, path):
    kind = gguf_value(reader, "general.architecture")
    if kind != "llama":
        raise FileError(f"{path} holds a model of the architecture '{kind}'; only 'llama' can be converted")
    keys = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
            "num_attention_heads": "attention.head_count"}
    sizes = {own: gguf_value(reader, f"llama.{key}") for own, key in keys.items()}
    embedding = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise FileError(f"{path} lacks token_embd.weight", 3)
    epsilon = np.float32(gguf_value(reader, "llama.attention.layer_norm_rms_epsilon", 1e-5))
    architecture = Architecture(
        vocab_size=int(embedding.shape[1]),
        num_key_value_heads=gguf_value(reader, "llama.attention.head_count_kv", sizes["num_attention_heads"]),
        max_position_embeddings=gguf_value(reader, "llama.context_length", 2048),
        rms_norm_eps=float(str(epsilon)),  # the file has 1e-5 as a float32, which is 9.99999975e-06
        rope_theta=float(gguf_value(reader, "llama.rope.freq_base", 10000.0)),
        tie_word_embeddings=all(t.name != "output.weight" for t in reader.tensors), **sizes)
    check_sizes(architecture, path)
    columns = architecture.hidden_size // architecture.num_attention_heads
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        value = gguf_value(reader, f"llama.{key}", columns)
        if value != columns:
            raise FileError(f"{path} has llama.{key} = {value}; only {columns}, the width of a head, can be converted")
    if gguf_value(reader, "llama.rope.scaling.type", "none") != "none" or any(t.name == "rope_freqs.weight" for t in reader.tensors):
        raise FileError(f"{path} scales its rotary positions, which the family gpt cannot")
    if gguf_value(reader, "llama.expert_count", 0):
        raise FileError(f"{path} is a mixture of experts, which the family gpt is not")
    return architecture


def read_gguf(path):
    """Returns the architecture, the tensors by Hugging Face's names, and the reader, which also has the tokenizer."""
    reader = open_gguf(path)
    with damage_is_one_sentence(path):
        architecture = gguf_architecture(reader, path)
    columns = architecture.hidden_size // architecture.num_attention_heads
    tensors = {}
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in GGUF_TYPES:
            raise FileError(f"{path} has {tensor.name} in the type {tensor.tensor_type.name}; {', '.join(GGUF_TYPES)} can be converted")
        shape = tuple(int(extent) for extent in reversed(tensor.shape))
        heads = {"attn_q": architecture.num_attention_heads, "attn_k": architecture.num_key_value_heads}
        if len(shape) == 1 and tensor.tensor_type.name not in ("F32", "F16"):
            raise FileError(f"{path} has the vector {tensor.name} in the type {tensor.tensor_type.name}; F32 and F16 can be converted")
        name, own = hugging_face_name(tensor.name)
        order = None
        if own in heads and shape[0] == heads[own] * columns:
            order = half_by_half(columns, heads[own], shape[0])
        tensors[name] = Tensor(shape, gguf_rows(tensor, order))
    check(architecture, tensors, path)
    return architecture, tensors, reader


# Safetensors and Hugging Face folders

def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FileError(f"{path} is no sound JSON file: {error}", 3) from None
    if not isinstance(value, dict):
        raise FileError(f"{path} holds no JSON object", 3)
    return value


def read_safetensors(path):
    """The tensors of a file by their names, mapped."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read: {error}", 3) from None

    def refuse(why):
        raise FileError(f"{path} is no sound safetensors file: {why}", 3)
    length = int.from_bytes(mapped[:8], "little")
    start = 8 + length
    if len(mapped) < 8 or length > LARGEST_HEADER or start > len(mapped):
        refuse("its header is cut short")
    try:
        header = json.loads(mapped[8:start])
        items = {}
        for name, value in header.items():
            if name != "__metadata__":
                begin, end = value["data_offsets"]
                items[name] = (value["dtype"], tuple(value["shape"]), begin, end)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        refuse(f"its header cannot be read ({error})")
    tensors = {}
    for name, (kind, shape, begin, end) in items.items():
        if name.endswith(BUFFERS):
            continue
        if kind not in STORED:
            raise FileError(f"{path} has {name} in the type {kind}; {', '.join(STORED)} can be converted")
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or not shape:
            refuse(f"{name} has odd sizes")
        count = int(np.prod(shape, dtype=object))
        if end - begin != count * STORED[kind].itemsize or start + end > len(mapped):
            refuse(f"the values of {name} are cut short")
        values = np.frombuffer(mapped, STORED[kind], count, start + begin).reshape(shape)
        tensors[name] = Tensor(shape, stored_rows(values, kind))
    return tensors


def stored_rows(values, kind):
    def rows(begin, end):
        part = values[begin:end]
        return (part.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else part.astype(np.float32)
    return rows


def folder_architecture(path):
    config = read_json(path)
    kind = config.get("model_type")
    if kind != "llama":
        raise FileError(f"{path} describes a model of the type '{kind}'; only 'llama' can be converted")
    if "quantization_config" in config:
        raise FileError(f"{path} describes a quantised model; float32, float16 and bfloat16 can be converted")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise FileError(f"{path} has odd rotary positions: {json.dumps(rope)}", 3)
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise FileError(f"{path} scales its rotary positions, which the family gpt cannot")
    for key, right in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, right) != right:
            raise FileError(f"{path} has {key} = {json.dumps(config[key])}; only {json.dumps(right)} can be converted")
    try:
        architecture = Architecture(
            **{name: config[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                               "num_attention_heads")},
            num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)))
    except KeyError as error:
        raise FileError(f"{path} lacks {error.args[0]}", 3) from None
    except (TypeError, ValueError) as error:
        raise FileError(f"{path} has odd values: {error}", 3) from None
    check_sizes(architecture, path)
    columns = architecture.hidden_size // architecture.num_attention_heads
    if (config.get("head_dim") or columns) != columns:
        raise FileError(f"{path} has head_dim {config['head_dim']}; only {columns}, hidden_size / num_attention_heads, can be converted")
    return architecture


def read_folder(folder):
    """Returns the architecture and the tensors of a Hugging Face folder, which may have several files of weights."""
    folder = pathlib.Path(folder)
    architecture = folder_architecture(folder / "config.json")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict):
            raise FileError(f"{index} has no weight_map", 3)
        files = [folder / name for name in sorted(set(map(str, places.values())))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileError(f"{folder} has no .safetensors file")
    tensors = {}
    for file in files:
        own = read_safetensors(file)
        if twice := own.keys() & tensors.keys():
            raise FileError(f"{file} and another file of {folder} have {list_of(sorted(twice))}", 3)
        tensors |= own
    # A file of a tied model may also hold its head, which is the embedding.
    if architecture.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    check(architecture, tensors, folder)
    return architecture, tensors


def as_bfloat16(values):
    """The upper halves of float32, rounded to nearest even; not-a-number stays so."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype("<u2")


def converted(values, dtype, name):
    if dtype == "bfloat16":
        return as_bfloat16(np.ascontiguousarray(values))
    if dtype == "float32":
        return np.ascontiguousarray(values, "<f4")
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(values, "<f2")
    if np.isinf(halves).any() and not np.isinf(values).any():
        raise FileError(f"{name} has values above 65504, which float16 cannot hold: take --dtype bfloat16 or float32")
    return halves


def write_safetensors(path, names, tensors, dtype):
    """Writes the tensors `names`, in this order."""
    kind, size = DTYPES[dtype]
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        count = int(np.prod(tensors[name].shape)) * size
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [place, place + count]}
        place += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for values in tensors[name].chunks():
                file.write(converted(values, dtype, name).data)
