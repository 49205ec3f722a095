#!/usr/bin/env python3
"""What only the page docs/methods/cos2p.md needs: figures of the clients, and the table of the paper's claims.

    tools/sweep.py inputs/cos2p/compare.ini        runs what has no row in docs/methods/cos2p.csv yet
    .venv/bin/python tools/papers/cos2p.py         writes the tables of the page from the rows
"""

import os
import statistics
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from compare import make_table, markdown, put_into, rows_of_csv  # noqa: E402
from espalier_h5 import summary  # noqa: E402

ROWS = os.path.join(ROOT, "docs", "methods", "cos2p.csv")
PAGE = os.path.join(ROOT, "docs", "methods", "cos2p.md")
COLUMNS = "server_top1,local_top1,target_s,peak_mb,weak_peak_mb=of weak clients,utilisation,mb_down+mb_up,rounds"
TARGETS = {"cifar10": 0.28, "agnews": 0.70, "pretrained": 0.44}


def measure(run, labels):
    """Figures of a run beside those of every sweep: means over clients of the last local test and of the largest peak."""
    tasks = run.tasks
    ended = np.isin(tasks["outcome"], ("merged", "dropped_stale"))
    local, weak = [], []
    for client in np.unique(tasks["client"][ended]):
        own = ended & (tasks["client"] == client)
        tested = own & np.isfinite(tasks["local_top1"])
        local += list(tasks["local_top1"][tested][-1:])
        # The first quarter of the fleet has full capability, also for baselines without capabilities.
        weak += [tasks["peak_bytes"][own].max() * 1e-6] if client >= 2 else []
    evaluated = "mean of exits" if labels["method"].startswith("depthfl") else "test"
    return {"server_top1": summary(run, evaluated=evaluated)["top1"], "weak_peak_mb": statistics.mean(weak),
            "local_top1": statistics.mean(local) if local else float("nan")}


def rows(**where):
    return rows_of_csv(ROWS, where.items())


def claims(task):
    """Compares Co-S2P with each baseline by the paper's claims; means over the seeds that both have."""
    lines = [f"| against | seeds | server top-1, points | memory of weak clients | time to {TARGETS[task]:.0%} | utilisation |",
             "|---|--:|--:|--:|--:|--:|",
             "| *the paper, against its baselines* | | up to +8.8 | −22 % | −24 % | up to 1.2 × |"]
    found = {}
    for row in rows(table="methods", task=task):
        found.setdefault(row.name, {})[row.seed] = row.figures
    for method, other in list(found.items())[1:]:
        seeds = sorted(found["cos2p"].keys() & other.keys())

        def means(column):
            return [statistics.mean(figures[seed][column] for seed in seeds) for figures in (found["cos2p"], other)]

        def ratio(column):
            own, others = means(column)
            return own / others

        def change(column):
            return "–" if np.isnan(ratio(column)) else f"{100 * (ratio(column) - 1):+.0f} %"

        points = 100 * (means("server_top1")[0] - means("server_top1")[1])
        cells = [method, str(len(seeds)), f"{points:+.1f}", change("weak_peak_mb"), change("target_s")]
        lines.append(f"| {' | '.join(cells)} | {ratio('utilisation'):.2f} × |".replace("| -", "| −"))
    return "\n".join(lines) + "\n"


def main():
    for task in ("cifar10", "agnews"):
        put_into(PAGE, f"claims {task}", claims(task))
        put_into(PAGE, f"methods {task}", markdown(*make_table(rows(table="methods", task=task), COLUMNS, TARGETS[task])))
    # The table of ablations begins with the complete Co-S2P.
    whole = rows(table="methods", task="cifar10", method="cos2p")
    put_into(PAGE, "ablations cifar10", markdown(*make_table(whole + rows(table="ablations"), COLUMNS, TARGETS["cifar10"])))
    put_into(PAGE, "pretrained cifar10", markdown(*make_table(rows(table="pretrained"), COLUMNS, TARGETS["pretrained"])))
    put_into(PAGE, "masks cifar10", markdown(*make_table(rows(table="masks"), "local_top1", head="masks")))


if __name__ == "__main__":
    main()
