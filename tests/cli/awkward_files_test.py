"""The data that the program reads equals NumPy's reading of the same files, value by value: arrays of every type,
layout, order and storage, tables and texts in many encodings, images of every mode. Files that it cannot read are
refused by name."""

import contextlib
import gzip
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import unittest
from unittest import mock

import h5py
import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.environ["ESPALIER_INPUTS"])
LOAD_DATA = os.environ["ESPALIER_LOAD_DATA"]
TYPES = ["b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
SHAPES = [(9,), (9, 5), (9, 3, 4), (9, 2, 3, 2)]
TESTS = 2  # the last rows are the test split


def numbers(dtype, shape, seed):
    """Numbers of a type, with its smallest and largest."""
    draw = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return draw.random(shape) < 0.5
    if dtype.kind == "f":
        x = draw.normal(0, 50, shape).astype(dtype)
        x.flat[:2] = np.finfo(dtype if dtype.itemsize < 8 else "f4").max, -np.finfo(np.float16).tiny
        return x
    limits = np.iinfo(dtype)
    x = draw.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    x.flat[:2] = limits.min, limits.max
    return x


def as_trained_on(x):
    """Bytes of images are divided by 255; all other values are unchanged numbers."""
    unit = 255 if x.dtype == np.uint8 and x.ndim > 2 else 1
    return (x.astype(np.float64) / unit).astype(np.float32)


def labels(count):
    return np.arange(count, dtype=np.int64) % 3


@contextlib.contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Loaded:
    """Returns the output of load_data for all requests, in one process."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = {}
        self.answers = {}

    def path(self, *parts):
        path = os.path.join(self.folder, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def ask(self, case, source, data="", model="mlp"):
        """Settings of [data] in `data`; files are in the folder of the case."""
        ini = self.path(case, "input.ini")
        with open(ini, "w") as file:
            file.write(f"[data]\nname = {source}\ndir = {self.path(case)}\n{data}\n[model]\nname = {model}\n")
        self.asked[case] = ini

    def load(self):
        lines = "".join(f"{ini}\t{ini}.out\n" for ini in self.asked.values())
        done = subprocess.run([LOAD_DATA], input=lines, capture_output=True, text=True, timeout=300, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        self.answers = dict(zip(self.asked, done.stdout.splitlines(), strict=True))

    def read(self, case):
        """(what, inputs, labels): rows of the training and then the test split."""
        answer = self.answers[case]
        if answer.startswith("error"):
            raise AssertionError(f"{case}: {answer}")
        what = json.loads(answer)
        count = what["train"] + what["test"]
        with open(self.asked[case] + ".out", "rb") as file:
            kind = np.int64 if what["vocabulary"] else np.float32
            shape = (count, *what["sample"])
            x = np.fromfile(file, kind, int(np.prod(shape))).reshape(shape)
            y = np.fromfile(file, np.int64)
        return what, x, y


class Generator(unittest.TestCase):
    """A class of cases: `generate` writes files and records their content."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.loaded = Loaded(folder.name)
        cls.expected = {}
        cls.refusals = {}
        cls.generate()
        cls.loaded.load()

    @classmethod
    def expect(cls, case, x, y, tokens=False):
        cls.expected[case] = (x, y, tokens)

    def check_all(self, at_least):
        self.assertGreaterEqual(len(self.expected), at_least)
        for case, (x, y, tokens) in self.expected.items():
            with self.subTest(case):
                what, found, found_labels = self.loaded.read(case)
                self.assertEqual(what["vocabulary"] > 0, tokens)
                np.testing.assert_array_equal(found.reshape(x.shape), x)
                np.testing.assert_array_equal(found_labels.reshape(y.shape), y)
        for case, words in self.refusals.items():
            with self.subTest(case):
                self.assertRegex(self.loaded.answers[case], "^error 3 .*" + words)


def write_npy(path, array, order, byte_order, version):
    array = np.asarray(array, order=order)
    if array.dtype.itemsize > 1:
        array = array.astype(array.dtype.newbyteorder(byte_order), order="K")
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, version=version)


