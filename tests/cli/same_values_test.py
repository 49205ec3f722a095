"""The results of a run are equal, bit for bit, on any number of ranks, and when run twice."""

import sys
import unittest

sys.path.insert(0, __import__("os").path.dirname(__file__))
from support import ProgramTest  # noqa: E402


class SameValues(ProgramTest):
    def on_all_rank_counts(self, *settings):
        reference = self.run_ok("one", *settings)
        for ranks in (2, 3, 5):
            self.assert_same(reference, self.run_ok(f"on{ranks}", *settings, ranks=ranks))
        self.assert_same(reference, self.run_ok("again", *settings, ranks=3))

    def test_fedavg(self):
        self.on_all_rank_counts()

    def test_heterofl_with_sampled_clients(self):
        self.on_all_rank_counts("--method.name=heterofl", "--clients.per_round=3")

    def test_fedrolex_asynchronous_window(self):
        # More widths than payloads that a rank keeps.
        self.on_all_rank_counts("--method.name=fedrolex", "--window.min_updates=2",
                                "--method.widths=1,0.9,0.8,0.6,0.5,0.3,0.2",
                                "--window.release=arrival", "--run.rounds=8")

    def test_batch_norm_cnn(self):
        self.on_all_rank_counts("--model.name=cnn", "--model.channels=4,8", "--model.features=16",
                                "--model.norm=batch")

    def test_sparse_training(self):
        self.on_all_rank_counts("--model.name=cnn", "--model.channels=4,8", "--model.features=16",
                                "--model.norm=batch", "--method.name=fedrolex", "--train.group_lasso=0.01",
                                "--train.scale_l1=0.01")

    def test_capped_clients_fail_alike(self):
        self.on_all_rank_counts("--device.slow.memory_mb=0.02")

    def test_another_seed_differs(self):
        a = self.run_ok("a")
        b = self.run_ok("b", "--run.seed=2")
        compared = self.espalier("diff", "--values", self.checkpoint(a), self.checkpoint(b))
        self.assertEqual(compared.returncode, 1)
        self.assertIn("model", compared.stdout)

    def test_the_environment_does_not_matter(self):
        own = ("--model.hidden=90,70", "--run.rounds=2")
        one = self.run_ok("one", *own)
        for i, env in enumerate(({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}, {"MKL_CBWR": "COMPATIBLE"},
                                 {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"})):
            self.assert_same(one, self.run_ok(f"other{i}", *own, env=env))


class NeutralSettings(ProgramTest):
    """Methods at their neutral settings equal FedAvg bit for bit (values; the attributes differ)."""

    def equal_to_fedavg(self, *settings):
        self.assert_same(self.run_ok("fedavg"), self.run_ok("other", *settings), "--values")

    def test_fedprox_without_pull_has_the_same_model(self):
        fedavg = self.run_ok("fedavg")
        other = self.run_ok("other", "--method.name=fedprox", "--method.mu=0")
        compared = self.espalier("diff", "--values", self.checkpoint(fedavg), self.checkpoint(other))
        self.assertEqual(compared.returncode, 0, compared.stdout)

    def test_heterofl_at_full_width(self):
        self.equal_to_fedavg("--method.name=heterofl", "--method.widths=1", "--method.scaler=false",
                             "--method.masked_loss=false")

    def test_fedrolex_at_full_width(self):
        self.equal_to_fedavg("--method.name=fedrolex", "--method.widths=1", "--method.scaler=false",
                             "--method.masked_loss=false")

    def test_rules_mix(self):
        self.run_ok("mixed", "--method.name=fedprox", "--method.submodel=rolling")


if __name__ == "__main__":
    unittest.main()
