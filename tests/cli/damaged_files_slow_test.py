"""Damaged files of every format end with a status of the documentation and one sentence, within 10 s of processor time and
2 GB: 300 mutations of each, with fixed seeds. A failure names a copy of the file, which is kept."""

import contextlib
import csv
import gzip
import io
import json
import os
import pathlib
import random
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
import get_model_test  # noqa: E402
from support import ProgramTest, read_bytes, write_bytes  # noqa: E402

READ_FILES = os.environ["ESPALIER_READ_FILES"]
MUTATIONS = 300
SEED = 5  # of those tried, one whose run files crash HDF5 1.10
CPU_S = 10
MEMORY = 2 << 30
WAIT_S = 600  # for one that waits without end, on a machine however busy
PROPER = {0, 2, 3, 4}
ODD = (0, 1, 0x7f, 0x80, 0xff)
NUMBERS = (0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
WORDS = (b"-1", b"1e999", b"nan", b"9" * 30, b"0", b"null", b"[", b"{", b'"', b"\xff\xfe", b"\0", b"=", b",", b"\n", b" ")


def places(data):
    """Where damage meets content: large parts of binary files are zeros."""
    return [i for i, byte in enumerate(data[:1 << 16]) if byte] or [0]


def mutated(data, draw, used):
    """Bytes with one to three damages. `used` is the result of `places`."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = min(draw.choice(used), max(0, len(data) - 1))
        kind = draw.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at] = draw.choice(ODD)
        elif kind == 2:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) & ((1 << 8 * size) - 1)
            data[at:at + size] = number.to_bytes(size, draw.choice(("little", "big")))
        elif kind == 3:
            data[at:at + draw.choice((1, 4, 100))] = b""
        elif kind == 4:
            data[at:at] = draw.randbytes(draw.choice((1, 4, 100)))
        elif kind == 5:
            data[at:at] = data[at:at + draw.choice((1, 8, 60))]
        elif kind == 6:
            data[at:at] = draw.choice(WORDS)
        else:
            del data[draw.randrange(len(data) + 1):]
    return bytes(data)


class Fault(Exception):
    """How a reader ended without an answer."""


class Reader:
    """The program read_files, with limits for each answer; started again after a fault."""

    def __init__(self):
        self.job = None

    def start(self):
        self.job = subprocess.Popen([READ_FILES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.answer("nothing")  # the libraries are loaded
        with open(f"/proc/{self.job.pid}/statm") as file:
            own = int(file.read().split()[0]) * resource.getpagesize()
        resource.prlimit(self.job.pid, resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        resource.prlimit(self.job.pid, resource.RLIMIT_CORE, (0, 0))

    def ask(self, *words):
        """The status and message of the program for one request."""
        if self.job is None:
            self.start()
        with open(f"/proc/{self.job.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")
        resource.prlimit(self.job.pid, resource.RLIMIT_CPU, (used + 1 + CPU_S, resource.RLIM_INFINITY))
        return self.answer(*words)

    def answer(self, *words):
        self.job.stdin.write(("\t".join(words) + "\n").encode())
        self.job.stdin.flush()
        ready, _, _ = select.select([self.job.stdout], [], [], WAIT_S)
        line = self.job.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        self.close()
        if not ready:
            raise Fault(f"no answer in {WAIT_S} s")
        raise Fault(f"ended by {signal.Signals(-self.status).name}" if self.status < 0 else f"ended with {self.status}")

    def close(self):
        if self.job is None:
            return
        self.job.stdin.close()
        try:
            self.status = self.job.wait(10)
        except subprocess.TimeoutExpired:
            self.job.kill()
            self.status = self.job.wait()
        self.job.stdout.close()
        self.job = None


def in_child(work):
    """The status and message of tools in Python, which `work` calls, in a process with the limits of a Reader."""
    begin, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open("/proc/self/statm") as file:
                own = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(end, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(end)
    with open(begin, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        raise Fault(f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without an answer")
    return json.loads(answer)


class DamagedFiles(ProgramTest):
    def setUp(self):
        super().setUp()
        self.reader = Reader()
        self.addCleanup(self.reader.close)

    def faults(self, ask):
        """What is wrong with the answer; empty if nothing is. Counts refusals."""
        try:
            status, message = ask()
        except Fault as fault:
            return str(fault)
        self.refused += status != 0
        if status not in PROPER:
            return f"status {status}: {message}"
        if (status == 0) != (message == "") or "\n" in message.strip("\n"):
            return f"status {status} with {message!r}"
        return ""

    def damage(self, name, files, *requests, count=MUTATIONS, at_least=0.3, ask=None):
        """Damages one of the files after the other, and makes the requests with each. `at_least`: the share that must be
        refused, so that the damage is known to reach what is read."""
        self.refused = 0
        ask = ask or self.reader.ask
        whole = {path: read_bytes(path) for path in files}
        used = {path: places(data) for path, data in whole.items()}
        for request in requests:
            self.assertEqual(ask(*request), [0, ""], f"{name}, before any damage")
        found = []
        for number in range(count):
            path = files[number % len(files)]
            write_bytes(path, mutated(whole[path], random.Random(f"{SEED}{name} {number}"), used[path]))
            for request in requests:
                fault = self.faults(lambda request=request: ask(*request))
                if fault:
                    kept = shutil.copy(path, tempfile.mkdtemp(prefix="espalier-damaged-"))
                    found.append(f"{name}, mutation {number} ({kept}), {request[0]}: {fault}")
            write_bytes(path, whole[path])
        self.assertEqual(found, [])
        self.assertGreaterEqual(self.refused, at_least * count * len(requests))

    def data(self, name, settings="", model="mlp"):
        """An input file for data in a folder of its own, and a request that reads it."""
        os.makedirs(self.path(name), exist_ok=True)
        return "data", self.write(f"{name}.ini", f"[model]\nname = {model}\n[data]\ndir = {self.path(name)}\n{settings}\n")

    def test_the_limits_notice_faults(self):
        for kind, words in (("crash", "SIGSEGV"), ("hang", "SIGXCPU"), ("memory", "status 70: .*bad_alloc")):
            self.refused = 0
            self.assertRegex(self.faults(lambda kind=kind: self.reader.ask(kind)), words)
        self.assertEqual(self.reader.ask("nothing"), [0, ""])

    def small_run(self, name):
        run = self.run_ok(name, "--run.rounds=2", "--checkpoint.every=1")
        return os.path.join(run, "run.h5")

    def test_run_files(self):
        sealed = self.small_run("a")
        other = shutil.copy(sealed, self.path("other.h5"))
        # Without the checksum, which would notice nearly all of it, the damage reaches HDF5.
        bare = self.path("bare.h5")
        write_bytes(bare, read_bytes(sealed)[:-24])
        self.damage("run", [bare], ("info", bare), ("diff", bare, other))
        self.damage("sealed run", [sealed], ("info", sealed), count=60, at_least=0.8)

    def test_repacked_run_files(self):
        """Run files as h5repack and newer versions of the library write them."""
        run = self.small_run("a")
        repacked = self.path("repacked.h5")
        with h5py.File(run) as file, h5py.File(repacked, "w", libver="v110") as copy:
            copy.attrs.update(file.attrs)
            for table in ("rounds", "tasks", "evaluations", "clients"):
                for column, values in file[table].items():
                    kept = copy.create_dataset(f"{table}/{column}", data=values[()], compression="gzip", shuffle=True,
                                               maxshape=(None,))
                    kept.attrs.update(values.attrs)
        self.damage("repacked run", [repacked], ("info", repacked), ("diff", repacked, repacked), at_least=0.1)

    def test_checkpoints(self):
        path = self.checkpoint(self.path("runs", os.path.basename(os.path.dirname(self.small_run("a")))))
        self.damage("checkpoint", [path], ("info", path), count=60, at_least=0.9)

    def test_hdf5_arrays(self):
        draw = np.random.default_rng(1)
        x, y = draw.normal(size=(60, 4, 5)).astype("f4"), np.arange(60) % 3
        for number, (version, how) in enumerate((
                ("earliest", {}), ("v110", {}), ("earliest", {"chunks": (7, 2, 5)}),
                ("v110", {"chunks": (7, 2, 5), "compression": "gzip", "shuffle": True, "fletcher32": True}),
                ("earliest", {"chunks": (7, 2, 5), "compression": "gzip"}), ("v110", {"chunks": (9, 4, 5), "maxshape": (None, 4, 5)}))):
            name = f"arrays{number}"
            request = self.data(name, "name = arrays")
            path = self.path(name, "arrays.h5")
            with h5py.File(path, "w", libver=(version, version if version != "earliest" else "latest")) as file:
                file.create_dataset("x", data=x, **how)
                file.create_dataset("y", data=y, chunks=(60,) if how else None)
                file["client"] = (np.arange(60) % 4).astype("u1")
                file["split"] = np.arange(60) >= 50
            self.damage(name, [path], request, count=MUTATIONS // 6, at_least=0.1)

    def test_virtual_arrays(self):
        request = self.data("virtual", "name = arrays")
        part, whole = self.path("virtual", "part.h5"), self.path("virtual", "arrays.h5")
        with h5py.File(part, "w") as file:
            file["rows"] = np.arange(80, dtype="f8").reshape(20, 4)
        layout = h5py.VirtualLayout((40, 4), "f8")
        layout[:20] = h5py.VirtualSource("part.h5", "rows", (20, 4), "f8")
        layout[20:] = h5py.VirtualSource(".", "own", (20, 4), "f8")
        with h5py.File(whole, "w") as file:
            file["own"] = np.ones((20, 4))
            file.create_virtual_dataset("x", layout)
            file["y"] = h5py.ExternalLink("part.h5", "labels")
        with h5py.File(part, "r+") as file:
            file["labels"] = np.arange(40) % 2
        self.damage("virtual arrays", [whole, part], request, count=100, at_least=0.1)

    def test_npy(self):
        draw = np.random.default_rng(2)
        for number, x in enumerate((draw.normal(size=(40, 6)).astype("f4"), np.asfortranarray(draw.normal(size=(40, 3, 2))),
                                    draw.integers(0, 99, (40, 6)).astype(">i4"))):
            name = f"npy{number}"
            request = self.data(name, "name = arrays")
            np.save(self.path(name, "x.npy"), x)
            np.save(self.path(name, "y.npy"), np.arange(40) % 2)
            self.damage(name, [self.path(name, f"{axis}.npy") for axis in "xy"], request, count=MUTATIONS // 3)

    def test_idx(self):
        for number, pack in enumerate((bytes, gzip.compress)):
            name = f"idx{number}"
            request = self.data(name, "name = mnist")
            files = []
            for prefix, rows in (("train", 12), ("t10k", 5)):
                pixels = np.random.default_rng(rows).integers(0, 256, (rows, 28, 28), np.uint8)
                for kind, content in (("images-idx3", struct.pack(">4I", 0x803, rows, 28, 28) + pixels.tobytes()),
                                      ("labels-idx1", struct.pack(">2I", 0x801, rows) + bytes(i % 10 for i in range(rows)))):
                    files.append(self.path(name, f"{prefix}-{kind}-ubyte" + (".gz" if number else "")))
                    write_bytes(files[-1], pack(content))
            self.damage(name, files, request, count=MUTATIONS // 2)

    def test_cifar(self):
        """Files of 30 MB, mostly holes: damaged in place and mended again."""
        request = self.data("cifar", "name = cifar10\ntrain_limit = 100\ntest_limit = 100")
        record, records = 3073, 10000
        for name in ("data_batch_1.bin", "test_batch.bin"):
            with open(self.path("cifar", name), "wb") as file:
                file.truncate(record * records)
        self.assertEqual(self.reader.ask(*request), [0, ""])
        self.refused, found = 0, []
        for number in range(MUTATIONS):
            draw = random.Random(f"{SEED}cifar {number}")
            path = self.path("cifar", draw.choice(("data_batch_1.bin", "test_batch.bin")))
            at = record * draw.randrange(records) + draw.choice((0, 0, 0, 1, 1500))
            with open(path, "r+b") as file:
                if draw.random() < 0.3:
                    file.truncate(record * records + draw.choice((-at, -1, 1, record, 1 << 40)))
                else:
                    file.seek(at)
                    file.write(bytes([draw.choice((1, 9, 10, 100, 255))]))
            fault = self.faults(lambda: self.reader.ask(*request))
            if fault:
                found.append(f"cifar, mutation {number}: {fault}")
            with open(path, "r+b") as file:
                file.truncate(min(at, record * records))
                file.truncate(record * records)
        self.assertEqual(found, [])
        self.assertGreater(self.refused, 0.2 * MUTATIONS)

    def test_csv(self):
        request = self.data("csv", "name = csv\nfile = data.csv")
        path = self.path("csv", "data.csv")
        with open(path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["time", "größe", "class"])
            rows.writerows([1.5 * i, -i, i % 3] for i in range(30))
        self.damage("csv", [path], request)

    def test_agnews_and_texts(self):
        request = self.data("agnews", "name = agnews", "encoder")
        files = [self.path("agnews", name) for name in ("train.csv", "test.csv")]
        for path in files:
            with open(path, "w") as file:
                file.writelines(f'"{1 + i % 4}","a title, {i}","it said ""no"" to {i}"\n' for i in range(30))
        self.damage("agnews", files, request, count=100, at_least=0.05)
        request = self.data("text", "name = text\nfile = a.txt\ntokens = words\nlength = 4", "gpt")
        self.write("text/a.txt", "Ein König—naïvely—saß «dort», 12 Jahre.\n" * 20)
        self.damage("text", [self.path("text", "a.txt")], request, count=100, at_least=0.02)

    def test_leaf(self):
        request = self.data("leaf", "name = leaf\nfile = a.json\ntest_share = 0.4")
        self.write("leaf/a.json", json.dumps({"users": ["b", "a"], "num_samples": [8, 6], "user_data": {
            user: {"x": [[i, 0.5 * i, -1] for i in range(rows)], "y": [i % 2 for i in range(rows)]}
            for user, rows in (("a", 6), ("b", 8))}}))
        self.damage("leaf", [self.path("leaf", "a.json")], request)

    def test_tokens(self):
        request = self.data("tokens", "name = tokens\nfile = t\nlength = 8", "gpt")
        os.makedirs(self.path("tokens", "t"))
        arrays = {"tokens": (np.arange(600) % 50).astype("u2"), "documents": np.array([0, 100, 350, 500, 600]),
                  "split": np.array([0, 0, 0, 1], "u1"), "client": np.array([0, 1, 1, 0], "i4")}
        for name, values in arrays.items():
            np.save(self.path("tokens", "t", f"{name}.npy"), values)
        self.write("tokens/t/meta.json", json.dumps({"vocabulary": 50}))
        files = [self.path("tokens", "t", name) for name in (*(f"{name}.npy" for name in arrays), "meta.json")]
        self.damage("tokens", files, request)

    def test_tokenizers(self):
        letters = [*"abcdefghijklmnopqrstuvwxyzI,.0123456789'", "\u0120"]
        pairs = [("t", "h"), ("a", "n"), ("\u0120", "a"), ("i", "n")]
        vocabulary = {token: i for i, token in enumerate(["<unk>", *letters, *("".join(pair) for pair in pairs)])}
        path = self.write("tokenizer.json", json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [
                {"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True}],
            "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "vocab": vocabulary,
                      "merges": [" ".join(pair) for pair in pairs]}}))
        self.damage("tokenizer", [path], ("tokenizer", path))

    def test_safetensors(self):
        header = json.dumps({"__metadata__": {"format": "pt"}, **{
            name: {"dtype": kind, "shape": shape, "data_offsets": [begin, end]} for name, kind, shape, begin, end in (
                ("a", "F32", [3, 5], 0, 60), ("b.weight", "F16", [8], 60, 76), ("c", "BF16", [2, 1], 76, 80),
                ("d", "F64", [], 80, 88))}}).encode()
        path = self.path("a.safetensors")
        write_bytes(path, struct.pack("<Q", len(header)) + header + bytes(range(88)))
        self.damage("safetensors", [path], ("weights", path))
        folder = self.path("folder")
        os.makedirs(folder)
        shutil.copy(path, os.path.join(folder, "one.safetensors"))
        index = self.write("folder/model.safetensors.index.json",
                           json.dumps({"weight_map": {name: "one.safetensors" for name in ("a", "b.weight", "c", "d")}}))
        self.damage("index", [index], ("weights", folder), count=100)

    def test_models_for_get_model(self):
        if get_model_test.WANTED:
            self.skipTest(get_model_test.REASON)
        sys.path.append(get_model_test.TOOLS)
        import get_model
        import llama_files

        def get(model):
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    get_model.get(model, pathlib.Path(model + ".out"), "float32", None)
            except llama_files.FileError as error:
                return error.status, str(error)
            except Exception as error:
                return 70, repr(error)
            return 0, ""

        path = self.path("a.gguf")
        get_model_test.write_gguf(path, get_model_test.random_state())
        self.damage("gguf", [path], (path,), count=100, ask=lambda model: in_child(lambda: get(model)))

    def test_input_files(self):
        self.damage("input", [self.input], ("input", self.input))


if __name__ == "__main__":
    unittest.main()
