#!/usr/bin/env python3
"""Runs Co-S2P, its baselines and its ablations at equal fleet and equal virtual time, and writes the tables.

    .venv/bin/python tools/papers/cos2p.py                 runs every cell that has no row yet, then writes the tables
    .venv/bin/python tools/papers/cos2p.py WORD...         only cells whose name contains one of the words
    .venv/bin/python tools/papers/cos2p.py --list          lists the cells and marks the finished ones
    .venv/bin/python tools/papers/cos2p.py --table         only writes the tables
    .venv/bin/python tools/papers/cos2p.py --minutes=30    begins no cell after 30 minutes

A finished cell is a row of docs/methods/cos2p.csv, with a hash of its configuration and the commit that ran it. If the
configuration of a cell has changed, the cell is run again. The hash covers only options that differ from their defaults, so
a new option does not invalidate rows. The tables are in docs/methods/cos2p.md.
"""

import csv
import functools
import hashlib
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from espalier_h5 import open_run  # noqa: E402

ROWS = os.path.join(ROOT, "docs", "methods", "cos2p.csv")
PAGE = os.path.join(ROOT, "docs", "methods", "cos2p.md")
ESPALIER = os.environ.get("ESPALIER", os.path.join(ROOT, "build", "espalier"))
RUNS = os.environ.get("ESPALIER_RUNS", os.path.join(ROOT, "runs", "papers"))
# Options that name files and do not affect results.
UNHASHED = ("run.name", "run.dir", "data.dir")

# Emulated time of each task, and the accuracy for the column `time to`.
TASKS = {
    "cifar10": {"input": "laptop-cifar10.ini", "virtual_s": 50, "target": 0.28, "pretrained_target": 0.44},
    "agnews": {"input": "laptop-agnews.ini", "virtual_s": 60, "target": 0.70},
}
SEEDS = {"cifar10": (1, 2, 3), "agnews": (1,)}

# The baselines are synchronous, with the plain average and, unless they use more, one classifier.
PLAIN = {"model.exits": "1", "window.grace_s": "0"}
METHODS = {
    "cos2p": {},
    "fedavg, full model": {"method.name": "fedavg", **PLAIN},
    "fedavg, smallest model": {"method.name": "fedavg", "model.embed": "12", "model.heads": "1", "model.mlp": "48",
                               **PLAIN},
    "heterofl": {"method.name": "heterofl", "method.scaler": "false", **PLAIN},
    "fedrolex": {"method.name": "fedrolex", "method.levels": "fixed", **PLAIN},
    "ramfed": {"method.name": "ramfed", **PLAIN},
    "ramfed, last known": {"method.name": "ramfed", "method.merge": "last_known", "method.stagger_roll": "true", **PLAIN},
    "depthfl": {"method.name": "depthfl", "method.kappa_versions": "30", **PLAIN, "model.exits": "4"},
    "depthfl with fedavg": {"method.name": "depthfl", "method.kappa_versions": "30", "method.dynamic_alpha": "0",
                            "method.merge": "average", **PLAIN, "model.exits": "4"},
    "prunefl, static": {"method.name": "prunefl", **PLAIN},
    "fjord": {"method.name": "fjord", "method.ordered_widths": "0.25, 0.5, 0.75, 1", **PLAIN},
}
SYNCHRONOUS = {"method.window": "synchronous", "window.grace_s": "0"}
ABLATIONS = {
    "no width mask": {"method.submodel": "leading_blocks"},
    "masked widths at full depth": {"method.depth_power": "0"},
    "random masks": {"method.masks": "random"},
    "magnitude masks": {"method.masks": "magnitude"},
    "sampled masks": {"method.mask_choice": "sampled"},
    "no distillation": {"method.distillation": "off"},
    "no deep supervision": {"method.distillation": "off", "method.deep_supervision": "false"},
    "synchronous": SYNCHRONOUS,
    "uniform weights": {"method.importance": "false", "method.capability": "false", "method.drift": "none"},
    "no capability factor": {"method.capability": "false"},
    "no drift": {"method.drift": "none"},
    "literal drift": {"method.drift": "literal"},
    "relative drift": {"method.drift": "relative"},
    "normalised over updates": {"method.normalise": "updates"},
    "K = N/4": {"window.min_updates": "2"},
    "K = 3N/4": {"window.min_updates": "6"},
    "alpha = 1": {"data.alpha": "1"},
    "alpha = 1.5": {"data.alpha": "1.5"},
    "iid": {"data.partition": "iid"},
}
# The comparison of learned with random masks uses all seeds.
REPEATED = ("random masks",)

