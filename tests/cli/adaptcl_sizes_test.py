"""The sizes of AdaptCL's submodels in whole runs are those that NumPy computes from the recorded times, by the formulas of
docs/methods/adaptcl.md ("How the sizes are learned"): in noise, with partial participation, crashes, links that change, and an
asynchronous window, in which updates of earlier sizes arrive."""

import unittest

import h5py
import numpy as np

from support import ProgramTest

CHANNELS, CLASSES = (8, 12, 24), 10  # two convolutions and the layer of features
SETTINGS = (
    "--method.name=adaptcl", "--data.synthetic_shape=1,8,8", "--data.synthetic_samples=140", "--data.partition=iid",
    "--model.name=cnn", "--model.kernel=3", "--model.channels=8,12", "--model.features=24", "--model.norm=batch",
    "--clients.count=7", "--clients.fleet=2*fast,3*middle,2*slow", "--train.steps=1", "--record.evaluate_every=1000",
    *(f"--device.{name}.{way}_mbps={rate}" for name, rate in (("fast", 1), ("middle", 0.4), ("slow", 0.15))
      for way in ("down", "up")))
DEFAULTS = {"prune_every": 2, "prune_until": 1, "prune_target": "anchored", "prune_points": 2, "prune_tolerance": 0.1,
            "prune_aim": 0.5, "prune_largest": 0.5, "prune_least": 0.02, "prune_floor": 0.1, "prune_regrow": "false"}
LATE = {"faults.late": 0.4, "faults.late_factor": 1.3}


def newton(points, x):
    """The value at x of the polynomial through the points (time, retention)."""
    times, row = [time for time, _ in points], [retention for _, retention in points]
    value, product = 0.0, 1.0
    for k in range(len(points)):
        value += row[0] * product
        product *= x - times[k]
        row = [(row[i + 1] - row[i]) / (times[i + k + 1] - times[i]) for i in range(len(row) - 1)]
    return value


class Server:
    """What the page says the server knows of the clients, one list item each."""

    def __init__(self, settings, clients):
        self.settings = settings
        self.points = [[] for _ in range(clients)]
        self.is_pruned = [False] * clients
        self.fast = [0] * clients

    def target(self, retention):
        known = [client for client, points in enumerate(self.points) if points]
        if self.settings["prune_target"] == "anchored":
            never = [client for client in known if not self.is_pruned[client]]
            known = [client for client in never if retention[client] == 1] or never
        return min(self.points[client][-1][0] for client in known)

    def change(self, times, retention):
        """Returns the wanted retention of each client: its own if it stays as it is."""
        s = self.settings
        for client, time in times.items():
            self.points[client].append((time, retention[client]))
        wanted, target = list(retention), self.target(retention)
        for client, time in times.items():
            own = retention[client]
            self.fast[client] = self.fast[client] + 1 if time < target / 1.5 else 0
            is_slow = time > target * (1 + s["prune_tolerance"])
            grows = s["prune_regrow"] == "true" and self.fast[client] == 3
            if not is_slow and not grows:
                continue
            aim = target * (1 + s["prune_aim"] * s["prune_tolerance"]) if is_slow else target
            used = []
            for t, g in reversed(self.points[client]):
                if len(used) < s["prune_points"] and all(abs(t - a) > 1e-6 * a and g != b for a, b in used):
                    used.append((t, g))
            next_size = newton(used, aim) if len(used) > 1 else np.nan
            if not (0 < next_size < own if is_slow else next_size > own):
                next_size = own * aim / time
            if grows:
                wanted[client] = min(next_size, own / (1 - s["prune_largest"]), 1)
                self.fast[client] = 0
                continue
            rate = min(1 - next_size / own, s["prune_largest"], 1 - s["prune_floor"] / own)
            if rate >= s["prune_least"]:
                wanted[client], self.is_pruned[client] = own * (1 - rate), True
        return wanted


