"""espalier calibrate: a run accepts its section, and the times of the run follow the roofline."""

import os
import re
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class Calibrate(ProgramTest):
    def test_a_run_takes_the_section(self):
        done = self.espalier("calibrate", "my-box", "--quick", "-v", ranks=2)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[0], "[device.my-box]")
        found = re.search(r"# (\d+) tasks not used for fitting: median error ([\d.]+) %, rank correlation ([\d.]+)", done.stdout)
        self.assertGreaterEqual(int(found[1]), 12)
        # Even if the machine has other work, long tasks are distinguished from short ones.
        self.assertGreater(float(found[3]), 0.7)
        fields = {line.split(" = ")[0]: float(line.split(" = ")[1].split("#")[0])
                  for line in lines if " = " in line}
        self.assertEqual(set(fields), {"memory_mb", "gflops", "gflops_conv", "gflops_matmul", "gflops_attention",
                                       "memory_gbps", "overhead_us", "down_mbps", "up_mbps", "latency_ms"})
        for name in set(fields) - {"memory_gbps", "overhead_us"}:
            self.assertGreater(fields[name], 0, name)

        with open(self.input) as file:
            text = file.read().replace("fleet = 3*fast, 4*slow", "fleet = my-box")
        self.input = self.write("mine.ini", text + done.stdout)
        run = self.run_ok("a")
        late = self.run_ok("b", f"--device.my-box.overhead_us={fields['overhead_us'] + 1000}")
        with h5py.File(os.path.join(run, "run.h5")) as a, h5py.File(os.path.join(late, "run.h5")) as b:
            self.assertEqual(set(a["tasks/outcome"][()]), {b"merged"})
            steps = a["tasks/steps"][()]
            self.assertTrue((a["tasks/compute_s"][()] > 0).all())
            rows = [np.lexsort((file["tasks/client"][()], file["tasks/base_version"][()])) for file in (a, b)]
            more = b["tasks/compute_s"][()][rows[1]] - a["tasks/compute_s"][()][rows[0]]
            # An MLP of three blocks, a millisecond each in each step; times are whole nanoseconds.
            np.testing.assert_allclose(more, 3e-3 * steps[rows[0]], rtol=0, atol=2e-9)

    def test_alone_it_measures_no_link(self):
        done = self.espalier("calibrate", "--quick")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[0], "[device.this-machine]")
        self.assertNotIn("\ndown_mbps", done.stdout)
        self.input = self.write("mine.ini", "[clients]\nfleet = this-machine\n" + done.stdout)
        checked = self.espalier("run", self.input, "--check", "--data.name=synthetic", "--model.name=mlp")
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn("this-machine", checked.stdout)

    def test_bad_words_are_refused(self):
        self.assert_refused(2, "'my box'", "calibrate", "my box")
        self.assert_refused(2, "'a.b'", "calibrate", "a.b")
        self.assert_refused(2, "''", "calibrate", "")
        self.assert_refused(2, "one name", "calibrate", "a", "b", ranks=2)
        self.assert_refused(2, "--quik", "calibrate", "--quik")


if __name__ == "__main__":
    unittest.main()
