#!/usr/bin/env python3
"""What only the pages docs/methods/mergesfl.md and parallelsfl.md need: quality at one emulated time, and their tables.

    tools/sweep.py inputs/split/compare.ini       runs what has no row in docs/methods/split.csv yet
    .venv/bin/python tools/papers/split.py        writes the tables of both pages from the rows
"""

import os
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from compare import COLUMNS, make_table, markdown, put_into, rows_of_csv  # noqa: E402

ROWS = os.path.join(ROOT, "docs", "methods", "split.csv")
SKEWS = ("iid", "alpha 0.5", "alpha 0.1")
MOMENT_S = 360  # the shortest run ends shortly after it
TARGET = 0.35
COMMON = ["splitfed_v1", "splitfed_v2", "locfedmix_sl", "fedavg"]
TABLES = {  # page: marks, skews and methods of its tables
    "mergesfl": {skew: (skew, ["mergesfl", "without merging", "without regulation", "adasfl", *COMMON]) for skew in SKEWS},
    "parallelsfl": {**{skew: (skew, ["parallelsfl", "hier_favg", "mergesfl", *COMMON]) for skew in SKEWS},
                    "parts": ("alpha 0.1", ["parallelsfl", "random clusters", "labels alone", "waiting alone", "no swaps", "fixed frequencies",
                                            "uniform weights", "regulated clusters"])},
}


def measure(run, labels):
    """Top-1 of the last evaluation up to MOMENT_S of emulated time, and the traffic between devices up to the first evaluation with
    TARGET (NaN: never, or no such traffic is recorded)."""
    seen = {name: values[run.evaluations["set"] == "test"] for name, values in run.evaluations.items()}
    early = np.flatnonzero(seen["virtual_time_s"] <= MOMENT_S)
    figures = {"top1_then": float(seen["top1"][early[-1]]) if len(early) else float("nan"), "mb_device_target": float("nan")}
    reached = np.flatnonzero(seen["top1"] >= TARGET)
    if len(reached) and "device_bytes" in run.rounds:
        until = run.rounds["version"] <= seen["version"][reached[0]]
        figures["mb_device_target"] = float(run.rounds["device_bytes"][until].sum() * 1e-6)
    return figures


def table(skew, methods):
    COLUMNS.update({"top1_then": (f"top-1 at {MOMENT_S} s", 3, ""),
                    "mb_device_target": (f"between devices to {TARGET:.0%}", "coarse", " MB")})
    rows = rows_of_csv(ROWS, [("skew", skew)])
    chosen = [row for method in methods for row in rows if row.name == method]
    columns = "top1_then,target_s,target_mb,waiting,virtual_s,top1"
    if "parallelsfl" in methods:
        columns = columns.replace("target_mb", "target_mb,mb_device_target")
    return markdown(*make_table(chosen, columns, target=TARGET, head="method"))


def main():
    for page, tables in TABLES.items():
        for mark, (skew, methods) in tables.items():
            put_into(os.path.join(ROOT, "docs", "methods", page + ".md"), mark, table(skew, methods))


if __name__ == "__main__":
    main()
