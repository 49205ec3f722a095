#!/usr/bin/env python3
"""What only the page docs/methods/cocodc.md needs: steps, time and bytes to a perplexity, and the tables of the page.

    tools/sweep.py inputs/regions/compare.ini      runs what has no row in docs/methods/cocodc.csv yet
    .venv/bin/python tools/papers/cocodc.py        writes the tables of the page from the rows
"""

import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from compare import COLUMNS, comparisons, make_table, markdown, put_into, rows_of_csv, saving  # noqa: E402

ROWS = os.path.join(ROOT, "docs", "methods", "cocodc.csv")
PAGE = os.path.join(ROOT, "docs", "methods", "cocodc.md")
PERPLEXITIES = (10, 9)  # each has columns, such as steps_9; the tables show the last one
PERIOD, OVERLAPS = 40, (2, 5, 10, 20)
BASELINE = "streaming_diloco"


def measure(run, labels):
    """Steps, virtual time and bytes of all regions to each perplexity, on a straight line between two evaluations, as the
    authors read them from their curves. A period has as many steps as the claimed difference, so whole periods are too coarse."""
    seen = {name: values[run.evaluations["set"] == "test"] for name, values in run.evaluations.items()}
    place = np.searchsorted(run.rounds["version"], seen["version"])
    axes = {"steps": run.rounds["step"][place], "s": seen["virtual_time_s"],
            "mb": np.cumsum(run.rounds["bytes_up"] + run.rounds["bytes_down"])[place] * 1e-6}
    return {column(name, target): crossing(values, seen["perplexity"], target)
            for target in PERPLEXITIES for name, values in axes.items()}


def column(name, target):
    """The dot of a number would make the column an option for compare.py."""
    return f"{name}_{target:g}".replace(".", "_")


def crossing(axis, perplexity, target):
    """Where a curve first reaches the target from above; NaN if it never does or if its first point is below."""
    reached = np.flatnonzero(perplexity <= target)
    if not len(reached) or reached[0] == 0:
        return float("nan")
    after = reached[0]
    share = (perplexity[after - 1] - target) / (perplexity[after - 1] - perplexity[after])
    return float(axis[after - 1] + share * (axis[after] - axis[after - 1]))


def rows(overlap):
    return rows_of_csv(ROWS, [("overlap", str(overlap))])


def comparison(overlap):
    """All methods with this overlap, and those without any, against Streaming DiLoCo."""
    target = PERPLEXITIES[-1]
    steps, seconds, traffic = (column(name, target) for name in ("steps", "s", "mb"))
    COLUMNS.update({steps: (f"steps to {target}", 0, ""), seconds: (f"time to {target}", "fine", " s"),
                    traffic: (f"traffic to {target}", "coarse", " MB")})
    every = rows(0) + rows(overlap)
    against = comparisons(every, BASELINE, saved=steps, differing="perplexity")
    return markdown(*make_table(every, f"perplexity,{steps},{seconds},{traffic},utilisation", against=against, head="method"))


def claims():
    """How many percent fewer steps CoCoDC needs than its baselines at each overlap, beside the paper's claim."""
    pairs = [(target, other) for target in PERPLEXITIES for other in (BASELINE, "diloco")]
    lines = ["| τ/H | τ | " + " | ".join(f"to {target}: `{other}`" for target, other in pairs) + " |",
             "|---|--:|" + "--:|" * len(pairs), "| *the paper: 0.05* | 5 | *21.0 %* | *4.9 %* | | |"]
    for overlap in OVERLAPS:
        groups = {}
        for row in rows(0) + rows(overlap):
            groups.setdefault(row.name, []).append(row)
        cells = [f"{overlap / PERIOD:g}", str(overlap)]
        for target, other in pairs:
            found = saving(groups[other], groups["cocodc"], column("steps", target))
            cells.append(f"{found.value:.1f} % ({found.low:.1f} to {found.high:.1f})" if found.how else "–")
        lines.append(f"| {' | '.join(cells)} |".replace("-", "−"))
    return "\n".join(lines) + "\n"


def main():
    put_into(PAGE, "claims", claims())
    for overlap in OVERLAPS:
        put_into(PAGE, f"overlap {overlap}", comparison(overlap))


if __name__ == "__main__":
    main()
