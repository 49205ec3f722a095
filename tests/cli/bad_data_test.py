"""Damaged or unsuitable data ends the run with status 3 and one sentence that names file and position, on any rank count."""

import os
import shutil
import struct
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class BadData(ProgramTest):
    def refused(self, words, *settings, status=3, ranks=(1,)):
        """Bad data is refused by the run, and by --check with the same sentence."""
        arguments = ("run", self.input, "--data.partition=iid", *settings, f"--data.dir={self.folder.name}")
        for count in ranks:
            said = [self.assert_refused(status, words, *arguments, *check, ranks=count)
                    for check in ((), ("--check",))]
            self.assertEqual(said[0], said[1])
            self.assertFalse(os.path.exists(self.path("runs")), "something was written")

    def write_bytes(self, name, content):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(content)

    def write_npy(self, name, descr, shape, content):
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        self.write_bytes(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + content)

    def write_arrays(self, values=None, labels=None):
        """Forty samples of three numbers, two classes."""
        values = values or [float(i) for i in range(120)]
        labels = labels or [i % 2 for i in range(40)]
        self.write_npy("x.npy", "<f4", "(40, 3)", struct.pack("<120f", *values))
        self.write_npy("y.npy", "<i8", f"({len(labels)},)", struct.pack(f"<{len(labels)}q", *labels))

    def write_table(self, *more):
        rows = ["a,b,class", *(f"{i},{i * i},{i % 2}" for i in range(40)), *more]
        self.write("data.csv", "\n".join(rows) + "\n")

    def write_cifar(self, records, label=1):
        record = bytes([label]) + bytes(3072)
        self.write_bytes("data_batch_1.bin", record * records)
        self.write_bytes("test_batch.bin", record * 10000)

    def test_a_cifar_file_cut_at_the_end_of_a_record(self):
        self.write_cifar(9999)
        self.refused("data_batch_1.bin is cut short", "--data.name=cifar10")

    def test_a_cifar_label_out_of_range(self):
        self.write_cifar(10000, label=10)
        self.refused("label 10 of sample 0", "--data.name=cifar10")

    def test_an_empty_text(self):
        self.write("input.txt", "")
        self.refused("input.txt is empty", "--data.name=text", "--data.file=input.txt", ranks=(1, 3))

    def test_a_missing_text(self):
        arguments = ("run", self.input, "--data.partition=iid", "--data.name=text", "--data.dir=d",
                     "--data.file=mine.txt", "--model.name=gpt")
        self.assert_refused(3, "d/mine.txt is missing, and so is mine.txt: set data.file", *arguments)
        done = self.espalier(*arguments, "--check")  # the options give the shape
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("warning: d/mine.txt is missing", done.stderr)

    def test_a_text_in_another_encoding(self):
        text = "Es war einmal ein K\u00f6nig. " * 60
        words = ("--data.name=text", "--data.file=mine.txt", "--data.tokens=words", "--model.name=gpt")
        self.write_bytes("mine.txt", text.encode("latin-1"))
        self.refused("iconv -f ISO-8859-1 -t UTF-8", *words)
        self.write_bytes("mine.txt", (text + "\u201eJa\u201c").encode("cp1252"))
        self.refused("iconv -f WINDOWS-1252 -t UTF-8", *words, ranks=(1, 3))

    def test_classes_of_a_text(self):
        self.write("input.txt", "to be or not to be " * 500)
        self.refused("set it to iid", "--data.name=text", "--data.file=input.txt", "--data.partition=dirichlet",
                     "--model.name=gpt", status=2)

    def test_a_row_of_ag_news(self):
        self.write("test.csv", '"1","a","b"\n"7","c","d"\n')
        self.refused("test.csv line 2 has the class '7'", "--data.name=agnews")

    def test_a_ragged_table(self):
        self.write_table("1,2")
        self.refused("data.csv line 42 has 2 cells instead of 3", "--data.name=csv", ranks=(1, 3))

    def test_a_table_with_words_for_numbers(self):
        self.write_table("1,many,0")
        self.refused("data.csv line 42: 'many' in b", "--data.name=csv")

    def test_a_column_that_is_not_there(self):
        self.write_table()
        self.refused("data.csv_label = kind", "--data.name=csv", "--data.csv_label=kind", status=2)

    def test_values_that_are_no_numbers(self):
        self.write_arrays(values=[0.0] * 61 + [float("nan")] + [0.0] * 58)
        self.refused("x.npy: row 20 (from 0) has nan", "--data.name=arrays", ranks=(1, 3))

    def test_a_label_below_zero(self):
        self.write_arrays(labels=[0, 1] * 19 + [1, -1])
        self.refused("y.npy: row 39 (from 0) has -1", "--data.name=arrays")

    def test_a_class_without_samples(self):
        self.write_arrays(labels=[0, 2] * 20)
        self.refused("class 1 has no sample", "--data.name=arrays")

    def test_lengths_that_differ(self):
        self.write_arrays(labels=[0, 1] * 21)
        self.refused("40 rows but", "--data.name=arrays", ranks=(1, 3))

    def test_hdf5_arrays(self):
        """Each rank reads them in child processes."""
        path = self.path("arrays.h5")
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.full((40, 3), 77.25), chunks=(8, 3), fletcher32=True)
            file["y"] = np.arange(40) % 2
        self.run_ok("sound", "--data.name=arrays", f"--data.dir={self.folder.name}", "--model.name=mlp", ranks=3)
        shutil.rmtree(self.path("runs"))
        with open(path, "rb") as file:
            whole = file.read()
        self.write_bytes("arrays.h5", whole.replace(struct.pack("<d", 77.25), struct.pack("<d", 77.5), 1))
        self.refused("arrays.h5: x cannot be read", "--data.name=arrays", ranks=(1, 3))
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (1 << 36, 3), "f4", chunks=(8, 3))
            file["y"] = np.arange(40) % 2
        self.refused("arrays.h5: x announces more numbers than its file holds", "--data.name=arrays", ranks=(1, 3))

    def test_clients_that_the_data_does_not_have(self):
        self.write_arrays()
        self.write_npy("client.npy", "|u1", "(40,)", bytes([0, 1, 2, 3] * 10))
        self.refused("clients.count = 7 is more than the 4 clients (0 to 3) that arrays names: set it to at most 4",
                     "--data.name=arrays", "--data.partition=given", status=2)
        self.refused("needs the client of each sample", "--data.name=synthetic", "--data.partition=given", status=2)

    def test_crops_of_what_is_no_image(self):
        self.write_arrays()
        self.refused("data.augment", "--data.name=arrays", "--data.augment=crop_flip", status=2)

    def test_a_shape_that_only_the_files_tell(self):
        for name, file, words in (("arrays", "arrays.h5", "known from their files"),
                                  ("csv", "data.csv", "known only from its file")):
            arguments = ("run", self.input, f"--data.name={name}", "--data.partition=iid", "--data.dir=d", "--check")
            said = self.assert_refused(3, words, *arguments)
            self.assertIn(f"d/{file} is missing", said)


if __name__ == "__main__":
    unittest.main()
