"""A short run with failures of each kind and stale updates, for the tests of report, track and follow."""

import os
import shutil

import h5py
import numpy as np

from support import ProgramTest

FAILING = """
[run]
name = failing
rounds = 8
[data]
name = synthetic
synthetic_samples = 500
synthetic_shape = 1, 12, 12
[model]
name = mlp
hidden = 32, 16
[method]
name = semi_async
[clients]
count = 10
fleet = 3*fast, 5*slow, 2*tiny
[device.fast]
gflops = 2
[device.slow]
gflops = 0.05
[device.tiny]
memory_mb = 0.015
[faults]
clients = 0, 3, 4
crash = 0.3
not_finite = 0.3
[window]
max_staleness = 0
stale = drop
[train]
batch = 10
lr = 0.05
"""


class FailingRunTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.input = self.write("failing.ini", FAILING)

    def assert_sentence(self, done, status):
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def unreadable(self, run):
        """Paths that no tool can read as a run: absent, a folder, a text, a run file cut off, one of a newer version."""
        with open(os.path.join(run, "run.h5"), "rb") as file:
            content = file.read()
        with open(self.path("cut.h5"), "wb") as file:
            file.write(content[:len(content) // 3])
        newer = shutil.copy(os.path.join(run, "run.h5"), self.path("newer.h5"))
        with h5py.File(newer, "r+") as file:
            file.attrs["version"] = np.array([2, 0], dtype=file.attrs["version"].dtype)
        return self.path("nowhere"), self.folder.name, self.input, self.path("cut.h5"), newer