def python_2(path, array):
    """The header of NumPy for Python 2 on Windows, where sizes are long."""
    shape = "(" + " ".join(f"{size}L," for size in array.shape) + ")"
    header = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + array.tobytes())


class NpyFiles(Generator):
    @classmethod
    def write_rest(cls, case, rows, label_type="i8"):
        np.save(cls.loaded.path(case, "y.npy"), labels(rows).astype(label_type))
        np.save(cls.loaded.path(case, "split.npy"), np.arange(rows) >= rows - TESTS)

    @classmethod
    def generate(cls):
        for t, dtype in enumerate(TYPES):
            for shape in SHAPES:
                for order in "CF":
                    for byte_order in "<>":
                        if (order == "F" and len(shape) == 1) or (byte_order == ">" and dtype[1] == "1"):
                            continue
                        case = f"{dtype}-{len(shape)}-{order}-{'le' if byte_order == '<' else 'be'}"
                        x = numbers(dtype, shape, t)
                        path = cls.loaded.path(case, "x.npy")
                        write_npy(path, x, order, byte_order, (1 + t % 3, 0))
                        cls.write_rest(case, len(x), TYPES[1 + t % 8])
                        cls.loaded.ask(case, "arrays")
                        cls.expect(case, as_trained_on(np.load(path)), labels(len(x)))
        x = numbers("f4", (9, 4), 99)
        python_2(cls.loaded.path("python2", "x.npy"), x)
        cls.write_rest("python2", 9)
        cls.loaded.ask("python2", "arrays")
        cls.expect("python2", x, labels(9))
        cls.generate_tokens()
        for name, x in {"complex": np.ones((9, 2), "c8"), "text": np.full((9, 2), "a"), "dates": np.zeros((9, 2), "M8[s]"),
                        "records": np.zeros(9, [("a", "f4"), ("b", "f4")]), "long": np.ones((9, 2), "g")}.items():
            np.save(cls.loaded.path(name, "x.npy"), x)
            cls.write_rest(name, 9)
            cls.loaded.ask(name, "arrays")
            cls.refusals[name] = "x.npy holds (values of type|records)"

    @classmethod
    def generate_tokens(cls):
        """Integers are tokens if the model reads tokens, or by an option."""
        for dtype in TYPES[1:9]:
            x = np.random.default_rng(5).integers(0, 100, (9, 6)).astype(dtype)
            for model, settings, tokens in (("mlp", "", False), ("encoder", "", True), ("gpt", "", True),
                                            ("mlp", "array_values = tokens", True),
                                            ("encoder", "array_values = numbers", False)):
                case = f"tokens-{dtype}-{model}-{settings[-7:]}"
                np.save(cls.loaded.path(case, "x.npy"), x)
                cls.write_rest(case, 9)
                cls.loaded.ask(case, "arrays", settings, model)
                cls.expect(case, x.astype(np.int64) if tokens else x.astype(np.float32), labels(9), tokens)
            case = f"next-{dtype}"
            np.save(cls.loaded.path(case, "x.npy"), x[:, :-1])
            np.save(cls.loaded.path(case, "y.npy"), x[:, 1:])
            np.save(cls.loaded.path(case, "split.npy"), np.arange(9) >= 7)
            cls.loaded.ask(case, "arrays", model="mlp")
            cls.expect(case, x[:, :-1].astype(np.int64), x[:, 1:].astype(np.int64), True)

    def test_as_numpy_reads_them(self):
        self.check_all(150)


# Ways to store a dataset x of a file. Each function writes the dataset and possibly other files.
def contiguous(path, x):
    with h5py.File(path, "w") as file:
        file["x"] = x


def old_format(path, x):
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        file["x"] = x


def new_format(path, x):
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["x"] = x


