"""A run that is killed at any point resumes to the values of an uninterrupted run. The test kills runs of every window
at every named point and at random instants (ESPALIER_KILLS of them per window and victim, seed ESPALIER_SEED), resumes
them on another number of ranks and compares them with an uninterrupted run."""

import os
import random
import shutil
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import ESPALIER, ProgramTest, finish  # noqa: E402

RANKS = 3
KILLS = int(os.environ.get("ESPALIER_KILLS", "2"))
SEED = int(os.environ.get("ESPALIER_SEED", "1"))

COMMON = ["--run.rounds=10", "--checkpoint.every=2", "--record.evaluate_every=3", "--clients.count=20",
          "--clients.fleet=10*fast,10*slow", "--data.synthetic_samples=4000", "--train.optimizer=adam",
          "--train.optimizer_state=keep", "--server.up_mbps=100", "--faults.vanish=0.05",
          "--model.name=cnn", "--model.channels=4,8", "--model.features=16", "--model.norm=batch"]
WINDOWS = {
    "synchronous": ["--clients.per_round=8", "--method.name=heterofl"],
    "semi_async": ["--method.name=semi_async", "--window.grace_s=0.002", "--method.submodel=rolling"],
    "buffered": ["--method.name=fedbuff", "--method.server_momentum=0.5"],
    "asynchronous": ["--method.name=dc_asgd", "--method.adaptive=true", "--run.rounds=40",
                     "--checkpoint.every=7", "--record.evaluate_every=10"],
}
# The points at which the server is killed, and those at which a client's rank is.
POINTS = ["checkpoint.begin:3", "checkpoint.half:2", "checkpoint.written:2", "checkpoint.renamed:3",
          "round.merged:1", "round.merged:7", "round.recorded:5", "client.step:40@1", "client.step:3@2",
          "evaluation.batch:1@1", "evaluation.batch:3@2"]


def ranks_of(marker):
    """Process numbers of the program's ranks, by rank, whose command holds `marker`."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
            if words[0] != ESPALIER or marker not in words:
                continue
            with open(f"/proc/{pid}/environ") as file:
                environment = dict(item.split("=", 1) for item in file.read().split("\0") if "=" in item)
            found[int(environment["OMPI_COMM_WORLD_RANK"])] = int(pid)
        except (OSError, KeyError):  # the process has ended
            continue
    return found


class NothingLost(ProgramTest):
    def into(self, name, settings, ranks=RANKS):
        return self.command("run", self.input, f"--run.name={name}", *COMMON, *settings, ranks=ranks)

    def go_on_and_compare(self, straight, name, settings, ranks, what):
        done = finish(self.begin(self.into(name, settings, ranks)), 300)
        self.assertEqual(done.returncode, 0, what + "\n" + done.stdout + done.stderr)
        with self.subTest(what):
            self.assert_same(straight, self.path("runs", name))

    def started(self, name, settings):
        """Starts a job; returns it and its process numbers by rank after all have started."""
        job = self.begin(self.into(name, settings))
        limit = time.monotonic() + 60
        while len(pids := ranks_of(f"--run.name={name}")) < RANKS and time.monotonic() < limit:
            time.sleep(0.02)
        self.assertEqual(len(pids), RANKS)
        return job, pids

    def kill(self, name, settings, victim, delay):
        """Returns whether the run was killed before its end."""
        job, pids = self.started(name, settings)
        time.sleep(delay)
        for rank in {"server": [0], "client": [1], "all": range(RANKS)}[victim]:
            try:
                os.kill(pids[rank], signal.SIGKILL)
            except ProcessLookupError:
                pass
        done = finish(job, 60)
        if done.returncode == 0:
            return False
        # Open MPI's mpirun sometimes crashes itself when it ends after a rank that was killed.
        if not (done.returncode == 139 and "PMIx_server_finalize" in done.stderr):
            self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
        return True

    def matrix(self, window):
        settings = WINDOWS[window]
        job, _ = self.started("straight", settings)
        begin = time.monotonic()
        done = finish(job, 300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        length = time.monotonic() - begin
        straight = self.path("runs", "straight")
        others = [1, 2, 5]
        for number, point in enumerate(POINTS):
            name = f"point{number}"
            done = finish(self.begin(self.into(name, settings), {"ESPALIER_KILL_AT": point}), 120)
            self.assertEqual(done.returncode, 137, f"{point} was not reached\n{done.stdout}{done.stderr}")
            self.go_on_and_compare(straight, name, settings, others[number % 3], point)
        draw = random.Random(f"{SEED} {window}")
        for victim in ("server", "client", "all"):
            for number in range(KILLS):
                name = f"{victim}{number}"
                delay = draw.uniform(0, length)
                while not self.kill(name, settings, victim, delay):  # the run ended first
                    shutil.rmtree(self.path("runs", name))
                    delay = draw.uniform(0, delay)
                self.go_on_and_compare(straight, name, settings, others[number % 3],
                                       f"{victim} after {delay:.3f} s")
        print(f"{window:<12} {len(POINTS)} points, {3 * KILLS} random instants of a run of "
              f"{length:.1f} s; seed {SEED}", file=sys.stderr)

    def test_synchronous(self):
        self.matrix("synchronous")

    def test_semi_async(self):
        self.matrix("semi_async")

    def test_buffered(self):
        self.matrix("buffered")

    def test_asynchronous(self):
        self.matrix("asynchronous")


if __name__ == "__main__":
    unittest.main()
