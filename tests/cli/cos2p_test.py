"""Co-S2P in whole runs: the promises of its parts, and the same values on any number of ranks and after a kill."""

import os
import unittest

import numpy as np

from support import ProgramTest

# Four classifiers, four classes of clients, skewed labels.
SETTINGS = (
    "--method.name=cos2p", "--data.synthetic_shape=3,8,8", "--data.synthetic_samples=320", "--data.partition=dirichlet",
    "--data.alpha=0.5", "--clients.count=8", "--clients.fleet=4*fast,4*slow", "--model.name=vit", "--model.embed=24", "--model.heads=2",
    "--model.depth=4", "--model.patch=2", "--model.exits=4", "--method.mask_epochs=1", "--method.mask_lr=0.05",
    "--method.kd_start=2", "--train.epochs=1", "--train.lr=0.002", "--run.rounds=6")


class CoS2P(ProgramTest):
    def run_it(self, name, *settings, **more):
        return self.run_ok(name, *SETTINGS, *settings, **more)

    def test_same_values_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                (),
                ("--method.mask_choice=sampled", "--method.remask_every=2", "--window.grace_s=0"),
                ("--method.widths=0.5,0.25", "--method.masks=magnitude", "--window.min_updates=3"))):
            with self.subTest(settings=more):
                more = ("--checkpoint.every=1", *more)
                one = self.run_it(f"{number}-1", *more)
                for ranks in (2, 3, 5) if number == 1 else (3,):
                    self.assert_same(one, self.run_it(f"{number}-{ranks}", *more, ranks=ranks))
                for point, ranks in (("round.merged:3", 3), ("client.step:40", 2)):
                    name = f"{number}-{point.split(':')[0]}"
                    done = self.espalier("run", self.input, f"--run.name={name}", *SETTINGS, *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                    self.assert_same(one, self.run_it(name, *more, ranks=ranks))

    def test_the_loss_of_a_round_is_weighted_by_the_samples_that_were_trained_on(self):
        run = self.run_it("loss", "--method.widths=1,0.5", "--window.grace_s=0", "--window.min_updates=4",
                          "--method.mask_epochs=3", "--train.batch=7")
        tasks, owned = self.table(run), self.column(run, "samples", "clients")
        searches = tasks["search_peak_bytes"] > 0
        # A search makes three passes over the client's samples and records no loss.
        trained = tasks["samples"] - 3 * owned[tasks["client"]] * searches
        rounds = self.table(run, "rounds")
        differs = False
        for version, loss in zip(rounds["version"], rounds["train_loss"]):
            merged = tasks["merged_version"] == version
            right = np.average(tasks["train_loss"][merged], weights=trained[merged])
            self.assertAlmostEqual(loss / right, 1, places=12)
            seen = np.average(tasks["train_loss"][merged], weights=tasks["samples"][merged])
            differs |= abs(seen / right - 1) > 1e-4
        self.assertTrue(searches.any() and not searches.all() and differs)

    def test_clocks_of_real_time(self):
        for clock in ("paced", "measured"):
            run = self.run_it(clock, f"--clock.kind={clock}", "--run.rounds=3", "--method.mask_choice=sampled",
                              "--window.grace_s=0.1", ranks=3)
            self.assertEqual(len(self.column(run, "round", "rounds")), 3)

    def test_uniform_weights_and_full_clients_are_fedavg(self):
        common = ("--method.widths=1", "--method.window=synchronous", "--method.objective=cross_entropy")
        ours = self.run_it("ours", *common, "--method.importance=false", "--method.capability=false")
        fedavg = self.run_it("fedavg", *common, "--method.submodel=full", "--method.merge=average",
                             "--method.weighting=uniform")
        ours, fedavg = self.model(ours), self.model(fedavg)
        for name, values in ours.items():
            np.testing.assert_array_equal(values, fedavg[name], err_msg=name)

    def test_clients_that_do_not_learn_leave_the_model_alone(self):
        still = ("--train.lr=0", "--method.merge=importance_drift")
        first = self.model(self.run_it("first", *still, "--run.rounds=1"))
        last = self.model(self.run_it("last", *still, "--run.rounds=5"))
        for name, values in first.items():
            np.testing.assert_array_equal(values, last[name], err_msg=name)

    def test_parameters_without_a_holder_stay_and_every_kept_classifier_moves(self):
        common = ("--method.widths=0.5", "--method.rotate_depth=false")
        before = self.model(self.run_it("a", *common, "--train.lr=0", "--run.rounds=1"))
        after = self.model(self.run_it("b", *common))
        for name, values in before.items():
            held = not name.startswith(("blocks.2", "blocks.3", "exits.2", "norm.", "head."))
            self.assertEqual(bool(np.any(values != after[name])), held, name)

    def test_without_a_client_of_full_depth_all_blocks_are_trained_in_turn(self):
        run = self.run_it("turns", "--method.widths=0.5", "--method.window=synchronous")
        before = self.model(self.run_it("a", "--train.lr=0", "--method.widths=0.5", "--run.rounds=1"))
        after = self.model(run)
        for name, values in before.items():
            if name.endswith("weight"):
                self.assertTrue(np.any(values != after[name]), name)

    def test_records(self):
        run = self.run_it("records", "--window.grace_s=0", "--run.rounds=10")
        tasks = self.table(run)
        merged = tasks["outcome"].astype(str) == "merged"
        for version in np.unique(tasks["merged_version"][merged]):
            weights = tasks["weight"][merged & (tasks["merged_version"] == version)]
            self.assertAlmostEqual(weights.sum(), 1, places=9)
        # Clients that were not merged continued to train: their update arrived later, with its old base version.
        stale = merged & (tasks["staleness"] > 0)
        self.assertTrue(stale.any())
        np.testing.assert_array_equal(tasks["staleness"][merged],
                                      tasks["merged_version"][merged] - 1 - tasks["base_version"][merged])
        # Every update once; two searches of each client below full capability, none of the others.
        self.assertEqual(len(np.unique(tasks["task"])), len(tasks["task"]))
        answered = merged | (tasks["outcome"].astype(str) == "dropped_stale")
        for client in np.unique(tasks["client"]):
            own = answered & (tasks["client"] == client)
            searched = tasks["search_peak_bytes"][own] > 0
            wanted = 0 if tasks["share"][own][0] == 1 else 2
            self.assertEqual(list(searched), [number < wanted for number in range(len(searched))])
        self.assertTrue(np.all(tasks["peak_bytes"] >= tasks["search_peak_bytes"]))
        # Once the mask is known, a small client gets a small submodel, and needs less memory and fewer bytes down.
        small = answered & (tasks["share"] == 0.25)
        for client in np.unique(tasks["client"][small]):
            own = np.flatnonzero(small & (tasks["client"] == client))
            if len(own) < 3:
                continue
            self.assertLess(tasks["bytes_down"][own[2]], 0.8 * tasks["bytes_down"][own[0]])
            self.assertLess(tasks["peak_bytes"][own[2]], 0.8 * tasks["peak_bytes"][own[0]])
            self.assertEqual(tasks["parameters"][own[0]], tasks["parameters"][own[2]])

    def test_memory_fit_counts_the_search(self):
        cap = ("--clients.memory_fit=width", "--device.fast.memory_mb=1.2", "--device.slow.memory_mb=1.2")
        run = self.run_it("fit", *cap)
        tasks = self.table(run)
        self.assertNotIn("out_of_memory", tasks["outcome"].astype(str))
        share = np.unique(tasks["share"])
        self.assertEqual(len(share), 1)
        self.assertLess(share[0], 1)
        self.assertGreater(tasks["search_peak_bytes"].max(), 0.7 * 1.2e6)

    def test_a_client_without_the_memory_for_its_search_runs_out(self):
        fits = self.table(self.run_it("fits", "--method.widths=0.5"))
        cap = fits["search_peak_bytes"].max() * 1e-6 - 0.001
        done = self.espalier("run", self.input, *SETTINGS, "--method.widths=0.5",
                             f"--device.fast.memory_mb={cap}", f"--device.slow.memory_mb={cap}")
        self.assertEqual(done.returncode, 6, done.stdout + done.stderr)

    def test_local_tests_of_what_was_sent(self):
        run = self.run_it("local", "--data.local_test=0.2", "--train.lr=0")
        tasks = self.table(run)
        tested = np.isfinite(tasks["local_top1"])
        answered = tasks["outcome"].astype(str) == "merged"
        np.testing.assert_array_equal(tested[answered], tasks["search_peak_bytes"][answered] == 0)
        self.assertTrue(np.all((tasks["local_top1"][tested] >= 0) & (tasks["local_top1"][tested] <= 1)))
        # The model does not change, so the search of a client with the full model gives the same result each time.
        for client in np.unique(tasks["client"][tested & (tasks["share"] == 1)]):
            own = tested & (tasks["client"] == client)
            self.assertEqual(len(np.unique(tasks["local_loss"][own])), 1)

    def test_every_classifier_is_evaluated(self):
        found = self.table(self.run_it("exits"), "evaluations")
        sets = found["set"].astype(str)
        self.assertEqual(sorted(set(sets)), ["exit 1", "exit 2", "exit 3", "mean of exits", "test"])
        for name in set(sets):
            self.assertEqual(list(found["version"][sets == name]), list(range(1, 7)))
        self.assertEqual(len(set(found["loss"][found["version"] == 6])), 5)

    def test_relatives(self):
        depth = self.run_it("depth", "--method.name=depthfl", "--window.min_updates=0")
        sizes = self.table(depth)["parameters"]
        self.assertEqual(len(np.unique(sizes)), 4)
        fedavg = self.model(self.run_it("fedavg", "--method.name=fedavg", "--model.exits=1", "--method.weighting=uniform"))
        neutral = {"depthfl": ("--method.merge=average", "--method.weighting=uniform", "--method.dynamic_alpha=0"), "ramfed": ("--method.weighting=uniform",),
                   "prunefl": ("--method.weighting=uniform",),
                   "fjord": ("--method.weighting=uniform", "--method.ordered_widths=1")}
        for method, more in neutral.items():
            run = self.run_it(f"neutral-{method}", f"--method.name={method}", "--model.exits=1", "--method.widths=1", *more)
            for name, values in self.model(run).items():
                np.testing.assert_array_equal(values, fedavg[name], err_msg=f"{method} {name}")
        fjord = ("--method.name=fjord", "--model.exits=1")
        self.assert_same(self.run_it("fjord-1", *fjord), self.run_it("fjord-3", *fjord, ranks=3))
        # Rules with state: the same values after a kill.
        known = ("--method.name=ramfed", "--method.merge=last_known", "--method.stagger_roll=true", "--model.exits=1",
                 "--method.widths=1,0.5")
        remembering = {"known": known, "feddyn": ("--method.name=feddyn",), "depthfl": ("--method.name=depthfl",)}
        for name, words in remembering.items():
            words += ("--checkpoint.every=1",)
            one = self.run_it(f"{name}-1", *words)
            done = self.espalier("run", self.input, f"--run.name={name}-3", *SETTINGS, *words, ranks=3,
                                 env={"ESPALIER_KILL_AT": "round.merged:4"})
            self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
            self.assert_same(one, self.run_it(f"{name}-3", *words, ranks=2))

    def test_the_inputs_of_the_paper(self):
        inputs = os.path.join(os.environ["ESPALIER_INPUTS"], "cos2p")
        for name in ("paper-vit-b16.ini", "laptop-cifar10.ini", "laptop-agnews.ini"):
            done = self.espalier("run", os.path.join(inputs, name), "--check")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("while it searches", done.stdout)
            self.assertNotIn("too little memory", done.stdout)

    def test_bad_input(self):
        self.assert_refused(2, "masked_depth: model.name = mlp", "run", self.input, *SETTINGS, "--model.name=mlp",
                            "--model.exits=1")
        self.assert_refused(2, "method.levels = fixed", "run", self.input, *SETTINGS, "--method.levels=dynamic")
        self.assert_refused(2, "one classifier only", "run", self.input, *SETTINGS, "--model.name=mlp")


if __name__ == "__main__":
    unittest.main()