# The authors start from a trained model. Ours: five epochs of plain training of the same model by one client with all
# the data.
PRETRAINING = {"method.name": "fedavg", "clients.count": "1", "clients.fleet": "1*a", "data.partition": "iid",
               "data.dirichlet_parts": "1", "data.local_test": "0", "window.grace_s": "0", "run.virtual_limit": "0",
               "run.rounds": "5"}
PRETRAINED = {
    "cos2p": {},
    "cos2p, random masks": ABLATIONS["random masks"],
    "cos2p, no width mask": ABLATIONS["no width mask"],
    **{method: METHODS[method] for method in ("fedavg, full model", "fedavg, smallest model", "heterofl", "fedrolex",
                                              "ramfed", "depthfl")},
}
# The effect of the masks alone: from the trained model, with frozen weights, the local accuracy of the submodels that the
# clients receive after all have their masks.
FROZEN = {"train.lr": "0", "run.rounds": "4", "run.virtual_limit": "0", "record.evaluate_every": "4", **SYNCHRONOUS}
MASKS = {
    "learned": FROZEN,
    "learned, five epochs": {**FROZEN, "method.mask_epochs": "5"},
    "random": {**FROZEN, "method.masks": "random"},
    "magnitude": {**FROZEN, "method.masks": "magnitude"},
    "no width mask": {**FROZEN, "method.submodel": "leading_blocks"},
}
FROM_TRAINED = ("pretrained", "masks")  # tables

COLUMNS = ("table", "task", "method", "seed", "server_top1", "local_top1", "target_s", "peak_mb", "weak_peak_mb",
           "utilisation", "mb_down", "mb_up", "rounds", "virtual_s", "wall_s", "config", "commit")


def cells():
    """Returns (table, task, method, seed, settings) of every cell, the comparison first."""
    found = []
    for task, seeds in SEEDS.items():
        for seed in seeds:
            for method, settings in METHODS.items():
                if task == "agnews" and method == "fedavg, smallest model":
                    settings = {**settings, "model.embed": "16", "model.mlp": "32"}
                found.append(("methods", task, method, seed, settings))
    for method, settings in ABLATIONS.items():
        for seed in SEEDS["cifar10"] if method in REPEATED else SEEDS["cifar10"][:1]:
            found.append(("ablations", "cifar10", method, seed, settings))
    for seed in SEEDS["cifar10"]:
        for method, settings in PRETRAINED.items():
            found.append(("pretrained", "cifar10", method, seed, settings))
        for method, settings in MASKS.items():
            found.append(("masks", "cifar10", method, seed, settings))
    return found


def command(task, seed, settings, *more):
    values = {"run.seed": str(seed), "run.rounds": "1000000", "run.horizon": "1000",
              "run.virtual_limit": str(TASKS[task]["virtual_s"]), **settings}
    words = [f"--{key}={value}" for key, value in values.items()]
    return [ESPALIER, "run", os.path.join(ROOT, "inputs", "cos2p", TASKS[task]["input"]), *words, *more]


def printed(words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def pretraining(settings):
    return {**{key: value for key, value in settings.items() if key.startswith("model.")}, **PRETRAINING}


def pretrained(task, settings):
    """Returns the checkpoint to start from; trains it if it does not exist."""
    settings = pretraining(settings)
    name = f"{task}-pretrained-{configuration('', task, 1, settings)}"
    file = os.path.join(RUNS, name, "checkpoints", f"ckpt_{int(settings['run.rounds']):08}.h5")
    if not os.path.exists(file):
        printed(command(task, 1, settings, "-q", "--overwrite", f"--run.dir={RUNS}", f"--run.name={name}"))
    return file


def options(words):
    """Returns the lines of --print-config, each with its section."""
    section, found = "", []
    for line in printed([*words, "--print-config"]).splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        elif "=" in line and f"{section}.{line.split('=')[0].strip()}" not in UNHASHED:
            found.append(f"{section} {line}")
    return found


@functools.cache
def defaults():
    return set(options([ESPALIER, "run", os.devnull]))


def configuration(table, task, seed, settings):
    if table in FROM_TRAINED:
        both = configuration("", task, seed, settings) + configuration("", task, 1, pretraining(settings))
        return hashlib.sha256(both.encode()).hexdigest()[:12]
    kept = [line for line in options(command(task, seed, settings)) if line not in defaults()]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def commit():
    sha = printed(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]).strip()
    changed = printed(["git", "-C", ROOT, "status", "--porcelain", "--", "src", "include", "inputs"]).strip()
    return sha + ("+" if changed else "")


