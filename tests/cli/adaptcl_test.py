"""AdaptCL in whole runs: times that become equal, one order of units, and the same values on any number of ranks and
after a kill, also with the parts of other methods."""

import os
import signal
import unittest

import h5py
import numpy as np
import torch

from support import ProgramTest

# Three groups of clients: the slow links need 6 and 3 times as long as the fast one.
SETTINGS = (
    "--method.name=adaptcl", "--method.prune_every=3", "--run.rounds=18", "--method.prune_until=1",
    "--data.synthetic_shape=1,8,8", "--data.synthetic_samples=140", "--data.partition=iid", "--data.synthetic_noise=1",
    "--model.name=cnn", "--model.kernel=3", "--model.channels=12,16", "--model.features=64", "--model.norm=batch",
    "--clients.count=7", "--clients.fleet=2*fast,3*middle,2*slow", "--device.fast.down_mbps=1", "--device.fast.up_mbps=1",
    "--device.middle.down_mbps=0.4", "--device.middle.up_mbps=0.4", "--device.slow.down_mbps=0.15",
    "--device.slow.up_mbps=0.15", "--device.middle.gflops=2", "--device.slow.gflops=2")


class AdaptCL(ProgramTest):
    def run_it(self, name, *settings, **more):
        return self.run_ok(name, *SETTINGS, *settings, **more)

    def update_times(self, run):
        """Returns [round, client] of a synchronous run, in seconds."""
        tasks = self.table(run)
        order = np.lexsort((tasks["client"], tasks["base_version"]))
        time = tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"]
        return time[order].reshape(-1, 7), tasks["parameters"][order].reshape(-1, 7)

    def test_every_update_time_ends_near_the_fastest(self):
        time, parameters = self.update_times(self.run_it("times"))
        self.assertGreater(time[0].max() / time[0].min(), 5)
        self.assertLessEqual(time[-1].max(), 1.1 * time[-1].min() * 1.001)
        self.assertTrue((parameters[:, :2] == parameters[0, 0]).all())  # the fastest clients keep the whole model
        self.assertTrue((np.diff(parameters, axis=0) <= 0).all())
        self.assertTrue((parameters[:3] == parameters[0, 0]).all())
        # Submodels stay from one change to the next, and never lose more than half at once.
        for begin in range(0, 18, 3):
            self.assertTrue((parameters[begin:begin + 3] == parameters[begin]).all())
        self.assertGreaterEqual((parameters[3:] / parameters[:-3]).min(), 0.45)

    def test_a_submodel_is_named_by_one_number(self):
        tasks = self.table(self.run_it("names", "--method.layer_floor=0.3"))
        description = tasks["bytes_down"] - 4 * tasks["parameters"]
        first_changed = {}
        for row in np.lexsort((tasks["base_version"], tasks["client"])):
            client = tasks["client"][row]
            if tasks["parameters"][row] == tasks["parameters"].max():
                self.assertEqual(description[row], description[0])
            elif client not in first_changed:
                first_changed[client] = description[row]  # with the order, four bytes for each unit that can go
                units = sum(n - int(np.ceil(0.3 * n)) for n in (12, 16, 64))
                self.assertEqual(description[row], description[0] + 4 * units)
            else:
                self.assertEqual(description[row], description[0])
        self.assertEqual(sorted(first_changed), [2, 3, 4, 5, 6])

    def test_orders_of_layers_and_of_clients(self):
        """Of the order's first units each layer has its share, in every prefix, or not; all clients have one order, or not."""
        widths = np.array((12, 16, 64))
        for score in "scale", "taylor", "random":
            for scope in "layer", "global":
                seen = set()
                for shared in "true", "false":
                    run = self.run_it(f"{score}-{scope}-{shared}", "--run.rounds=3", "--method.prune_every=2", "--train.steps=1",
                                      f"--method.order={score}", f"--method.order_scope={scope}", f"--method.order_shared={shared}")
                    with h5py.File(self.checkpoint(run)) as file:
                        rule = file["server/submodel_rule"]
                        orders = [rule[name][()].view("<i8").reshape(-1, 2) for name in rule if name.startswith("order_")]
                    self.assertEqual(len(orders), 1 if shared == "true" else 7)
                    # The one order for all is none of those that the clients would have: it is of all updates.
                    seen |= {order.tobytes() for order in orders}
                    self.assertEqual(len(seen), len(orders) + (shared == "false"))
                    for order in orders:
                        self.assertEqual(len(np.unique(order, axis=0)), sum(n - np.ceil(0.05 * n) for n in widths))
                        gone = np.cumsum(order[:, :1] == np.unique(order[:, 0]), axis=0)[:60] / widths
                        self.assertEqual((np.ptp(gone, axis=1) <= 1 / 12 + 1e-9).all(), scope == "layer", f"{score} {scope} {shared}")

    def test_without_pruning_it_is_fedavg(self):
        fedavg = self.run_it("fedavg", "--method.name=fedavg", "--train.group_lasso=0.0001")  # adaptcl's default
        for settings in (("--method.prune_every=1000",), ("--method.prune_least=0.999",),
                         ("--method.prune_until=0", "--method.merge=by_worker")):
            ours = self.run_it("ours" + settings[0][8:], *settings)
            for name, values in self.model(fedavg).items():
                if "by_worker" in settings[-1]:
                    np.testing.assert_allclose(self.model(ours)[name], values, rtol=1e-6, atol=1e-9, err_msg=name)
                else:
                    np.testing.assert_array_equal(self.model(ours)[name], values, err_msg=name)

    def test_same_values_on_any_number_of_ranks_and_after_a_kill(self):
        for number, more in enumerate((
                (),
                ("--method.order=taylor", "--method.order_shared=false", "--method.order_constant=false",
                 "--train.optimizer=sgd", "--train.momentum=0.9", "--train.optimizer_state=keep"),
                ("--method.window=semi_async", "--method.merge=importance_drift", "--method.order=median",
                 "--method.prune_target=fastest", "--method.prune_regrow=true", "--method.prune_points=3"),
                ("--method.order=random", "--method.order_scope=layer", "--method.merge=by_worker",
                 "--clients.per_round=4", "--device.slow.memory_mb=0.4", "--faults.crash=0.1"))):
            with self.subTest(settings=more):
                more = ("--checkpoint.every=1", "--run.rounds=12", *more)
                one = self.run_it(f"{number}-1", *more)
                for ranks in (2, 3, 5) if number == 1 else (3,):
                    self.assert_same(one, self.run_it(f"{number}-{ranks}", *more, ranks=ranks))
                for point, ranks in (("round.merged:7", 3), ("client.step:40", 2)):
                    name = f"{number}-{point.split(':')[0]}"
                    done = self.espalier("run", self.input, f"--run.name={name}", *SETTINGS, *more, ranks=3,
                                         env={"ESPALIER_KILL_AT": point})
                    self.assertEqual(done.returncode, 137, done.stdout + done.stderr)
                    self.assert_same(one, self.run_it(name, *more, ranks=ranks))

    def test_a_kill_after_the_first_round_of_an_interval(self):
        """Some clients work in that round alone, so that their size follows from a time that the checkpoint must have."""
        more = ("--checkpoint.every=1", "--run.rounds=8", "--method.prune_every=2", "--clients.per_round=3")
        one = self.run_it("one", *more)
        tasks = self.table(one)
        changed = set()
        for client in range(7):
            worked = set(tasks["base_version"][tasks["client"] == client])
            if worked & {2, 3} == {2}:
                after = tasks["parameters"][(tasks["client"] == client) & (tasks["base_version"] >= 4)]
                changed |= {client} if len(after) and after[0] < tasks["parameters"].max() else set()
        self.assertTrue(changed)
        done = self.espalier("run", self.input, "--run.name=killed", *SETTINGS, *more, env={"ESPALIER_KILL_AT": "round.merged:3"})
        self.assertEqual(done.returncode, -signal.SIGKILL, done.stdout + done.stderr)
        self.assert_same(one, self.run_it("killed", *more))

    def test_a_memory_cap_is_kept_from_the_first_task_on(self):
        whole = self.table(self.run_it("whole", "--run.rounds=1"))["peak_bytes"].max()
        cap = whole * 0.7
        # A fast client is not made smaller for its time, so after the ranking too only its memory counts.
        for device, first, last in (("slow", 5, 6), ("fast", 0, 1)):
            run = self.run_it(device, f"--device.{device}.memory_mb={cap / 1e6:.6f}", "--train.optimizer_state=keep",
                              "--train.momentum=0.9")
            tasks = self.table(run)
            capped = (tasks["client"] >= first) & (tasks["client"] <= last)
            self.assertTrue((tasks["peak_bytes"][capped] <= cap).all(), device)
            self.assertTrue((tasks["parameters"][capped] < tasks["parameters"].max()).all(), device)
            self.assertFalse((tasks["outcome"] != b"merged").any(), device)
            self.assertGreater(tasks["peak_bytes"][capped].max(), 0.5 * cap, device)
        self.assert_refused(2, "too little for the smallest submodel", "run", self.input, *SETTINGS, "--run.name=x",
                            "--device.slow.memory_mb=0.01")

    def test_no_change_goes_below_the_floor(self):
        # The slow clients would need 0.14, and one unit of conv2 is 0.02 of the parameters.
        for learning in ("newton", "ideal"):
            tasks = self.table(self.run_it(learning, f"--method.prune_learning={learning}", "--method.prune_floor=0.4"))
            slowest = tasks["share"][tasks["client"] == 6].min()
            self.assertGreaterEqual(slowest, 0.4, learning)
            self.assertLess(slowest, 0.43, learning)

    def test_a_new_order_does_not_change_the_sizes(self):
        # Random orders, because they differ most. One unit is at most 0.035 of the parameters.
        ranked = ("--method.order=random", "--method.order_constant=false", "--method.prune_every=1")
        _, parameters = self.update_times(self.run_it("ranked", "--run.rounds=26", *ranked))
        share = parameters / parameters.max()
        self.assertLess(share[8, 2:5].max(), 0.5)
        self.assertLess(np.abs(share[20:].mean(axis=0) - share[8:14].mean(axis=0)).max(), 0.02)
        # Each task of a slow client lasts several versions, and its order is an older one than the server's.
        tasks = self.table(self.run_it("asynchronous", "--method.window=asynchronous", "--run.rounds=120", *ranked))
        for client in range(2, 7):
            self.assertLess(tasks["share"][tasks["client"] == client].min(), 0.5, client)

    def test_an_oracle_reaches_the_times_at_the_first_change(self):
        time, parameters = self.update_times(self.run_it("oracle", "--method.prune_learning=ideal"))
        self.assertTrue((time[4:].max(axis=1) <= time[4:].min(axis=1) * 1.002).all() or
                        (time[4:].max(axis=1) <= time[0].min() * 1.000001).all())
        self.assertTrue((parameters[3:] == parameters[3]).all())
        learned, _ = self.update_times(self.run_it("learned"))
        self.assertGreater(learned[3].max(), 1.2 * time[4].max())

    def test_kept_momentum_moves_with_its_parameters(self):
        """Every version from 2 on equals PyTorch's: each client's momentum covers its own submodel, and units that come
        back with a new order start from zero. All samples are equal, so neither their order nor their owner matters."""
        count, classes, lr, momentum, rounds, every = (14, 10), 4, 0.01, 0.9, 10, 2
        image = np.random.default_rng(1).standard_normal((1, 7)).astype(np.float32)
        with h5py.File(self.path("equal.h5"), "w") as file:
            file["x"], file["y"] = np.repeat(image, 40, 0), np.full(40, 2)
        inputs, label = torch.tensor(image, dtype=torch.double), torch.tensor([2])
        run = self.run_ok(
            "momentum", "--method.name=adaptcl", f"--method.prune_every={every}", "--method.prune_until=1",
            "--method.order=random", "--method.order_constant=false", "--data.name=arrays",
            "--data.file=" + self.path("equal.h5"), f"--data.classes={classes}", "--data.partition=iid",
            "--method.weighting=uniform", "--model.hidden=14,10", "--clients.count=3", "--clients.fleet=fast,2*slow",
            "--device.fast.down_mbps=1", "--device.fast.up_mbps=1", "--device.slow.down_mbps=0.4",
            "--device.slow.up_mbps=0.3", "--train.batch=100", f"--train.lr={lr}", f"--train.momentum={momentum}",
            "--train.optimizer_state=keep", "--train.group_lasso=0", f"--run.rounds={rounds}", "--checkpoint.every=1",
            "--checkpoint.keep=100")

        def checkpoint(version):
            return h5py.File(os.path.join(run, "checkpoints", f"ckpt_{version:08d}.h5"))

        sizes = (7, *count, classes)
        shapes = {f"fc{i}.{part}": (sizes[i],) if part == "bias" else (sizes[i], sizes[i - 1])
                  for i in (1, 2, 3) for part in ("weight", "bias")}

        def model(version):
            with checkpoint(version) as file:
                return {name: torch.tensor(file["model"][name][()].reshape(shape), dtype=torch.double)
                        for name, shape in shapes.items()}

        def masks(kept):
            units = [torch.ones(7), *kept, torch.ones(classes)]
            return {name: (units[int(name[2])] if name.endswith("bias") else
                           torch.outer(units[int(name[2])], units[int(name[2]) - 1])).double() for name in shapes}

        def gradients(weights, kept):
            part = {name: (values * masks(kept)[name]).requires_grad_() for name, values in weights.items()}
            hidden = inputs
            for i in (1, 2, 3):
                hidden = hidden @ part[f"fc{i}.weight"].T + part[f"fc{i}.bias"]
                hidden = hidden if i == 3 else torch.relu(hidden)
            torch.nn.functional.cross_entropy(hidden, label).backward()
            return {name: values.grad for name, values in part.items()}

        tasks = self.table(run)
        weights, whole = model(1), [torch.ones(n) for n in count]
        first = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for _ in range(200):  # version 0 is not on disk: weights + lr x its gradient
            first = gradients({name: weights[name] + lr * first[name] for name in shapes}, whole)
        state = [first] * 3
        for version in range(1, rounds):
            order = []
            if version >= every:
                with checkpoint(version - version % every) as file:
                    code = file["server/submodel_rule/order_0"][()].view("<i8").reshape(-1, 2)
                order = [(int(axis != code[:, 0].min()), unit) for axis, unit in code]
            total, holders = ({name: torch.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
            for client in range(3):
                kept, rest = [units.clone() for units in whole], iter(order)
                mine = tasks["parameters"][(tasks["client"] == client) & (tasks["base_version"] == version)][0]
                while sum(int(mask.sum()) for mask in masks(kept).values()) > mine:
                    axis, unit = next(rest)
                    kept[axis][unit] = 0
                gradient, mask = gradients(weights, kept), masks(kept)
                state[client] = {name: (momentum * state[client][name] + gradient[name]) * mask[name] for name in shapes}
                for name in shapes:
                    total[name] = total[name] + mask[name] * (weights[name] - lr * state[client][name])
                    holders[name] = holders[name] + mask[name]
            weights = {name: torch.where(holders[name] > 0, total[name] / holders[name].clamp(min=1), weights[name])
                       for name in shapes}
            for name in shapes:
                np.testing.assert_allclose(model(version + 1)[name], weights[name], rtol=0, atol=1e-6, err_msg=name)
            self.assertGreater((model(version + 1)["fc1.weight"] - model(version)["fc1.weight"]).abs().max(), 1e-3)
        self.assertLess(tasks["parameters"].min(), 0.5 * tasks["parameters"].max())

    def test_widths_by_time(self):
        run = self.run_it("widths", "--method.name=heterofl", "--clients.time_fit=width", "--method.masked_loss=false")
        time, _ = self.update_times(run)
        fastest = time[0].min()
        self.assertTrue((time <= time[0, 0] * 1.000001).all())
        self.assertGreater(fastest, 0.9 * time[0].max())
        self.assert_refused(2, "clients.time_fit", "run", self.input, *SETTINGS, "--run.name=y", "--clients.time_fit=width")


if __name__ == "__main__":
    unittest.main()