def with_user_block(path, x):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = x


def big_endian(path, x):
    with h5py.File(path, "w") as file:
        file["x"] = x.astype(x.dtype.newbyteorder(">"))


def chunked(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, chunks=(2,) * x.ndim)


def filtered(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, chunks=(3, *x.shape[1:]), compression="gzip", shuffle=True, fletcher32=True)


def grown(path, x):
    """Chunks that reach past the end, and unwritten rows, which have the fill value."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4, *x.shape[1:]), x.dtype, maxshape=(None,) * x.ndim, chunks=(5,) * x.ndim, fillvalue=1)
        file["x"][:3] = x[:3]
        file["x"].resize(len(x), axis=0)


def compact(path, x):
    with h5py.File(path, "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_layout(h5py.h5d.COMPACT)
        kind = h5py.h5t.py_create(x.dtype, logical=True)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(x.shape), create)
        file["x"][...] = x


def never_written(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", x.shape, x.dtype)


def soft_link(path, x):
    with h5py.File(path, "w") as file:
        file["inner/deep"] = x
        file["x"] = h5py.SoftLink("/inner/deep")


def external_link(path, x):
    """The offset is in the other file; this file has other bytes there."""
    with h5py.File(path + ".other", "w") as file:
        file["before"] = np.arange(50)
        file["group/deep"] = x
    with h5py.File(path, "w") as file:
        file["noise"] = np.random.default_rng(1).random(4000)
        file["x"] = h5py.ExternalLink(os.path.basename(path) + ".other", "/group/deep")


def raw_file(path, x):
    write_raw(path, x, [(".raw", 24, x.nbytes)])


def raw_files(path, x):
    write_raw(path, x, [(".raw1", 8, x.nbytes // 2), (".raw2", 0, h5py.h5f.UNLIMITED)])


def write_raw(path, x, parts):
    """In raw files, with names relative to the folder of the HDF5 file."""
    at, names = 0, []
    content = x.tobytes()
    for ending, offset, size in parts:
        name = os.path.basename(path) + ending
        with open(path + ending, "wb") as file:
            file.write(b"\xaa" * offset + content[at:at + min(size, len(content) - at)])
        at += size
        names.append((name, offset, size))
    with h5py.File(path, "w") as file:
        file["noise"] = np.random.default_rng(1).random(4000)
        file.create_dataset("x", x.shape, x.dtype, external=names)


def virtual(path, x):
    """Three rows of the file itself, the others of another file."""
    layout = h5py.VirtualLayout(x.shape, x.dtype)
    with h5py.File(path + ".part", "w") as file:
        file.create_dataset("rows", data=x[3:], chunks=True)
    with h5py.File(path, "w") as file:
        file["own"] = x[:3]
        layout[:3] = h5py.VirtualSource(".", "own", x[:3].shape, x.dtype)
        layout[3:] = h5py.VirtualSource(os.path.basename(path) + ".part", "rows", x[3:].shape, x.dtype)
        file.create_virtual_dataset("x", layout)


def virtual_of_virtual(path, x):
    virtual(path + ".inner", x)
    layout = h5py.VirtualLayout(x.shape, x.dtype)
    layout[...] = h5py.VirtualSource(os.path.basename(path) + ".inner", "x", x.shape, x.dtype)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


STORAGES = [contiguous, old_format, new_format, with_user_block, big_endian, chunked, filtered, grown, compact,
            never_written, soft_link, external_link, raw_file, raw_files, virtual,
            virtual_of_virtual]


class Hdf5Files(Generator):
    @classmethod
    def write(cls, case, storage, x, split_type="b1"):
        path = cls.loaded.path(case, "arrays.h5")
        storage(path, x)
        with h5py.File(path, "r+") as file:
            file["y"] = labels(9)
            file["split"] = (np.arange(9) >= 9 - TESTS).astype(split_type)
        cls.loaded.ask(case, "arrays")
        return path

    @classmethod
    def generate(cls):
        for t, dtype in enumerate(TYPES):
            for s, storage in enumerate(STORAGES):
                case = f"{dtype}-{storage.__name__}"
                path = cls.write(case, storage, numbers(dtype, SHAPES[1 + (s + t) % 3], t), TYPES[t % 9])
                # HDF5 looks for raw files relative to the working directory.
                with inside(os.path.dirname(path)), h5py.File(path) as file:
                    cls.expect(case, as_trained_on(file["x"][()]), labels(9))
        colours = h5py.enum_dtype({"red": 3, "green": 500}, "i2")
        path = cls.write("enumeration", contiguous, np.array([3, 500] * 9, "i2").reshape(9, 2).astype(colours))
        cls.expect("enumeration", np.array([3, 500] * 9, "f4").reshape(9, 2), labels(9))
        cls.generate_refusals()

    @classmethod
    def generate_refusals(cls):
        x = numbers("f4", (9, 200), 0)
        for case, storage, ending in (("lost raw file", raw_file, ".raw"), ("lost link", external_link, ".other"),
                                      ("lost part", virtual, ".part"),
                                      ("lost part of a part", virtual_of_virtual, ".inner.part")):
            os.remove(cls.write(case, storage, x) + ending)
            cls.refusals[case] = f"arrays.h5.*: x .*arrays.h5{ending}.* is missing"
        short = cls.write("short raw file", raw_file, x) + ".raw"
        os.truncate(short, os.path.getsize(short) - 1)
        cls.refusals["short raw file"] = "arrays.h5.raw, which is cut short"
        other = cls.write("lost rows", virtual, x) + ".part"
        with h5py.File(other, "w") as file:
            file["others"] = x
        cls.refusals["lost rows"] = "arrays.h5.part: rows, which is missing"
        with h5py.File(cls.write("soft", soft_link, x), "r+") as file:
            del file["inner/deep"]
        cls.refusals["soft"] = "arrays.h5: x is a link to /inner/deep, which is missing"
        lzf = cls.write("filter", contiguous, x)
        with h5py.File(lzf, "r+") as file:
            del file["x"]
            file.create_dataset("x", data=np.ones((9, 200), "f4"), compression="lzf")
        cls.refusals["filter"] = "arrays.h5: x is compressed by the filter lzf"
        for name, kind in (("complex", "c8"), ("text", "S4"), ("records", [("a", "f4")])):
            cls.write(name, contiguous, np.zeros((9, 2), kind))
            cls.refusals[name] = "arrays.h5: x holds no plain numbers"
        # A writer that ends without closing leaves a flag in files of newer formats.
        path = cls.write("crashed", new_format, x)
        crash = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'r+', libver='v110'); f.flush(); os._exit(0)"
        subprocess.run([sys.executable, "-c", crash, path], check=True)
        cls.refusals["crashed"] = f"arrays.h5 is still marked open for writing.*`h5clear -s {re.escape(path)}`"

    def test_as_h5py_reads_them(self):
        self.check_all(150)


class Tables(Generator):
    """Encodings, line ends, separators, quotes; read by NumPy."""

    @classmethod
    def generate(cls):
        draw = np.random.default_rng(3)
        values = draw.normal(0, 1e3, (9, 3))
        values[0] = 0.1, -1e-30, 16777217
        for mark in ("", "\ufeff"):
            for end in ("\n", "\r\n", "\r"):
                for name, character in (("comma", ","), ("semicolon", ";"), ("tab", "\t")):
                    for quoted in (False, True):
                        for last in (True, False):
                            case = f"{'bom' if mark else 'plain'}-{end!r}-{name}-{quoted}-{last}".replace("\\", "")
                            cls.write(case, mark, end, (name, character), quoted, last, values)
        path = cls.loaded.path("packed", "data.csv")
        with gzip.open(path, "wt") as file:
            file.write("a,b\n0.5,0\n1.5,1\n2.5,2\n")
        cls.loaded.ask("packed", "csv", "test_file = data.csv")
        cls.expect("packed", np.array([[0.5], [1.5], [2.5]] * 2, "f4"), np.array([0, 1, 2] * 2))
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            with open(cls.loaded.path(encoding, "data.csv"), "w", encoding=encoding) as file:
                file.write("a,b\n0.5,0\n1.5,1\n")
            cls.loaded.ask(encoding, "csv")
            cls.refusals[encoding] = "data.csv is text in UTF-16 or UTF-32"
        cls.offsets = np.stack([1.7e9 + np.arange(60), 20240101 + np.arange(60) % 28, draw.normal(-4e8, 3, 60)], 1)
        with open(cls.loaded.path("offsets", "data.csv"), "w") as file:
            file.write("time,date,counter,class\n")
            file.writelines(",".join(map(repr, map(float, row))) + f",{i % 3}\n" for i, row in enumerate(cls.offsets))
        cls.loaded.ask("offsets", "csv", "test_file = data.csv\nnormalise = computed")

    @classmethod
    def write(cls, case, mark, end, separator, quoted, last, values):
        name, character = separator
        quote = '"' if quoted else ""
        rows = [["größe", "b", "c", "class"], *([*map(repr, map(float, row)), str(i % 3)] for i, row in enumerate(values))]
        path = cls.loaded.path(case, "data.csv")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(mark + end.join(character.join(quote + cell + quote for cell in row) for row in rows)
                       + (end if last else ""))
        cls.loaded.ask(case, "csv", f"csv_separator = {name}\ncsv_label = class\ntest_file = data.csv")
        with open(path, encoding="utf-8-sig") as file:
            read = np.loadtxt(file, delimiter=character, skiprows=1, quotechar='"')
        cls.expect(case, np.tile(read[:, :3].astype("f4"), (2, 1)), np.tile(read[:, 3].astype("i8"), 2))

    def test_as_numpy_reads_them(self):
        self.check_all(70)

    def test_normalisation_takes_large_offsets_away(self):
        normalised = (self.offsets - self.offsets.mean(0)) / self.offsets.std(0)
        _, found, _ = self.loaded.read("offsets")
        np.testing.assert_allclose(found, np.tile(normalised, (2, 1)), rtol=2**-23, atol=2**-23)


def words_of(text):
    """By Python's own tables: letters, marks, digits and apostrophes make words; any other visible character is one word."""
    words, word = [], ""
    for c in text:
        category = unicodedata.category(c)
        joins = category[0] in "LMN" or c in "'\u00ad\u200c\u200d"
        if joins:
            word += c.lower() if c.isascii() else c
            continue
        words += [word] if word else []
        word = ""
        if category[0] != "Z" and category not in ("Cc", "Cf"):
            words.append(c)
    return words + ([word] if word else [])