def target_of(table, task):
    return TASKS[task]["pretrained_target" if table in FROM_TRAINED else "target"]


def measured(run, table, task, method):
    tasks, rounds, evaluations = run.tasks, run.rounds, run.evaluations
    # DepthFL predicts by the mean of its classifiers.
    wanted = "mean of exits" if method.startswith("depthfl") else "test"
    chosen = np.array([str(name) == wanted for name in evaluations["set"]])
    top1 = evaluations["top1"][chosen]
    times = evaluations["virtual_time_s"][chosen]
    reached = times[top1 >= target_of(table, task)]
    ended = np.array([str(outcome) in ("merged", "dropped_stale") for outcome in tasks["outcome"]])
    clients = np.unique(tasks["client"][ended])
    local, peaks, weak = [], [], []
    for client in clients:
        own = ended & (tasks["client"] == client)
        tested = own & np.isfinite(tasks["local_top1"])
        if tested.any():
            local.append(tasks["local_top1"][tested][-1])
        peaks.append(tasks["peak_bytes"][own].max())
        # The first quarter of the fleet has full capability, also for baselines without capabilities.
        if client >= 2:
            weak.append(tasks["peak_bytes"][own].max())
    length = np.diff(np.concatenate([[0], rounds["virtual_time_s"]]))
    busy = np.isfinite(rounds["utilisation"])
    return {
        "server_top1": top1[-1],
        "local_top1": statistics.mean(local) if local else math.nan,
        "target_s": reached[0] if len(reached) else math.nan,
        "peak_mb": max(peaks) * 1e-6,
        "weak_peak_mb": statistics.mean(weak) * 1e-6,
        "utilisation": np.average(rounds["utilisation"][busy], weights=length[busy]),
        "mb_down": rounds["bytes_down"].sum() * 1e-6,
        "mb_up": rounds["bytes_up"].sum() * 1e-6,
        "rounds": len(rounds["round"]),
        "virtual_s": rounds["virtual_time_s"][-1],
    }


def rows():
    if not os.path.exists(ROWS):
        return []
    with open(ROWS, newline="") as file:
        return list(csv.DictReader(file))


def key(row):
    return row["table"], row["task"], row["method"], int(row["seed"])


