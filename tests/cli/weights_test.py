"""Weights out of a checkpoint and into a new run, and the safetensors package on the other side."""

import os
import struct
import unittest

import h5py
import numpy
import safetensors
import safetensors.numpy

from support import ProgramTest

MODEL = ("--model.name=lenet", "--model.norm=batch")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def replace_in_header(path, old, new):
    data = read(path)
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8:8 + length].replace(old, new)
    write(path, struct.pack("<Q", len(header)) + header + data[8 + length:])


class WeightsTest(ProgramTest):
    def trained(self):
        """The checkpoint of a run that trained a model with statistics."""
        return self.checkpoint(self.run_ok("trained", "--run.rounds=1", *MODEL))

    def exported(self, checkpoint, name="out.safetensors", *flags):
        done = self.espalier("export", checkpoint, self.path(name), *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.path(name)

    def untouched(self, name, weights, *settings):
        """A run from `weights` that keeps them: a learning rate of 0. Returns the final model."""
        run = self.run_ok(name, "--run.rounds=1", "--train.lr=0", f"--model.init={weights}", *MODEL,
                          *settings)
        return self.model(self.checkpoint(run))

    def model(self, checkpoint):
        with h5py.File(checkpoint) as file:
            return {name: values[()] for name, values in file["model"].items()}

    def assert_models_equal(self, a, b, statistics=True):
        self.assertEqual(a.keys(), b.keys())
        for name in a:
            if statistics or "running" not in name:
                self.assertEqual(a[name].tobytes(), b[name].tobytes(), name)

    def test_the_package_reads_what_export_writes(self):
        checkpoint = self.trained()
        tensors = safetensors.numpy.load_file(self.exported(checkpoint))
        self.assert_models_equal({name: values.ravel() for name, values in tensors.items()},
                                 self.model(checkpoint))
        self.assertEqual(tensors["conv2.weight"].shape, (16, 6, 5, 5))
        self.assertEqual(tensors["norm1.running_mean"].shape, (6,))
        with safetensors.safe_open(self.path("out.safetensors"), "numpy") as file:
            self.assertEqual(file.metadata()["format"], "pt")

    def test_a_round_trip_keeps_every_bit(self):
        checkpoint = self.trained()
        model = self.model(checkpoint)
        out = self.exported(checkpoint)
        # Statistics are measured anew for the same weights, over the same samples.
        self.assert_models_equal(self.untouched("from-file", out), model)
        self.assert_models_equal(self.untouched("from-checkpoint", checkpoint), model)
        self.assertEqual(read(self.exported(checkpoint, "again.safetensors")), read(out))

    def test_the_start_is_the_same_on_any_number_of_ranks(self):
        out = self.exported(self.trained())
        runs = [self.run_ok(f"on-{n}", f"--model.init={out}", *MODEL, ranks=n) for n in (1, 3)]
        self.assert_same(*runs)

    def test_halves_doubles_and_brain_floats_are_converted(self):
        tensors = safetensors.numpy.load_file(self.exported(self.trained()))
        for kind in ("float16", "float64", "bfloat16"):
            stored, expected = {}, {}
            for name, values in tensors.items():
                if kind == "bfloat16":  # the upper half of a float: NumPy has no such type
                    converted = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
                    expected[name] = (converted.astype(numpy.uint32) << 16).view(numpy.float32)
                else:
                    converted = values.astype(kind)
                    expected[name] = converted.astype(numpy.float32)
                stored["module." + name] = converted
            path = self.path(kind + ".safetensors")
            safetensors.numpy.save_file(stored, path)
            if kind == "bfloat16":
                replace_in_header(path, b'"U16"', b'"BF16"')
            got = self.untouched("from-" + kind, path)
            self.assert_models_equal({name: values.ravel() for name, values in expected.items()},
                                     got, statistics=False)

    def test_a_new_head_needs_init_partial(self):
        tensors = safetensors.numpy.load_file(self.exported(self.trained()))
        head = {name: tensors.pop(name) for name in ("fc3.weight", "fc3.bias")}
        path = self.path("headless.safetensors")
        safetensors.numpy.save_file(tensors, path)
        common = ("run", self.input, "--run.name=new", "--train.lr=0", "--run.rounds=1", *MODEL,
                  f"--model.init={path}")
        self.assert_refused(3, "it lacks fc3.weight, fc3.bias", *common)
        self.assertFalse(os.path.exists(self.path("runs", "new")))
        got = self.untouched("part", path, "--model.init_partial=true")
        drawn = self.model(self.checkpoint(
            self.run_ok("drawn", "--train.lr=0", "--run.rounds=1", *MODEL)))
        self.assertEqual(got["fc2.weight"].tobytes(), tensors["fc2.weight"].tobytes())
        for name in head:
            self.assertEqual(got[name].tobytes(), drawn[name].tobytes())

    def test_what_does_not_fit_is_refused_before_anything_is_written(self):
        checkpoint = self.trained()
        out = self.exported(checkpoint)
        common = ("run", self.input, "--run.name=bad", "--model.name=lenet")
        self.assert_refused(3, "the model has no norm1.weight", *common, f"--model.init={out}")
        self.assert_refused(3, "the model has no norm1.weight", *common,
                            f"--model.init={checkpoint}", ranks=2)
        self.assert_refused(3, "where [32, 1, 5, 5] is needed", *common, "--model.norm=batch",
                            f"--model.init={out}", "--model.name=cnn")
        self.assert_refused(3, "No such file", *common, "--model.init=absent.safetensors")
        self.assert_refused(3, "there is no checkpoint", *common, "--model.init=absent.h5")
        self.assert_refused(2, "neither a .safetensors file nor a checkpoint", *common,
                            "--model.init=weights.bin")
        write(out, struct.pack("<Q", 1 << 60) + read(out)[8:])
        self.assert_refused(3, "its header would have", *common, f"--model.init={out}", "--check")
        self.assertFalse(os.path.exists(self.path("runs", "bad")))

    def test_export_refuses_what_it_cannot_do(self):
        checkpoint = self.trained()
        out = self.exported(checkpoint)
        self.assert_refused(2, "exists", "export", checkpoint, out)
        self.exported(checkpoint, "out.safetensors", "--overwrite")
        self.assert_refused(2, "export needs two files", "export", checkpoint)
        self.assert_refused(2, "export needs two files", "export", checkpoint, "out.bin")
        self.assert_refused(4, "there is no checkpoint", "export", "absent.h5", "x.safetensors")
        self.assert_refused(4, "run.h5", "export", self.path("runs", "trained", "run.h5"),
                            "x.safetensors")
        self.assert_refused(4, "cannot write", "export", checkpoint, "absent/x.safetensors")


if __name__ == "__main__":
    unittest.main()
