"""The shipped job files under a real Slurm: two nodes on this machine, submitted as users do: a job with a time
limit shorter than its run, which is requeued until the run is finished; an array; a sweep; a heterogeneous job on two nodes; and
scancel with another submission. Every result equals an uninterrupted run."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "cli"))
from support import ESPALIER, ProgramTest  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
JOBS = os.path.join(HERE, "..", "..", "jobs")
LONG = ["--checkpoint.every=200", "--record.evaluate_every=1000000"]


def missing():
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    for program in ("slurmctld", "slurmd", "munged"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None:
            return f"{program} is missing (Debian: slurm-wlm munge)"
    return None


@unittest.skipIf(missing(), missing())
class Slurm(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.cluster = tempfile.TemporaryDirectory()
        started = subprocess.run([os.path.join(HERE, "cluster.sh"), "start", cls.cluster.name],
                                 capture_output=True, text=True, timeout=120)
        assert started.returncode == 0, started.stdout + started.stderr
        os.environ["SLURM_CONF"] = started.stdout.strip().splitlines()[-1]

    @classmethod
    def tearDownClass(cls):
        subprocess.run([os.path.join(HERE, "cluster.sh"), "stop", cls.cluster.name], timeout=60)
        time.sleep(1)
        shutil.rmtree(cls.cluster.name, ignore_errors=True)

    def setUp(self):
        super().setUp()
        os.makedirs(self.path("build"))
        os.symlink(ESPALIER, self.path("build", "espalier"))

    def tool(self, *words):
        # Both nodes are this machine, so ranks of different nodes would use the same shared memory files.
        done = subprocess.run(words, cwd=self.folder.name, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "OMPI_MCA_btl": "self,tcp"})
        self.assertEqual(done.returncode, 0, f"{words}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, job, options, *settings):
        """A user's sbatch; the command line overrides the sizes in the file."""
        return self.tool("sbatch", "--parsable", *options, os.path.join(JOBS, job), self.input, *settings)

    def logs(self):
        return "".join(pathlib.Path(self.path(name)).read_text()
                       for name in sorted(os.listdir(self.folder.name)) if name.endswith(".log"))

    def wait_for(self, what, done, limit_s=240):
        end = time.monotonic() + limit_s
        pending = {}
        while not done():
            if time.monotonic() > end:
                self.fail(f"waited for {what}\n{self.tool('squeue', '-a')}\n{self.logs()}")
            # Slurm holds a requeued job for two minutes; ten seconds are enough to clean up.
            waiting = self.tool("squeue", "-h", "-r", "-t", "PD", "-o", "%i").split()
            pending = {number: pending.get(number, time.monotonic()) for number in waiting}
            for number, since in pending.items():
                if time.monotonic() - since > 10:
                    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], capture_output=True)
            time.sleep(0.5)

    def is_done(self, name):
        return os.path.exists(self.path("runs", name, "DONE"))

    def straight(self, seconds):
        """Runs for about `seconds`, without interruption; returns the run and its rounds."""
        begun = self.espalier("run", self.input, "--run.name=straight", "--run.rounds=1000000", *LONG,
                              f"--wall=00:{seconds // 60:02}:{seconds % 60:02}")
        self.assertEqual(begun.returncode, 85, begun.stderr)
        rounds = f"--run.rounds={int(begun.stdout.strip().splitlines()[-1].split()[3]) + 1}"
        return self.run_ok("straight", *LONG, rounds), rounds

    def test_a_job_is_queued_again_until_it_is_done(self):
        straight, rounds = self.straight(70)  # twice the time of the job until its signal, in case the machine is faster then
        self.submit("single-node.sbatch", ["--ntasks=3", "--time=1", "--signal=USR1@25"], *LONG, rounds,
                    "--run.name=again")
        self.wait_for("the run", lambda: self.is_done("again"))
        self.assertIn("(SIGUSR1); start again to resume", self.logs())
        self.assertIn("resuming from version", self.logs())
        self.assert_same(straight, self.path("runs", "again"))

    def test_scancel_and_another_submission(self):
        straight, rounds = self.straight(12)
        options = ["--ntasks=3"]
        job = self.submit("single-node.sbatch", options, *LONG, rounds, "--run.name=cancelled")
        folder = self.path("runs", "cancelled", "checkpoints")
        self.wait_for("a checkpoint", lambda: os.path.isdir(folder) and os.listdir(folder))
        self.tool("scancel", job)
        self.wait_for("the end", lambda: job not in self.tool("squeue", "-h", "-o", "%A").split())
        self.assertFalse(self.is_done("cancelled"), "it was over before it was cancelled")
        self.submit("single-node.sbatch", options, *LONG, rounds, "--run.name=cancelled")
        self.wait_for("the run", lambda: self.is_done("cancelled"))
        self.assert_same(straight, self.path("runs", "cancelled"))

    def test_an_array(self):
        self.submit("array.sbatch", ["--array=1-2", "--ntasks=2"])
        for seed in (1, 2):
            self.wait_for("the array", lambda: self.is_done(f"fedavg-seed{seed}"))
            self.assert_same(self.run_ok(f"straight{seed}", f"--run.seed={seed}"),
                             self.path("runs", f"fedavg-seed{seed}"))

    def test_a_sweep(self):
        self.write("grid.ini", "[sweep]\ninput = small.ini\nseeds = 1, 2\n[start trained]\n"
                   "[variant {train.lr}]\nstart = trained\ntrain.lr = [0.1, 0.2]\n")
        sweep = [sys.executable, os.path.join(HERE, "..", "..", "tools", "sweep.py"), "grid.ini"]
        printed = self.tool(*sweep, "--slurm")
        command = next(line for line in printed.splitlines() if line.strip().startswith("sbatch"))
        self.tool("sh", "-c", command.replace("sbatch ", "sbatch --ntasks=2 "))
        names = [f"{lr}-seed{seed}" for lr in ("0.1", "0.2") for seed in (1, 2)]
        self.wait_for("the array", lambda: all(map(self.is_done, names)))
        self.assertIn("4 of 4 runs finished", self.tool(*sweep, "--collect"))
        # The name of a start ends with the hash of its configuration.
        start, = pathlib.Path(self.path("runs")).glob("trained-seed1-*")
        trained = self.checkpoint(start)
        for name in names:
            lr, seed = name.split("-seed")
            self.assert_same(self.run_ok(f"straight-{name}", f"--train.lr={lr}", f"--run.seed={seed}",
                                         f"--model.init={os.path.relpath(trained, self.folder.name)}"),
                             self.path("runs", name))

    def test_two_nodes(self):
        self.submit("multi-node.sbatch", ["--ntasks-per-node=2"], "--run.name=nodes")
        self.wait_for("the run", lambda: self.is_done("nodes"))
        self.assert_same(self.run_ok("straight"), self.path("runs", "nodes"))

    def test_a_heterogeneous_job(self):
        self.submit("heterogeneous.sbatch", [], "--run.name=mixed")
        self.wait_for("the run", lambda: self.is_done("mixed"))
        self.assert_same(self.run_ok("straight"), self.path("runs", "mixed"))


if __name__ == "__main__":
    unittest.main()