def save(found):
    order = {cell[:4]: number for number, cell in enumerate(cells())}
    found = sorted((row for row in found if key(row) in order), key=lambda row: order[key(row)])
    with open(ROWS + ".tmp", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    os.replace(ROWS + ".tmp", ROWS)


def run_cell(cell, config):
    table, task, method, seed, settings = cell
    name = f"{table}-{task}-{method}-{seed}".replace(" ", "_").replace(",", "").replace("/", "")
    began = time.monotonic()
    start = [f"--model.init={pretrained(task, settings)}"] if table in FROM_TRAINED else []
    ranks = [os.path.join(ROOT, "tools", "mpirun.sh"), "-n", "3"]
    printed([*ranks, *command(task, seed, settings, "-q", "--overwrite", f"--run.dir={RUNS}", f"--run.name={name}"),
             *start])
    wall = time.monotonic() - began
    figures = measured(open_run(os.path.join(RUNS, name)), table, task, method)
    row = {"table": table, "task": task, "method": method, "seed": seed,
           **{column: f"{value:.6g}" for column, value in figures.items()}, "wall_s": f"{wall:.1f}",
           "config": config, "commit": commit()}
    save([other for other in rows() if key(other) != cell[:4]] + [row])
    print(f"{name:<40} top-1 {figures['server_top1']:.3f}   {wall:5.0f} s", flush=True)


def rows_of(found, table, task, method):
    return [row for row in found if (row["table"], row["task"], row["method"]) == (table, task, method)]


def cell_text(values, form):
    values = [float(value) for value in values if not math.isnan(float(value))]
    if not values:
        return "–"
    spread = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + spread


def table(found, name, task):
    if name == "masks":
        lines = ["| masks | seeds | local top-1 |", "|---|--:|--:|"]
        for method in MASKS:
            own = [row["local_top1"] for row in rows_of(found, name, task, method)]
            lines += [f"| {method} | {len(own)} | {cell_text(own, '{:.3f}')} |"] if own else []
        return "\n".join(lines)
    lines = ["| | seeds | server top-1 | local top-1 | time to {:.0%} | peak memory | of weak clients | utilisation | down, up | rounds |"
             .format(target_of(name, task)), "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    # The table of ablations begins with the complete Co-S2P.
    first = [("methods", "cos2p")] if name == "ablations" else []
    names = [(name, cell[2]) for cell in cells() if cell[0] == name and cell[1] == task]
    for place, method in first + list(dict.fromkeys(names)):
        own = rows_of(found, place, task, method)
        if not own:
            continue

        def of(column, form):
            return cell_text([row[column] for row in own], form)

        reached = sum(not math.isnan(float(row["target_s"])) for row in own)
        target = of("target_s", "{:.1f}") + (" s" if reached else "")
        if 0 < reached < len(own):
            target += f" ({reached} of {len(own)})"
        lines.append(f"| {method} | {len(own)} | {of('server_top1', '{:.3f}')} | {of('local_top1', '{:.3f}')} | {target} | "
                     f"{of('peak_mb', '{:.1f}')} MB | {of('weak_peak_mb', '{:.1f}')} MB | {of('utilisation', '{:.2f}')} | "
                     f"{of('mb_down', '{:.0f}')}, {of('mb_up', '{:.0f}')} MB | {of('rounds', '{:.0f}')} |")
    return "\n".join(lines)


def claims(found, task):
    """Compares Co-S2P with each baseline by the paper's claims; means over the seeds that both have."""
    lines = [f"| against | seeds | server top-1, points | memory of weak clients | time to {TASKS[task]['target']:.0%} | utilisation |",
             "|---|--:|--:|--:|--:|--:|",
             "| *the paper, against its baselines* | | up to +8.8 | −22 % | −24 % | up to 1.2 × |"]

    def of(method):
        return {row["seed"]: row for row in rows_of(found, "methods", task, method)}

    own = of("cos2p")
    for method in METHODS:
        other = of(method)
        seeds = sorted(own.keys() & other.keys())
        if method == "cos2p" or not seeds:
            continue

        def mean(rows, column):
            return statistics.mean(float(rows[seed][column]) for seed in seeds)

        def change(column):
            ratio = mean(own, column) / mean(other, column) - 1
            return "–" if math.isnan(ratio) else f"{100 * ratio:+.0f} %".replace("-", "−")

        points = f"{100 * (mean(own, 'server_top1') - mean(other, 'server_top1')):+.1f}".replace("-", "−")
        lines.append(f"| {method} | {len(seeds)} | {points} | {change('weak_peak_mb')} | {change('target_s')} | "
                     f"{mean(own, 'utilisation') / mean(other, 'utilisation'):.2f} × |")
    return "\n".join(lines)


def write_tables():
    found = rows()
    with open(PAGE) as file:
        text = file.read()
    filled = [("claims", task, claims(found, task)) for task in TASKS]
    filled += [(name, task, table(found, name, task)) for name, task in (
        ("methods", "cifar10"), ("methods", "agnews"), ("ablations", "cifar10"), ("pretrained", "cifar10"), ("masks", "cifar10"))]
    for name, task, lines in filled:
        begin, end = f"<!-- {name} {task} -->\n", f"<!-- end {name} {task} -->"
        head, rest = text.split(begin)
        text = head + begin + lines + "\n" + end + rest.split(end)[1]
    with open(PAGE, "w") as file:
        file.write(text)


def main():
    flags = [word for word in sys.argv[1:] if word.startswith("--")]
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    minutes = math.inf
    for flag in flags:
        if flag.startswith("--minutes="):
            minutes = float(flag.split("=")[1])
        elif flag not in ("--list", "--table"):
            sys.exit(__doc__)
    began = time.monotonic()
    if "--table" not in flags:
        finished = {key(row): row["config"] for row in rows()}
        for cell in cells():
            name = " ".join(map(str, cell[:4]))
            if words and not any(word in name for word in words):
                continue
            config = configuration(cell[0], cell[1], cell[3], cell[4])
            is_finished = finished.get(cell[:4]) == config
            if "--list" in flags:
                print(f"{name:<50} {'finished' if is_finished else '-'}")
            elif not is_finished and time.monotonic() - began < 60 * minutes:
                run_cell(cell, config)
    if "--list" not in flags:
        write_tables()


if __name__ == "__main__":
    main()
