#!/usr/bin/env python3
"""Draws runs: accuracy and loss against virtual time and rounds, for all runs in one picture;
below, for the first run, download, compute and upload of each client over time.

    tools/plot.py RUN... [-o out.png]        RUN is a run's folder or its run.h5
"""

import argparse
import os
import sys

# A notebook passes its backend on to programs that it starts; that backend cannot draw into files.
os.environ["MPLBACKEND"] = "Agg"
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from espalier_h5 import RunError, open_run

RUN_COLOURS = ["#1f4e79", "#d1603d", "#3a8a6e", "#8b5fa8", "#c69214", "#5b6770"]
INK, FAINT = "#2b2f33", "#d9dde1"
SPANS = [("download", "#9ec3de"), ("compute", "#1f4e79"), ("upload", "#e8a15a")]
FAILED = "#b3261e"
MAX_CLIENTS, MAX_ROUNDS = 12, 5

STYLE = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a9199",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "figure.dpi": 160,
}


def time_unit(seconds):
    """Name and length of a readable unit for a span of `seconds`."""
    for name, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 3 * length:
            return name, length
    return "s", 1.0


def evaluations(run):
    """Columns of the evaluations on the test set."""
    table = run.evaluations
    chosen = table["set"] == "test"
    return {name: values[chosen] for name, values in table.items()}


def draw_curves(axes, runs, labels):
    """`axes` is 2 by 2: quality and loss against virtual time and rounds."""
    language = all(np.isnan(run.evaluations["top1"]).all() for run in runs)
    quality = "perplexity" if language else "top1"
    longest = max((run.rounds["virtual_time_s"].max(initial=0) for run in runs), default=0)
    unit, length = time_unit(longest)
    dashes = (0, (3, 2))
    for i, run in enumerate(runs):
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        seen, rounds = evaluations(run), run.rounds
        few = len(seen["version"]) <= 40
        line = dict(color=colour, lw=1.7, marker="o" if few else None, ms=3, label=labels[i])
        for column, (x_test, x_train) in enumerate(
            [
                (seen["virtual_time_s"] / length, rounds["virtual_time_s"] / length),
                (seen["version"], rounds["round"]),
            ]
        ):
            axes[0, column].plot(x_test, seen.get(quality, np.full(len(x_test), np.nan)), **line)
            axes[1, column].plot(x_test, seen["loss"], **line)
            axes[1, column].plot(
                x_train, rounds["train_loss"], color=colour, lw=1.1, alpha=0.55, ls=dashes
            )
    axes[0, 0].set_ylabel("perplexity" if language else "accuracy (top 1)")
    axes[1, 0].set_ylabel("loss")
    axes[1, 0].set_xlabel(f"virtual time ({unit})")
    axes[1, 1].set_xlabel("round")
    axes[1, 1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1, 1].legend(
        handles=[
            Line2D([], [], color=INK, lw=1.7, label="test"),
            Line2D([], [], color=INK, lw=1.1, alpha=0.55, ls=dashes, label="training"),
        ],
        frameon=False,
        loc="upper right",
    )
    for row in axes:
        row[1].tick_params(labelleft=False)
    for axis in axes[0]:
        axis.tick_params(labelbottom=False)


def shown_until(run):
    """Number of rounds in the lower picture, and the virtual second at its end."""
    times = run.rounds["virtual_time_s"]
    if len(times) == 0:
        return 0, run.tasks["finished_s"].max(initial=1.0)
    rounds = min(MAX_ROUNDS, len(times))
    return rounds, times[rounds - 1]


def draw_clients(axis, run, label):
    """Download, compute and upload of each client as bars on the virtual time."""
    tasks = run.tasks
    rounds, end = shown_until(run)
    unit, length = time_unit(end)
    clients = np.unique(tasks["client"][tasks["sent_s"] < end])
    drawn = clients[:MAX_CLIENTS]
    lane = {client: i for i, client in enumerate(drawn)}
    failures = False
    for i in np.flatnonzero(np.isin(tasks["client"], drawn) & (tasks["sent_s"] < end)):
        y = lane[tasks["client"][i]]
        start = tasks["sent_s"][i]
        finish = tasks["finished_s"][i]
        for part, colour in SPANS:
            span = min(np.nan_to_num(tasks[part + "_s"][i]), max(finish - start, 0.0))
            axis.barh(y, span / length, left=start / length, height=0.62, color=colour, lw=0)
            start += span
        if tasks["outcome"][i] not in ("merged", "unfinished", "dropped_stale"):
            axis.plot(finish / length, y, marker="x", color=FAILED, ms=6, mew=1.8, clip_on=False)
            failures = True
    for time in run.rounds["virtual_time_s"][:rounds]:
        axis.axvline(time / length, color=INK, lw=0.8, ls=(0, (1, 2)), zorder=0.5)

    devices = dict(zip(run.clients["client"], run.clients["device"]))
    axis.set_yticks(range(len(drawn)))
    axis.set_yticklabels([f"client {c} ({devices.get(c, '?')})" for c in drawn])
    axis.set_ylim(len(drawn) - 0.4, -0.6)
    axis.set_xlim(0, end / length)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(f"virtual time ({unit})", loc="left")
    total = len(run.clients["client"])
    rounds_shown = f"first {rounds} rounds" if rounds < len(run.rounds["round"]) else "all rounds"
    clients_shown = f", {len(drawn)} of {total} clients" if len(drawn) < total else ""
    title = f"What each client did when: {label}, {rounds_shown}{clients_shown}"
    axis.set_title(title, loc="left", fontsize=10)
    handles = [Patch(color=colour, lw=0, label=part) for part, colour in SPANS]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (1, 2)), label="merge"))
    if failures:
        cross = dict(ls="", marker="x", color=FAILED, ms=6, mew=1.8)
        handles.append(Line2D([], [], label="failed", **cross))
    axis.legend(
        handles=handles,
        ncols=len(handles),
        frameon=False,
        loc="upper right",
        bbox_to_anchor=(1.005, 0),
        borderaxespad=1.9,
        handlelength=1.3,
        columnspacing=1.4,
    )
    return len(drawn)


def draw(runs, out):
    """Draws the figure and writes it to `out`."""
    labels = [run.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.path for run in runs]
    lanes = min(MAX_CLIENTS, max(1, len(np.unique(runs[0].tasks["client"]))))
    below = 0.9 + 0.24 * lanes
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9.6, 5.0 + below), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06, hspace=0.04, wspace=0.03)
        grid = figure.add_gridspec(3, 2, height_ratios=[2.3, 2.1, below])
        axes = np.array([[figure.add_subplot(grid[r, c]) for c in range(2)] for r in range(2)])
        for r in range(2):
            axes[r, 1].sharey(axes[r, 0])
        for c in range(2):
            axes[0, c].sharex(axes[1, c])
        draw_curves(axes, runs, labels)
        draw_clients(figure.add_subplot(grid[2, :]), runs[0], labels[0])
        handles, names = axes[0, 0].get_legend_handles_labels()
        columns = min(len(runs), 4)
        figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)
        figure.savefig(out)
        plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder or its run.h5")
    parser.add_argument(
        "-o", "--out", help="picture to write; default: plot.png beside the first run.h5"
    )
    arguments = parser.parse_args()
    try:
        runs = [open_run(path) for path in arguments.runs]
        out = arguments.out or os.path.join(
            os.path.dirname(os.path.abspath(runs[0].path)), "plot.png"
        )
        draw(runs, out)
    except (RunError, OSError) as error:
        sys.exit(f"plot.py: {error}")
    print(out)


if __name__ == "__main__":
    main()