def numbered(words):
    """Tokens from 2 are words by falling frequency in the first nine tenths; 1 is any other word."""
    training = words[:len(words) - len(words) // 10]
    count = {}
    for word in training:
        count[word] = count.get(word, 0) + 1
    ranked = sorted(count, key=lambda word: (-count[word], word.encode()))
    token = {word: i + 2 for i, word in enumerate(ranked)}
    return np.array([token.get(word, 1) for word in words])


def windows(tokens, length):
    first = len(tokens) - len(tokens) // 10
    parts = (tokens[:first], tokens[first:])
    counts = [(len(part) - 1) // length for part in parts]
    x = [part[:n * length].reshape(n, length) for part, n in zip(parts, counts, strict=True)]
    y = [part[1:n * length + 1].reshape(n, length) for part, n in zip(parts, counts, strict=True)]
    return np.concatenate(x), np.concatenate(y)


def every_character():
    """Characters of Unicode 3.2, for which Python's tables and ours have the same categories."""
    old = unicodedata.ucd_3_2_0
    return [chr(c) for c in range(0x20, 0x110000)
            if old.category(chr(c)) not in ("Cn", "Cs", "Co", "Cf") and unicodedata.category(chr(c)) == old.category(chr(c))]


class Texts(Generator):
    @classmethod
    def generate(cls):
        typographic = "“It’s—said” ‘she’, naïvely… «Über» 5€ – \u00a0end\u2028of 'line'\n"
        texts = {"ascii": "To be, or not to be: that's the question.\n", "typographic": typographic,
                 "scripts": "पानी। 水、火。 ¿Qué? שלום־עולם Ελλάς· 5½ × ₂\n",
                 "all": "".join(f"a{c}b " for c in every_character()[::40])}
        for name, text in texts.items():
            for encoding in ("utf-8", "utf-8-sig"):
                for end in ("\n", "\r\n", "\r"):
                    case = f"{name}-{encoding}-{end!r}".replace("\\", "")
                    content = (text * (1 if name == "all" else 30)).replace("\n", end)
                    with open(cls.loaded.path(case, "a.txt"), "w", encoding=encoding, newline="") as file:
                        file.write(content)
                    cls.loaded.ask(case, "text", "file = a.txt\ntokens = words\nlength = 4\nvocabulary = 100000")
                    cls.expect(case, *windows(numbered(words_of(content)), 4), True)
                    bytes_case = case + "-bytes"
                    shutil.copy(cls.loaded.path(case, "a.txt"), cls.loaded.path(bytes_case, "a.txt"))
                    cls.loaded.ask(bytes_case, "text", "file = a.txt\nlength = 8")
                    read = np.fromfile(cls.loaded.path(case, "a.txt"), np.uint8).astype(np.int64)
                    cls.expect(bytes_case, *windows(read, 8), True)
        for encoding, words in (("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-16"),
                                ("latin-1", r"UTF-8 \(line 1\)"), ("cp1252", "UTF-8"), ("gb2312", "UTF-8")):
            text = "水火 " if encoding == "gb2312" else "Größe\n"
            with open(cls.loaded.path(encoding, "a.txt"), "w", encoding=encoding) as file:
                file.write(text * 100)
            cls.loaded.ask(encoding, "text", "file = a.txt\ntokens = words\nlength = 4")
            cls.refusals[encoding] = f"a.txt is .*{words}"

    def test_as_python_reads_them(self):
        self.check_all(40)

    def test_every_character(self):
        """Puts each character between two letters, to show if it separates them; all in one text."""
        text = "".join(f"a{c}b " for c in every_character())
        loaded = Loaded(self.loaded.folder)
        with open(loaded.path("each", "a.txt"), "w", encoding="utf-8", newline="") as file:
            file.write(text)
        loaded.ask("each", "text", "file = a.txt\ntokens = words\nlength = 1\nvocabulary = 1000000")
        loaded.load()
        np.testing.assert_array_equal(loaded.read("each")[1], windows(numbered(words_of(text)), 1)[0])


def pack(folder, out, *options):
    """Calls tools/pack_images.py in this process."""
    spec = importlib.util.spec_from_file_location("pack_images", os.path.join(ROOT, "tools", "pack_images.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        with mock.patch.object(sys, "argv", ["pack_images.py", folder, out, *options]), \
                contextlib.redirect_stdout(io.StringIO()):
            module.main()
    except SystemExit as end:
        raise AssertionError(end.code) from end


class Images(Generator):
    """Images of every mode that Pillow writes, packed by tools/pack_images.py."""

    @classmethod
    def add(cls, case, files, options=()):
        """files: {name: (image, its channels as numbers)} of class a; class b has the same."""
        folder = cls.loaded.path(case, "images")
        for part in ("train", "test"):
            for kind in "ab":
                os.makedirs(os.path.join(folder, part, kind), exist_ok=True)
                for name, (image, _) in files.items():
                    image.save(os.path.join(folder, part, kind, name))
        pack(folder, cls.loaded.path(case, "arrays.h5"), *options)
        cls.loaded.ask(case, "arrays")
        x = np.stack([pixels for _, (_, pixels) in sorted(files.items())] * 4).astype("f4")
        cls.expect(case, x, np.repeat([0, 1, 0, 1], len(files)))

    @classmethod
    def generate(cls):
        draw = np.random.default_rng(8)
        grey = draw.integers(0, 256, (5, 4), np.uint8)
        rgb = draw.integers(0, 256, (5, 4, 3), np.uint8)
        alpha = draw.integers(0, 256, (5, 4), np.uint8)
        wide = draw.integers(0, 65536, (5, 4)).astype(np.uint16)
        real = draw.normal(0, 3, (5, 4)).astype(np.float32)
        whole = draw.integers(-10**6, 10**6, (5, 4)).astype(np.int32)
        bits = grey > 127
        palette = Image.fromarray(grey % 7)
        palette.putpalette([int(v) for v in rgb.reshape(-1)[:21]])
        colours = rgb.reshape(-1)[:21].reshape(7, 3)[grey % 7]

        def three(x):
            return np.stack([x] * 3)

        def planes(x):
            return x.transpose(2, 0, 1) / 255

        modes = {
            "L": (Image.fromarray(grey), three(grey / 255)), "1": (Image.fromarray(bits), three(bits)),
            "RGB": (Image.fromarray(rgb), planes(rgb)), "P": (palette, planes(colours)),
            "RGBA": (Image.fromarray(np.dstack([rgb, alpha])), planes(rgb)),
            "LA": (Image.fromarray(np.dstack([grey, alpha])), three(grey / 255)),
            "I;16": (Image.fromarray(wide), three(wide / 65535)),
            "F": (Image.fromarray(real), three(real)), "I": (Image.fromarray(whole), three(whole)),
        }
        endings = {"png": ["L", "1", "RGB", "P", "RGBA", "LA", "I;16"], "gif": ["L", "P"], "ppm": ["L", "1", "RGB", "I;16"],
                   "tif": list(modes), "bmp": ["L", "1", "RGB", "P"]}
        for ending, some in endings.items():
            for mode in some:
                name = f"{mode}.{ending}".replace(";", "")
                cls.add(name, {f"x.{ending}": modes[mode]})
                if mode in ("L", "1", "LA", "I;16", "F", "I"):
                    image, pixels = modes[mode]
                    cls.add("grey-" + name, {f"x.{ending}": (image, pixels[:1])}, options=("--grey",))
        # Bytes and 16 bits in one folder.
        cls.add("mixed", {"1.png": modes["L"], "2.png": modes["I;16"], "3.png": modes["P"]})

    def test_as_numpy_made_them(self):
        self.check_all(35)


class LeftOverFiles(Generator):
    """Files that systems and editors create are not samples."""

    @classmethod
    def generate(cls):
        pixels = np.arange(20, dtype=np.uint8).reshape(5, 4)
        folder = cls.loaded.path("left", "images")
        for place in ("train/a", "train/b", "test/a", "test/b", "train/a/.ipynb_checkpoints", "test/b/__MACOSX/c",
                      "train/.ipynb_checkpoints", "test/__MACOSX", "train/b/@eaDir"):
            os.makedirs(os.path.join(folder, place))
            Image.fromarray(pixels).save(os.path.join(folder, place, "x.png"))
        for name in ("train/a/._x.png", "test/b/.y.png"):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(b"no picture")
        pack(folder, cls.loaded.path("left", "arrays.h5"))
        cls.loaded.ask("left", "arrays")
        cls.expect("left", as_trained_on(np.stack([[pixels] * 3] * 4)), np.array([0, 1, 0, 1]))

    def test_they_are_passed_over(self):
        self.check_all(1)


if __name__ == "__main__":
    unittest.main()
