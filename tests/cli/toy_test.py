"""The engine's promises on a protocol that is not `rounds` (tests/engine/toy_espalier.cpp): same values on any number
of ranks, and after a kill at a checkpoint or anywhere else, with residents that move to other ranks."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import MPIRUN, ProgramTest, finish  # noqa: E402

TOY = os.environ["ESPALIER_TOY"]


class ToyProtocol(ProgramTest):
    def toy(self, name, *settings, ranks=1, env=None):
        program = [TOY] if ranks == 1 else [MPIRUN, "-n", str(ranks), TOY]
        words = [self.input, f"--run.name={name}", "--method.name=count", "--run.rounds=40",
                 "--checkpoint.every=7", "--record.evaluate_every=10", *settings]
        return finish(self.begin([*program, *words], env), 120)

    def finished(self, *words, **others):
        done = self.toy(*words, **others)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(done.stdout.strip().splitlines()[-1].startswith("done: "), done.stdout)
        return self.path("runs", words[0])

    def test_counts_on_any_ranks(self):
        one = self.finished("one")
        table = self.table(one, "counts")
        self.assertEqual(len(table["version"]), 40)
        # Client c counts to 3 first and 2 + c further each time, so its n-th sum is known.
        seen = {}
        for client, total in zip(table["client"], table["sum"]):
            nth = seen[client] = seen.get(client, -1) + 1
            top = 3 + nth * (2 + client)
            self.assertEqual(total, top * (top + 1) // 2)
        self.assertEqual(len(seen), 7)
        for ranks in (2, 3):
            self.assert_same(one, self.finished(f"on_{ranks}", ranks=ranks))

    def test_a_last_checkpoint_has_no_partial_work(self):
        # After one round every other client's job is outstanding.
        one = self.finished("one", "--run.rounds=1")
        for ranks in (2, 3, 5):
            for again in range(2):
                self.assert_same(one, self.finished(f"on_{ranks}_{again}", "--run.rounds=1", ranks=ranks))

    def test_goes_on_after_kills_on_other_ranks(self):
        one = self.finished("one")
        for ranks, point, then in ((1, "checkpoint.written:3", 3), (3, "checkpoint.half:2", 2),
                                   (3, "checkpoint.renamed:2", 1)):
            name = f"killed_{ranks}_{then}"
            killed = self.toy(name, ranks=ranks, env={"ESPALIER_KILL_AT": point})
            self.assertNotEqual(killed.returncode, 0, point)
            self.assertTrue(os.listdir(self.path("runs", name, "checkpoints")), point)
            self.assertFalse(os.path.exists(self.path("runs", name, "DONE")), point)
            self.assert_same(one, self.finished(name, ranks=then))

    def test_stops_and_goes_on(self):
        one = self.finished("one")
        limited = self.finished("limited", "--run.virtual_limit=9")
        self.assertLess(len(self.column(limited, "version", "counts")), 40)
        self.finished("limited", "--run.virtual_limit=1000", ranks=3)
        # The stop left an evaluation of its own version; the rest is as without it.
        for name, values in self.table(one, "counts").items():
            self.assertEqual(list(values), list(self.table(limited, "counts")[name]), name)
        compared = self.espalier("diff", "--values", self.checkpoint(one), self.checkpoint(limited))
        self.assertEqual(compared.returncode, 0, compared.stdout)

    def test_another_method_is_refused_with_what_there_is(self):
        done = self.toy("other", "--method.name=fedavg")
        self.assertEqual(done.returncode, 2)
        self.assertIn("no method is called 'fedavg'; there are: count", done.stderr)


if __name__ == "__main__":
    unittest.main()
