"""The inputs in inputs/regions/: every method runs for two short periods, and the paper's model passes the check."""

import os
import re
import unittest

import numpy as np

from support import ProgramTest

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "regions")


SHAKESPEARE = os.path.exists(os.path.join(os.environ.get("ESPALIER_DATA", ""), "tinyshakespeare", "input.txt"))


class Inputs(ProgramTest):
    @unittest.skipUnless(SHAKESPEARE, "skipped: ESPALIER_DATA names no folder with tinyshakespeare")
    def test_shakespeare_runs_with_every_method(self):
        self.input = os.path.join(INPUTS, "shakespeare.ini")
        sent = {}
        for method in ("local_sgd", "diloco", "streaming_diloco", "cocodc"):
            run = self.run_ok(method, f"--method.name={method}", "--run.rounds=2", "--regions.period=8", "--train.batch=2",
                              "--data.test_limit=8", "--data.train_limit=400")
            perplexity = self.column(run, "perplexity", "evaluations")
            self.assertLess(perplexity[-1], 256)  # that of a guess among 256 bytes
            values = self.column(run, "bytes_up", "exchanges")
            sent[method] = values.sum()
            np.testing.assert_array_equal(np.unique(self.column(run, "region", "exchanges")), range(4))
        # Four regions send 1,024,384 values of 4 bytes at the end of each period.
        self.assertEqual(sent["diloco"], 2 * 4 * 4 * 1024384)
        self.assertEqual(sent["local_sgd"], sent["diloco"])

    @unittest.skipUnless(SHAKESPEARE, "skipped: ESPALIER_DATA names no folder with tinyshakespeare")
    def test_six_million_parameters_over_links_of_real_sites(self):
        self.input = os.path.join(INPUTS, "shakespeare-6m.ini")
        run = self.run_ok("a", "--run.rounds=1", "--regions.period=4", "--regions.overlap=1", "--regions.sends=4",
                          "--train.batch=1", "--data.test_limit=4", "--data.train_limit=40")
        self.assertLess(self.column(run, "perplexity", "evaluations")[-1], 256)
        # The ring is as fast as Frankfurt's link down, 339 Mbit/s, and as late as its pings: 147 ms for both ways.
        sent, arrived, size = (self.column(run, name, "exchanges") for name in ("sent_s", "arrived_s", "bytes_up"))
        fragment = self.column(run, "fragment", "exchanges")
        self.assertEqual(len(np.unique(fragment)), 4)
        first = fragment == fragment[np.argmin(sent)]
        takes = arrived[first].min() - sent[first].max()
        np.testing.assert_allclose(takes, 0.147 / 2 + 2 * 3 / 4 * size[first][0] * 8 / 339e6, rtol=1e-6)
        np.testing.assert_array_equal(np.sort(self.column(run, "up_mbps", "clients")), [524, 535, 535, 719])

    def test_the_papers_model_passes_the_check(self):
        done = self.espalier("run", os.path.join(INPUTS, "paper-150m.ini"), "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        # 12 blocks of 4 1024 1024 + 3 1024 2688 weights, two norms and the biases of four layers; two tables of 32000 1024;
        # the last norm.
        block = 4 * 1024**2 + 3 * 1024 * 2688 + 2 * 1024 + (1024 + 2688 + 2688 + 1024)
        parameters = 12 * block + 2 * 32000 * 1024 + 1024
        self.assertIn(f"{parameters} parameters", done.stdout)
        fragments = [int(n) for n in re.findall(r"^ +\d +\d +(\d+) +[\d.]+ MB$", done.stdout, re.M)]
        self.assertEqual(len(fragments), 4)
        self.assertEqual(sum(fragments), parameters)
        self.assertIn("a fragment is sent every 12 steps", done.stdout)


if __name__ == "__main__":
    unittest.main()
