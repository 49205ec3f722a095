"""MSfusion and MOON from the command line: values on any number of ranks and after a kill, neutral settings, the exchange among
peers, and the shipped input."""

import os
import sys
import unittest

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from support import ProgramTest  # noqa: E402

INPUTS = os.path.join(os.environ["ESPALIER_INPUTS"], "msfusion")
DATA = os.path.join(os.environ.get("ESPALIER_DATA", ""), "cifar-10-batches-bin", "data_batch_1.bin")
FUSION = ("--method.name=msfusion", "--model.projection=6", "--run.rounds=4", "--data.synthetic_samples=300")
# The same links for all, so that bytes can be read from times too.
LINKS = ("--device.fast.up_mbps=8", "--device.fast.down_mbps=16", "--device.slow.up_mbps=8", "--device.slow.down_mbps=16",
         "--device.fast.latency_ms=1", "--device.slow.latency_ms=1")


class MSfusion(ProgramTest):
    def fusion(self, name, *settings, **more):
        return self.run_ok(name, *FUSION, *settings, **more)

    def test_same_values_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                ("--clients.per_round=4", "--method.overlap_schedule=plateau", "--method.negatives=peers", "--method.peers=2"),
                ("--method.exchange=peers", "--method.layer_shift=random", "--method.negatives=batch"))):
            with self.subTest(settings=more):
                more = ("--checkpoint.every=1", *more)
                one = self.fusion(f"{number}-1", *more)
                for ranks in (2, 3, 5) if number == 0 else (3,):
                    self.assert_same(one, self.fusion(f"{number}-{ranks}", *more, ranks=ranks))
                name = f"{number}-killed"
                done = self.espalier("run", self.input, f"--run.name={name}", *FUSION, *more, ranks=3,
                                     env={"ESPALIER_KILL_AT": "round.merged:3"})
                self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                self.assert_same(one, self.fusion(name, *more, ranks=2))

    def test_moon_has_the_same_values_on_several_ranks_and_after_a_kill(self):
        moon = ("--method.name=moon", "--model.projection=6", "--checkpoint.every=1")
        one = self.run_ok("one", *moon)
        done = self.espalier("run", self.input, "--run.name=killed", *moon, ranks=3, env={"ESPALIER_KILL_AT": "round.merged:2"})
        self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
        self.assert_same(one, self.run_ok("killed", *moon, ranks=2))

    def test_neutral_settings_are_fedavg(self):
        shape = ("--model.projection=6",)
        fedavg = self.run_ok("fedavg", *shape)
        self.assert_same(fedavg, self.run_ok("moon", "--method.name=moon", "--method.contrast=0", *shape), "--values")
        self.assert_equal_models(fedavg, self.run_ok("whole", "--method.name=msfusion", "--method.split_rate=1",
                                                     "--method.round_shift=0", "--method.participant_shift=false",
                                                     "--method.contrast=0", *shape))
        # Without a weight the objective is the cross-entropy: the same model as without its code, and no copies.
        without = self.fusion("without", "--method.contrast=0")
        plain = self.fusion("plain", "--method.objective=masked_cross_entropy", "--method.masked_loss=false")
        self.assert_equal_models(without, plain)
        for column in ("peak_bytes", "flops"):
            np.testing.assert_array_equal(self.column(without, column), self.column(plain, column))

    def test_every_unit_has_a_holder_if_there_is_enough_for_all(self):
        least = {rate: self.column(self.fusion(f"rate{rate}", f"--method.split_rate={rate}", "--run.rounds=2"), "coverage_min",
                                   "rounds") for rate in (0.1, 1)}
        self.assertTrue((least[0.1] == 0).all())
        self.assertTrue((least[1] == 7).all())

    def test_peers_have_the_same_values_and_pay_for_each_other(self):
        served = self.fusion("served", *LINKS)
        peers = self.fusion("peers", "--method.exchange=peers", *LINKS)
        self.assert_equal_models(served, peers)
        a, b = self.table(served), self.table(peers)
        np.testing.assert_array_equal(a["train_loss"][np.lexsort((a["client"], a["base_version"]))],
                                      b["train_loss"][np.lexsort((b["client"], b["base_version"]))])
        # What all send after a round is what all receive before the next.
        for version in range(3):
            self.assertEqual(b["bytes_up"][b["base_version"] == version].sum(),
                             b["bytes_down"][b["base_version"] == version + 1].sum())
        np.testing.assert_allclose(b["upload_s"], 0.001 + b["bytes_up"] / 1e6, rtol=1e-6)
        np.testing.assert_allclose(b["download_s"], 0.001 + b["bytes_down"] / 2e6, rtol=1e-6)
        # Personal values are in no message.
        personal = self.table(self.fusion("personal", "--method.exchange=peers", "--method.personal=head", *LINKS))
        self.assertTrue((personal["bytes_up"] < b["bytes_up"]).all())
        # A participant gets its window from several others, not from one server.
        self.assertGreater(b["bytes_up"].sum(), a["bytes_up"].sum())

    def test_a_window_is_named_by_two_numbers(self):
        a = self.table(self.fusion("named"))
        b = self.table(self.fusion("listed", "--method.submodel=rolling", "--method.widths=0.5"))
        # Of rolling windows the units are listed; both have widths of one half.
        self.assertEqual(a["parameters"].max(), b["parameters"].max())
        self.assertLess(a["bytes_down"].max(), b["bytes_down"].max())

    def test_peers_that_do_not_fit_are_left_out(self):
        moon = ("--method.name=moon", "--model.projection=6", "--run.rounds=3", "--clients.fleet=7*fast")
        room = self.column(self.run_ok("alone", *moon), "peak_bytes").max()
        peers = ("--method.negatives=peers", "--method.peers=3")
        wide = self.table(self.run_ok("wide", *moon, *peers))
        self.assertGreater(wide["peak_bytes"].max(), 1.1 * room)
        narrow = self.table(self.run_ok("narrow", *moon, *peers, f"--device.fast.memory_mb={1.1 * room / 1e6}"))
        self.assertTrue((narrow["outcome"] == b"merged").all())
        self.assertLessEqual(narrow["peak_bytes"].max(), 1.1 * room)
        self.assertLess(narrow["bytes_down"].max(), wide["bytes_down"].max())

    def test_tiny_input(self):
        done = self.espalier("run", os.path.join(INPUTS, "tiny.ini"), ranks=2)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        tasks = self.table(self.path("runs", "msfusion-tiny"))
        self.assertTrue((tasks["outcome"] == b"merged").all())
        self.assertTrue((tasks["peak_bytes"] > 0).all())
        # Participants that were here before have a previous model: two more forward passes.
        samples = self.column(self.path("runs", "msfusion-tiny"), "samples", "clients")
        work = tasks["flops"] / samples[tasks["client"]]
        self.assertGreater(work.max(), 1.5 * work.min())

    @unittest.skipUnless(os.path.exists(DATA), "no CIFAR-10 in $ESPALIER_DATA")
    def test_cifar_input_trains(self):
        done = self.espalier("run", os.path.join(INPUTS, "cifar10.ini"), "--run.rounds=2", "--data.train_limit=600",
                             "--data.test_limit=50", "--train.steps=1")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue((self.column(self.path("runs", "msfusion-cifar10"), "outcome") == b"merged").all())

    def test_bad_input(self):
        refuse = lambda words, *settings: self.assert_refused(2, words, "run", self.input, *FUSION, *settings)
        refuse("rates are above 0", "--method.split_rate=0")
        refuse("2 rates for clients.count = 7", "--method.split_rate=0.5,0.25")
        refuse("set clients.per_round = 0", "--method.split_rate=0.5,0.5,0.5,0.5,0.5,0.5,0.5", "--clients.per_round=2")
        refuse("set method.exchange = served", "--method.exchange=peers", "--clients.per_round=2")
        refuse("set method.exchange = served", "--method.exchange=peers", "--method.overlap_schedule=plateau")
        refuse("may keep values on a server", "--method.exchange=peers", "--method.merge=control_variates", "--method.objective=control_variates")
        refuse("is a step of a server", "--method.exchange=peers", "--method.server_optimizer=adam")
        refuse("set method.exchange = served", "--method.exchange=peers", "--method.negatives=peers")
        refuse("choose other negatives", "--method.personal=head", "--method.negatives=peers")
        refuse("method.window = semi_async contradicts it", "--method.exchange=peers", "--method.window=semi_async")
        refuse("-1 chooses the largest", "--method.overlap_start=-0.5")
        refuse("method.temperature", "--method.temperature=0")
        refuse("clients.time_fit = width", "--clients.time_fit=width")
        self.assertFalse(os.path.exists(self.path("runs")))


if __name__ == "__main__":
    unittest.main()