def trained_parameters(removed):
    """Of the network without this number of units of each layer: weights, biases, scales and shifts."""
    a, b, c = (count - gone for count, gone in zip(CHANNELS, removed))
    return (9 * a + 3 * a) + (9 * a * b + 3 * b) + (4 * b * c + 3 * c) + (c * CLASSES + CLASSES)


class Sizes(ProgramTest):
    def check(self, name, rounds, changed, more):
        """Compares each choice in a run with these settings of the method; returns the numbers of cuts and of enlargements."""
        settings = {**DEFAULTS, **changed}
        run = self.run_ok(name, *SETTINGS, f"--run.rounds={rounds}", "--run.seed=3",
                          *(f"--method.{key}={value}" for key, value in settings.items()),
                          *(f"--{key}={value}" for key, value in more.items()))
        tasks = self.table(run)
        time = tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"]
        with h5py.File(self.checkpoint(run)) as file:
            order = file["server/submodel_rule/order_0"][()].view("<i8").reshape(-1, 2)[:, 0]
        axes = np.unique(order)
        # Retention of each prefix of the order.
        sizes = np.array([trained_parameters([(order[:k] == axis).sum() for axis in axes]) for k in range(len(order) + 1)])
        self.assertEqual(sizes[0], tasks["parameters"].max())
        share = sizes / sizes[0]
        every, count = settings["prune_every"], 7
        server, retention, cuts, enlargements, changed_at = Server(settings, count), [1.0] * count, 0, 0, [0] * count
        for version in range(every, min(rounds, round(settings["prune_until"] * rounds)), every):
            times = {}
            for client in range(count):
                own = (tasks["client"] == client) & (tasks["outcome"] == b"merged")
                own &= (tasks["merged_version"] > version - every) & (tasks["merged_version"] <= version)
                own &= tasks["base_version"] >= changed_at[client]
                not_first = own & (tasks["base_version"] != version - every)
                if own.any():
                    times[client] = time[not_first if not_first.any() else own].mean()
            wanted = server.change(times, retention)
            for client in range(count):
                if wanted[client] != retention[client]:
                    removed = int(np.argmax(share <= wanted[client]))
                    removed -= share[removed] < settings["prune_floor"]
                    cuts += share[removed] < retention[client]
                    enlargements += share[removed] > retention[client]
                    if share[removed] != retention[client]:
                        retention[client], changed_at[client] = share[removed], version
                sent = (tasks["client"] == client) & (tasks["base_version"] // every == version // every)
                np.testing.assert_array_equal(tasks["share"][sent], retention[client], err_msg=f"{version} {client}")
        after = tasks["base_version"] >= version
        for client in range(count):
            np.testing.assert_array_equal(tasks["share"][after & (tasks["client"] == client)], retention[client])
        return cuts, enlargements

    def test_sizes_are_those_of_the_page(self):
        for name, rounds, changed, more in (
                ("noise", 40, {}, LATE),
                ("four points", 40, {"prune_points": 4, "prune_every": 3}, LATE),
                ("fastest", 40, {"prune_target": "fastest"}, LATE),
                ("partial", 60, {"prune_every": 3, "prune_until": 0.7}, {"clients.per_round": 3}),
                ("crashes", 40, {"prune_floor": 0.3, "prune_largest": 0.2, "prune_tolerance": 0.03, "prune_aim": 0.2,
                                 "prune_least": 0.05}, {"faults.crash": 0.4}),
                ("asynchronous", 120, {"prune_every": 9}, {"method.window": "asynchronous"}),
                ("links", 60, {"prune_every": 4, "prune_regrow": "true"},
                 {"device.slow.link_modes": "1,3", "device.middle.link_modes": "0.3,2"})):
            with self.subTest(name=name):
                cuts, enlargements = self.check(name.replace(" ", "-"), rounds, changed, more)
                self.assertGreaterEqual(cuts, 8)
                self.assertEqual(enlargements > 0, "prune_regrow" in changed)


if __name__ == "__main__":
    unittest.main()
