"""A small or full /dev/shm, and segments that killed jobs have left there, in a file system of the test's own."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest, finish  # noqa: E402

MAY_MOUNT = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode == 0


@unittest.skipUnless(MAY_MOUNT, "skipped: only root may mount a file system over /dev/shm")
class SharedMemory(ProgramTest):
    def run_with(self, name, prepare, ranks=3):
        """Runs the small input with a /dev/shm of 1 MB after the commands `prepare`."""
        script = f'mount -t tmpfs -o size=1m tmpfs /dev/shm && cd /dev/shm && {prepare}; cd "$0" && exec "$@"'
        command = self.command("run", self.input, f"--run.name={name}", ranks=ranks)
        done = finish(self.begin(["unshare", "--mount", "sh", "-c", script, self.path(), *command]), 120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return self.path("runs", name)

    def test_a_full_one_stops_no_run(self):
        whole = self.run_ok("whole", ranks=3)
        for name, prepare in [("full", "head -c 2m /dev/zero > full 2>/dev/null"),
                              ("nearly", "head -c 1040384 /dev/zero > nearly"),
                              ("no_inodes", "mount -o remount,nr_inodes=2 /dev/shm; touch a b 2>/dev/null")]:
            with self.subTest(name):
                self.assert_equal_models(whole, self.run_with(name, prepare))

    def test_segments_of_killed_jobs_are_no_reason_to_fail(self):
        whole = self.run_ok("whole", ranks=3)
        leave = "for i in 0 1 2 3; do head -c 40k /dev/zero > open_mpi.000$i; echo x > vader_segment.$(hostname).0.1.$i; done"
        self.assert_equal_models(whole, self.run_with("after", leave))


if __name__ == "__main__":
    unittest.main()
