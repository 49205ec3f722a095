"""Runs the real program, alone or on several ranks, in a temporary folder."""

import os
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import h5py
import numpy as np

ESPALIER = os.environ["ESPALIER"]
MPIRUN = os.environ["ESPALIER_MPIRUN"]

SMALL = """
[run]
name = small
rounds = 3
[data]
name = synthetic
synthetic_samples = 600
synthetic_shape = 1, 12, 12
partition = dirichlet
[model]
name = mlp
hidden = 32, 16
[clients]
count = 7
fleet = 3*fast, 4*slow
[device.fast]
gflops = 2
[device.slow]
gflops = 0.5
[train]
batch = 10
lr = 0.05
"""


def finish(job, limit):
    """Waits for a started job and returns its result. A job that takes longer than `limit` seconds is a failure, with its
    output. It is asked to stop, then killed; mpirun also ends its ranks, which hold the pipes."""
    try:
        output, errors = job.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        job.terminate()
        try:
            output, errors = job.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            job.kill()
            output, errors = job.communicate(timeout=30)
        raise AssertionError(f"not done in {limit} s: {job.args}\n{output}{errors}") from None
    return subprocess.CompletedProcess(job.args, job.returncode, output, errors)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def write_bytes(path, data):
    with open(path, "wb") as file:
        file.write(data)


def replace_in_header(path, old, new):
    """Changes the header of a safetensors file."""
    data = read_bytes(path)
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8:8 + length].replace(old, new)
    write_bytes(path, struct.pack("<Q", len(header)) + header + data[8 + length:])


class ProgramTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.input = self.write("small.ini", SMALL)

    def path(self, *parts):
        return os.path.join(self.folder.name, *parts)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def command(self, *words, ranks=1):
        return [ESPALIER, *words] if ranks == 1 else [MPIRUN, "-n", str(ranks), ESPALIER, *words]

    def espalier(self, *words, ranks=1, env=None):
        return finish(self.begin(self.command(*words, ranks=ranks), env), 300)

    def begin(self, command, env=None):
        """Starts `command` in the temporary folder."""
        return subprocess.Popen(command, cwd=self.folder.name, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={**os.environ, **(env or {})})

    def run_ok(self, name, *settings, ranks=1, env=None):
        """Runs the small input into runs/NAME and returns that folder."""
        words = ("run", self.input, f"--run.name={name}", *settings)
        done = self.espalier(*words, ranks=ranks, env=env)
        for _ in range(30):  # on a busy machine a killed rank may still hold its run for a moment
            if "is in use by process" not in done.stderr:
                break
            time.sleep(1)
            done = self.espalier(*words, ranks=ranks, env=env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(done.stdout.strip().splitlines()[-1].startswith("done: "), done.stdout)
        return self.path("runs", name)

    def table(self, run, name="tasks"):
        """Returns the columns of a table of a run, by name."""
        with h5py.File(os.path.join(run, "run.h5")) as file:
            return {column: values[()] for column, values in file[name].items()}

    def column(self, run, name, table="tasks"):
        with h5py.File(os.path.join(run, "run.h5")) as file:
            return file[table][name][()]

    def checkpoint(self, run):
        folder = os.path.join(run, "checkpoints")
        return os.path.join(folder, sorted(os.listdir(folder))[-1])

    def model(self, run):
        """The values of the last checkpoint's model, by name."""
        with h5py.File(self.checkpoint(run)) as file:
            return {name: values[()] for name, values in file["model"].items()}

    def assert_equal_models(self, a, b):
        a, b = self.model(a), self.model(b)
        self.assertEqual(a.keys(), b.keys())
        for name, values in a.items():
            np.testing.assert_array_equal(values, b[name], err_msg=name)

    def same_on_ranks_and_after_a_kill(self, *settings, ranks=(2, 3, 5), kill="round.merged:3", killed_ranks=1):
        """Checks that the run on one rank, which it returns, equals those on `ranks`, and one that `kill` ends on `killed_ranks`
        and that goes on on two."""
        settings = (*settings, "--checkpoint.every=1")
        one = self.run_ok("one", *settings)
        for number in ranks:
            self.assert_same(one, self.run_ok(f"on{number}", *settings, ranks=number))
        done = self.espalier("run", self.input, "--run.name=killed", *settings, ranks=killed_ranks, env={"ESPALIER_KILL_AT": kill})
        status = -signal.SIGKILL if killed_ranks == 1 else 128 + signal.SIGKILL  # mpirun's
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assert_same(one, self.run_ok("killed", *settings, ranks=2))
        return one

    def assert_same(self, a, b, *flags):
        for first, second in ((os.path.join(a, "run.h5"), os.path.join(b, "run.h5")),
                              (self.checkpoint(a), self.checkpoint(b))):
            compared = self.espalier("diff", *flags, first, second)
            self.assertEqual(compared.returncode, 0, compared.stdout + compared.stderr)

    def assert_refused(self, status, words, *arguments, ranks=1, env=None):
        """Checks that the program ends with `status` and one sentence on stderr that contains `words`; returns it."""
        done = self.espalier(*arguments, ranks=ranks, env=env)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        self.assertIn(words, errors[0])
        return errors[0]
