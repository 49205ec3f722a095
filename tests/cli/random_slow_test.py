"""For any window, fleet, faults and number of ranks, every sent task is in /tasks exactly once, with one outcome, and the
other tables agree with it. 200 random configurations."""

import random
import unittest

import numpy as np

from support import ProgramTest

CONFIGURATIONS = 200
OUTCOMES = {"merged", "crashed", "unavailable", "out_of_memory", "rejected", "dropped_stale", "unfinished"}
NO_CLIENT_CAN_ANSWER = 6


def draw(number):
    """Returns the settings of one configuration, and its number of ranks."""
    r = random.Random(number)
    count = r.randint(2, 12)
    fast = r.randint(1, count - 1)
    per_round = r.choice([0, 0, r.randint(1, count)])
    at_once = per_round or count
    settings = {
        "run.seed": number + 1,
        "run.rounds": r.randint(1, 8),
        "data.synthetic_samples": 20 * count,
        "train.lr": 0.005,  # so that rules that add all updates do not diverge
        "clients.count": count,
        "clients.fleet": f"{fast}*fast, {count - fast}*slow",
        "clients.per_round": per_round,
        "clients.sampling": r.choice(["uniform", "weighted", "round_robin"]),
        "device.fast.availability": r.choice([1, 1, 0.6]),
        "device.slow.latency_ms": r.choice([0, 10, 5000]),
        # Too little memory for a client with the whole model.
        "device.slow.memory_mb": r.choice([0, 0, 0, 0.03]),
        "clients.availability_period_s": r.choice([0.05, 1]),
        "method.name": r.choice(["fedavg", "heterofl", "fedrolex", "fedbuff", "fedasync", "ssp", "dc_asgd",
                                 "semi_async"]),
        "window.deadline_s": r.choice([0, 0, 0.02, 1]),
        "window.max_staleness": r.choice([-1, -1, 0, 2]),
        "window.stale": r.choice(["merge", "drop", "resend"]),
    }
    if r.random() < 0.5:
        settings["window.min_updates"] = r.randint(1, at_once)
        settings["window.release"] = r.choice(["merged", "arrival"])
        settings["window.grace_s"] = r.choice([0, 0, 0.01, 2])
    if settings["method.name"] == "ssp":
        settings["clients.per_round"] = 0  # its bound needs all clients
        settings["window.max_spread"] = r.randint(0, 2)
    for fault, most in (("crash", 0.4), ("late", 0.5), ("twice", 0.6), ("not_finite", 0.2), ("vanish", 0.3)):
        if r.random() < 0.4:
            settings[f"faults.{fault}"] = round(r.uniform(0, most), 3)
    return [f"--{key}={value}" for key, value in settings.items()], r.choice([1, 1, 2, 3])


class RandomTest(ProgramTest):
    def check(self, run):
        tasks, rounds = self.table(run), self.table(run, "rounds")
        sent = len(tasks["task"])
        np.testing.assert_array_equal(np.sort(tasks["task"]), np.arange(sent))
        outcome = np.array([o.decode() for o in tasks["outcome"]])
        self.assertLessEqual(set(outcome), OUTCOMES)
        merged = outcome == "merged"
        self.assertTrue((tasks["merged_version"][~merged] == -1).all())
        self.assertTrue((tasks["staleness"] >= 0).all())
        stale = tasks["merged_version"] - 1 - tasks["base_version"]
        np.testing.assert_array_equal(tasks["staleness"][merged], stale[merged])
        versions = np.arange(1, len(rounds["version"]) + 1)
        np.testing.assert_array_equal(rounds["version"], versions)
        counts = np.bincount(tasks["merged_version"][merged], minlength=len(versions) + 1)[1:]
        np.testing.assert_array_equal(rounds["updates_merged"], counts)
        # No client works on two tasks at the same time.
        for client in np.unique(tasks["client"]):
            own = tasks["client"] == client
            order = np.argsort(tasks["task"][own])
            self.assertTrue((tasks["sent_s"][own][order][1:] >= tasks["finished_s"][own][order][:-1]).all())
        return set(outcome)

    def test_each_task_has_one_row(self):
        seen, ended = set(), 0
        for number in range(CONFIGURATIONS):
            settings, ranks = draw(number)
            with self.subTest(number=number, settings=settings, ranks=ranks):
                name = f"random-{number}"
                done = self.espalier("run", self.input, f"--run.name={name}", *settings, ranks=ranks)
                self.assertIn(done.returncode, (0, NO_CLIENT_CAN_ANSWER), done.stdout + done.stderr)
                ended += done.returncode == 0
                if done.returncode == 0:
                    seen |= self.check(self.path("runs", name))
        self.assertEqual(seen, OUTCOMES)  # otherwise the draws do not cover all outcomes
        self.assertGreater(ended, 0.9 * CONFIGURATIONS)


if __name__ == "__main__":
    unittest.main()
