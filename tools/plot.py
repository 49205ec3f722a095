#!/usr/bin/env python3
"""Draws runs: quality over time, staleness, memory, what each client did when, and more.

    tools/plot.py runs/quickstart                                 the summary of a run
    tools/plot.py 'runs/digits-*' --group method -p quality       mean and band over seeds
    tools/plot.py runs/quickstart -p gantt --from 2 --to 4        who worked in these seconds

As a module it draws into axes of yours. PICTURES maps the name of a picture to its function, which
takes (axes, runs, view) and returns the drawn values in the units of the tables:

    run = espalier_h5.open_run("runs/quickstart")
    curves = plot.PICTURES["staleness"](axes, [run], plot.View())
    plot.save(plot.figure("quality", [run], plot.View(target=0.9)), "quality.svg")
"""

import argparse
import dataclasses
import glob
import math
import os
import re
import sys
import warnings

# A notebook passes its backend on to programs that it starts; that backend cannot draw into files.
if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py", "matplotlib")
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from espalier_h5 import RunError, open_run, time_unit

# The palette of Okabe and Ito, which colour-blind people can tell apart, without its yellow.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3d4349"]
DASHES = ["-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4))]
INK, FAINT = "#2b2f33", "#d9dde1"
SPANS = [("download", "#9ec3de"), ("compute", "#1f4e79"), ("upload", "#e8a15a")]
FAILED = "#b3261e"
FAILURES = {  # outcome: marker and words
    "out_of_memory": ("x", "out of memory"),
    "crashed": ("P", "crashed"),
    "rejected": ("s", "update rejected"),
    "unavailable": ("^", "unavailable"),
    "dropped_stale": ("v", "too stale, dropped"),
}
MAX_LANES, MAX_ROUNDS, MAX_PANELS, FEW = 12, 5, 6, 7

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
    "pdf.fonttype": 42,  # journals refuse the default, type 3
    "svg.hashsalt": "espalier",  # equal pictures have equal bytes
}


class PlotError(Exception):
    """One sentence that says why a picture cannot be drawn as it was asked for."""


class NothingToDraw(PlotError):
    """The runs have the columns, but no rows yet."""


@dataclasses.dataclass
class View:
    """What to draw of the runs. Each picture reads the fields that concern it."""

    group: tuple = ()  # options; runs with equal values become one curve, mean and band
    against: tuple = ()  # of "virtual", "rounds", "bytes", "wall"; empty: what suits the picture
    measure: str = ""  # a column of evaluations or rounds; empty: top1, or perplexity
    set: str = "test"  # of the evaluations
    target: float = None  # in the unit of the measure
    smooth: int = 1  # moving mean over this many rounds
    start: float = None  # virtual seconds
    end: float = None
    clients: tuple = ()  # numbers; empty: as many as fit
    names: tuple = ()  # of the runs; empty: short names from run.name


@dataclasses.dataclass
class Curve:
    """A drawn line, in the units of the tables; `low` and `high` are the band of a group."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray = None
    high: np.ndarray = None


# --- reading -------------------------------------------------------------------------------------


def table_of(run, table):
    """The columns of a table; none if the run's protocol has no such table."""
    return getattr(run, table, None) or {}


def column(run, table, name):
    """A column as numbers or text; a sentence if the run's protocol has none of this name."""
    columns = table_of(run, table)
    if not columns:
        raise PlotError(f"{run.path} has no table /{table}, so there is nothing to draw this from")
    if name not in columns:
        raise PlotError(f"{run.path} has no column {name} in /{table}")
    values = columns[name]
    return values if values.dtype.kind in "US" else values.astype(float)


def long_names(runs):
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [os.path.normpath(run.path) for run in runs]


def short_names(names):
    """`names` without the words that all begin or end with."""
    names = list(names)
    for turn in (lambda text: text, lambda text: text[::-1]):
        turned = [turn(name) for name in names]
        common = os.path.commonprefix(turned) if len(set(names)) > 1 else ""
        cut = max((common.rfind(c) + 1 for c in "-_/ "), default=0)
        if cut and all(len(name) > cut for name in turned):
            names = [turn(name[cut:]) for name in turned]
    return [n if len(n) <= 44 else f"{n[:24]}…{n[-19:]}" for n in names]


def run_names(runs, view):
    return list(view.names) or short_names(long_names(runs))


def text(name):
    """`name` as matplotlib draws it: no formula between $, no hidden label after _."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def quality_of(runs):
    """top1, or perplexity if all runs are language models."""
    top1 = [column(run, "evaluations", "top1") for run in runs]
    language = all(len(values) and np.isnan(values).all() for values in top1)
    return "perplexity" if language else "top1"


def smaller_is_better(measure):
    return measure == "perplexity" or measure.endswith("loss")


def positions(run, against):
    """For each version of the model, where it stands on the axis `against`."""
    versions = column(run, "rounds", "version")
    places = {
        "rounds": lambda: column(run, "rounds", "round"),
        "virtual": lambda: column(run, "rounds", "virtual_time_s"),
        "wall": lambda: column(run, "rounds", "wall_time_s"),
        "bytes": lambda: np.cumsum(
            column(run, "rounds", "bytes_down") + column(run, "rounds", "bytes_up")
        ),
    }[against]()
    return {0.0: 0.0, **dict(zip(versions, places))}


def series(run, measure, against, view=View()):
    """x and y of one run: a column of /evaluations, else of /rounds."""
    if measure in table_of(run, "evaluations"):
        chosen = column(run, "evaluations", "set") == view.set
        y, versions = column(run, "evaluations", measure), column(run, "evaluations", "version")
        if y.dtype.kind in "US":
            raise PlotError(f"{measure} is text; --measure takes a column of numbers")
        if len(y) and not chosen.any():
            sets = ", ".join(sorted(set(run.evaluations["set"])))
            raise PlotError(f"{run.path} has no evaluations of the set '{view.set}', but of {sets}")
        y, versions = y[chosen], versions[chosen]
    else:
        y, versions = column(run, "rounds", measure), column(run, "rounds", "version")
    place = positions(run, against)
    x = np.array([place.get(version, np.nan) for version in versions])
    if view.smooth > 1 and len(y):
        total = np.cumsum(np.insert(y, 0, 0.0))
        begin = np.maximum(np.arange(1, len(y) + 1) - view.smooth, 0)
        y = (total[1:] - total[begin]) / (np.arange(1, len(y) + 1) - begin)
    # A row of a run that goes on can be there before its round is.
    seen = np.isfinite(x)
    return x[seen], np.where(np.isfinite(y), y, np.nan)[seen]


# --- groups --------------------------------------------------------------------------------------

# Options that may differ among the runs of a group: they are no part of what is compared.
SEEDS = re.compile(r"run\.(seed|name|dir|threads|isa)|data\.dir|checkpoint\..*|record\..*")


def option_named(runs, option):
    """The full name of an option: "method" and "grace_s" work where only one option fits."""
    known = set().union(*(run.config for run in runs))
    fits = [o for o in (option, option + ".name", option + ".kind") if o in known]
    fits = fits or sorted(o for o in known if o.endswith("." + option))
    if not fits:
        raise PlotError(f"the runs have no option {option}; espalier list options names all")
    if len(fits) > 1 and fits[0] not in (option, option + ".name", option + ".kind"):
        raise PlotError(f"--group {option} could be {' or '.join(fits)}; write which")
    return fits[0]


def groups(runs, options):
    """A dict from label to runs, in the order of the runs."""
    options = [option_named(runs, option) for option in options]
    members = {}
    for run in runs:
        values = [run.config.get(option, "not set") or "empty" for option in options]
        members.setdefault(", ".join(values), []).append(run)
    return members


def differing(runs):
    """The options that differ among the runs of one group, apart from the seed."""
    options = sorted(set().union(*(run.config for run in runs)))
    return [
        option
        for option in options
        if not SEEDS.fullmatch(option) and len({run.config.get(option) for run in runs}) > 1
    ]


def mean_curve(name, lines):
    """Mean and mean ± one standard deviation of the runs, where all of them have values.

    Between its points a run counts as the straight line that the picture of it alone shows."""
    lines = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in lines]
    lines = [(x, y) for x, y in lines if len(x)]
    if not lines:
        return Curve(name, np.empty(0), np.empty(0))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        raise PlotError(f"the runs of {name} have no part of this axis in common, so they have no mean")
    values = np.array([np.interp(grid, x, y) for x, y in lines])
    mean = values.mean(axis=0)
    if len(lines) == 1:
        return Curve(name, grid, mean)
    deviation = values.std(axis=0, ddof=1)
    return Curve(name, grid, mean, mean - deviation, mean + deviation)


def curves_of(runs, measure, against, view=View()):
    """One curve per run, or per group of `view.group`."""
    if not view.group:
        names = run_names(runs, view)
        found = [Curve(n, *series(run, measure, against, view)) for n, run in zip(names, runs)]
    else:
        found = []
        for label, members in groups(runs, view.group).items():
            lines = [series(run, measure, against, view) for run in members]
            count = f"{len(members)} runs" if len(members) > 1 else "1 run"
            found.append(mean_curve(f"{label} ({count})", lines))
    if not any(np.isfinite(curve.y).any() for curve in found):
        empty = all(len(curve.y) == 0 for curve in found)
        why = "no rows yet" if empty else "no numbers"
        raise NothingToDraw(f"{runs[0].path} has {why} for {measure}, so there is nothing to draw")
    return found


def reached(curve, target, measure):
    """Index of the first point of the curve that has reached the target; None if none has."""
    there = curve.y <= target if smaller_is_better(measure) else curve.y >= target
    return int(np.argmax(there)) if there.any() else None


# --- axes ----------------------------------------------------------------------------------------


def byte_unit(size):
    for name, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= length:
            return name, length
    return "B", 1.0


AGAINST = {  # axis: words, and the unit for the largest value
    "virtual": ("virtual time", time_unit),
    "rounds": ("round", None),
    "bytes": ("transferred, both ways", byte_unit),
    "wall": ("wall time", time_unit),
}
MEASURES = {  # column: words and unit, where the column's own name is not enough
    "top1": "accuracy (top 1)",
    "top5": "accuracy (top 5)",
    "perplexity": "perplexity",
    "loss": "test loss",
    "train_loss": "training loss",
    "staleness_mean": "staleness (versions)",
    "utilisation": "busy share of the clients at work",
    "coverage_mean": "clients that hold a parameter",
}


def measure_label(runs, measure, view):
    unit = next((run.units.get(f"{table}/{measure}") for run in runs for table in
                 ("evaluations", "rounds") if run.units.get(f"{table}/{measure}")), "1")
    label = MEASURES.get(measure) or measure.replace("_", " ") + ("" if unit == "1" else f" ({unit})")
    if view.set != "test" and measure in table_of(runs[0], "evaluations"):
        label += f", {view.set}"
    return label + (f"\nmean of {view.smooth} points" if view.smooth > 1 else "")


def look(i):
    """Colour and dashes of curve `i`; all differ up to len(COLOURS) * len(DASHES)."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "ls": DASHES[i // len(COLOURS) % len(DASHES)],
    }


def looks(runs, view, count):
    """The look of each curve. Of many runs, those that differ in nothing but the seed share a
    colour, if the colours and dashes suffice for that."""
    if not view.group and count > FEW:
        places, members = [], {}
        for run in runs:
            options = tuple(sorted(o for o in run.config.items() if not SEEDS.fullmatch(o[0])))
            dash = members.setdefault(options, [len(members), -1])
            dash[1] += 1
            places.append(dash[0] + len(COLOURS) * dash[1])
        if len(members) <= len(COLOURS) and max(places) < len(COLOURS) * len(DASHES):
            return [look(place) for place in places]
    return [look(i) for i in range(count)]


def draw_curves(axis, runs, view, measure, against, bound=None):
    """Draws `measure` against `against`; `bound` is a second column, thin and dashed, if few."""
    curves = curves_of(runs, measure, against, view)
    words, unit_of = AGAINST[against]
    longest = max((np.nanmax(c.x) for c in curves if len(c.x)), default=0.0)
    unit, length = unit_of(longest) if unit_of else ("", 1.0)
    styles = looks(runs, view, len(curves))
    many = max(len(curve.x) for curve in curves) > 100 or len(curves) > FEW
    for style, curve in zip(styles, curves):
        dots = len(curve.x) <= 40 and len(curves) <= FEW and not view.group
        own = {"lw": 1.2 if many else 1.7, "marker": "o" if dots else None, "ms": 3}
        axis.plot(curve.x / length, curve.y, label=text(curve.name), **style, **own)
        if curve.low is not None:
            band = {"color": style["color"], "alpha": 0.18, "lw": 0}
            axis.fill_between(curve.x / length, curve.low, curve.high, **band)
    if bound and len(curves) <= FEW:
        for style, extra in zip(styles, curves_of(runs, bound, against, view)):
            thin = {"lw": 1.0, "alpha": 0.6, "ls": (0, (3, 2))}
            axis.plot(extra.x / length, extra.y, color=style["color"], **thin)
    if view.target is not None and not bound:
        axis.axhline(view.target, color=INK, lw=0.9, ls=(0, (1, 2)), zorder=1)
        axis.annotate(f"target {view.target:g}", (1, view.target), (0, -3), fontsize=8,
                      xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", va="top")
        for style, curve in zip(styles, curves):
            at = reached(curve, view.target, measure)
            if at is not None:
                dot = {"marker": "D", "ms": 6, "mec": "white", "mew": 0.8, "zorder": 5, "ls": ""}
                axis.plot(curve.x[at] / length, curve.y[at], color=style["color"], **dot)
    axis.set_xlabel(f"{words} ({unit})" if unit else words)
    axis.set_ylabel(measure_label(runs, measure, view))
    if against == "rounds":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return curves


def draw_quality(axis, runs, view):
    """Quality of the model against the first of `view.against`."""
    measure = view.measure or quality_of(runs)
    return draw_curves(axis, runs, view, measure, (view.against or ("virtual",))[0])


def line_legend(axis, solid, dashed):
    """Explains full and dashed lines inside the axes."""
    handles = [
        Line2D([], [], color=INK, lw=1.7, label=solid),
        Line2D([], [], color=INK, lw=1.0, alpha=0.6, ls=(0, (3, 2)), label=dashed),
    ]
    axis.legend(handles=handles, frameon=False, loc="best", fontsize=8.5)


def from_zero(axis):
    """The y axis begins at 0, and a line at 0 is seen."""
    top = max(axis.get_ylim()[1], 1.0)
    axis.set_ylim(-0.02 * top, top)


def draw_staleness(axis, runs, view):
    """Staleness of the merged updates: mean, and dashed the largest of each round."""
    against = (view.against or ("virtual",))[0]
    curves = draw_curves(axis, runs, view, "staleness_mean", against, "staleness_max")
    if len(curves) <= FEW:
        line_legend(axis, "mean of a merge", "largest of a merge")
    from_zero(axis)
    return curves


def draw_utilisation(axis, runs, view):
    """Busy share of the clients that had a task."""
    curves = draw_curves(axis, runs, view, "utilisation", (view.against or ("virtual",))[0])
    axis.set_ylim(0, 1.02)
    return curves


def draw_coverage(axis, runs, view):
    """How many of the merged updates hold a parameter: mean over parameters, and the fewest."""
    against = (view.against or ("rounds",))[0]
    curves = draw_curves(axis, runs, view, "coverage_mean", against, "coverage_min")
    if len(curves) <= FEW:
        line_legend(axis, "mean over parameters", "parameter with the fewest")
    from_zero(axis)
    return curves


# --- clients of one run --------------------------------------------------------------------------


def client_labels(run, clients):
    """"client 3 (weak)" for each number."""
    table = table_of(run, "clients")
    devices = dict(zip(table.get("client", ()), table.get("device", ())))
    known = [f" ({devices[c]})" if c in devices else "" for c in clients]
    return [text(f"client {int(c)}{device}") for c, device in zip(clients, known)]


def chosen_clients(run, view, present):
    """The clients to draw, sorted: those asked for, or all of `present`."""
    present = np.unique(present)
    if not view.clients:
        return present
    known = set(np.concatenate([present, table_of(run, "clients").get("client", [])]))
    missing = [c for c in view.clients if c not in known]
    if missing:
        raise PlotError(f"{run.path} has no client {missing[0]}")
    return np.array(sorted(view.clients), dtype=float)


def lanes(axis, run, clients):
    """One line per client from top to bottom."""
    axis.set_yticks(range(len(clients)))
    axis.set_yticklabels(client_labels(run, clients))
    axis.set_ylim(len(clients) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def how_many(drawn, total):
    return f", {drawn} of {total} clients" if drawn < total else ""


def client_memory(run, view=View()):
    """For each client: number, peak and cap in bytes (cap 0: none), tasks out of memory."""
    client = column(run, "tasks", "client")
    peak, cap = column(run, "tasks", "peak_bytes"), column(run, "tasks", "cap_bytes")
    if "search_peak_bytes" in run.tasks:
        peak = np.maximum(peak, column(run, "tasks", "search_peak_bytes"))
    failed = column(run, "tasks", "outcome") == "out_of_memory"
    rows = []
    for c in chosen_clients(run, view, client[(peak > 0) | failed]):
        mine = client == c
        if mine.any():
            rows.append((c, peak[mine].max(), cap[mine].max(), (failed & mine).sum()))
    if not rows:
        raise NothingToDraw(f"{run.path} has no finished tasks yet, so there is no memory to draw")
    return np.array(rows, dtype=float)


def draw_memory(axis, runs, view):
    """Peak memory of each client against the memory of its device, of the first run.

    Of more clients than fit, those with the least room are drawn."""
    run = runs[0]
    rows = client_memory(run, view)
    total = len(np.unique(column(run, "tasks", "client")))
    if len(rows) > 2 * MAX_LANES and not view.clients:
        room = np.where(rows[:, 2] > 0, rows[:, 1] / np.maximum(rows[:, 2], 1), 0)
        room = np.where(rows[:, 3] > 0, np.inf, room)
        rows = rows[np.sort(np.argsort(-room, kind="stable")[: 2 * MAX_LANES])]
    sizes = rows[:, 1:3][rows[:, 1:3] > 0]
    unit, length = byte_unit(sizes.max(initial=1) / 3)
    wide = sizes.max(initial=1) > 20 * sizes.min(initial=sizes.max(initial=1))
    for y, (_, peak, cap, failed) in enumerate(rows):
        if cap > 0:
            axis.plot([peak / length, cap / length], [y, y], color=FAINT, lw=3, zorder=1)
            axis.plot(cap / length, y, marker="|", color=INK, ms=11, mew=2, ls="")
        axis.plot(peak / length, y, marker="o", color=COLOURS[0], ms=6, ls="")
        if failed:
            axis.plot(max(cap, peak) / length, y, marker="x", color=FAILED, ms=7, mew=2, ls="", zorder=4)
    lanes(axis, run, rows[:, 0])
    if wide:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if sizes.max() < 2000 * sizes.min() else (1,)))
    else:
        axis.set_xlim(left=0)
    axis.set_xlabel(f"memory ({unit}{', log scale' if wide else ''})", loc="left")
    least = "with the least room: " if len(rows) < total and not view.clients else ""
    title = f"Peak memory of clients {least}{run_names(runs, view)[0]}" if least else (
        f"Peak memory of each client: {run_names(runs, view)[0]}")
    axis.set_title(text(title + how_many(len(rows), total)), loc="left", fontsize=10)
    handles = [
        Line2D([], [], marker="o", color=COLOURS[0], ms=6, ls="", label="measured peak"),
        Line2D([], [], marker="|", color=INK, ms=11, mew=2, ls="", label="memory of its device"),
    ]
    if rows[:, 3].any():
        cross = Line2D([], [], marker="x", color=FAILED, ms=7, mew=2, ls="")
        cross.set_label("out of memory")
        handles.append(cross)
    legend_below(axis, handles)
    return rows


def legend_below(axis, handles):
    """A legend in one line, right of the label of the x axis."""
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


def client_updates(run, view=View()):
    """A dict from client to (round in which a task was sent, seconds until its update was there)."""
    client = column(run, "tasks", "client")
    sent, finished = column(run, "tasks", "sent_s"), column(run, "tasks", "finished_s")
    outcome, base = column(run, "tasks", "outcome"), column(run, "tasks", "base_version")
    place = positions(run, "rounds")
    arrived = np.isin(outcome, ("merged", "dropped_stale", "rejected")) & np.isfinite(finished - sent)
    lines = {}
    for c in chosen_clients(run, view, client[arrived]):
        mine = np.flatnonzero(arrived & (client == c))
        rounds = np.array([place.get(base[i], np.nan) + 1 for i in mine])
        order = np.argsort(rounds, kind="stable")
        lines[int(c)] = rounds[order], (finished - sent)[mine][order]
    if not any(len(x) for x, _ in lines.values()):
        raise NothingToDraw(f"{run.path} has no updates yet, so there are no times to draw")
    return lines


def draw_updates(axis, runs, view):
    """Seconds from sending a task to the arrival of its update, for each client, of the first run.

    Many clients are coloured by their device."""
    run = runs[0]
    lines = client_updates(run, view)
    table = table_of(run, "clients")
    devices = dict(zip(table.get("client", ()), table.get("device", ())))
    by_client = len(lines) <= FEW or not devices
    keys = list(lines) if by_client else list(dict.fromkeys(devices.get(c, "?") for c in lines))
    unit, length = time_unit(max(y.max() for _, y in lines.values() if len(y)))
    for c, (x, y) in lines.items():
        i = keys.index(c if by_client else devices.get(c, "?"))
        thin = {"lw": 1.2, "marker": "o", "ms": 2.5, "alpha": 0.9} if by_client else {
            "lw": 0.9, "marker": "o", "ms": 2, "alpha": 0.65}
        axis.plot(x, y / length, **look(i), **thin)
    labels = client_labels(run, keys) if by_client else [
        text(f"{key} ({sum(devices.get(c, '?') == key for c in lines)} clients)") for key in keys]
    if len(keys) <= 4 * FEW:
        handles = [Line2D([], [], **look(i), lw=1.6, label=label) for i, label in enumerate(labels)]
        axis.legend(handles=handles, frameon=False, fontsize=8.5, loc="upper left",
                    bbox_to_anchor=(1.0, 1.02))
    axis.set_xlabel("round in which the task was sent")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel(f"time until the update arrived ({unit})")
    axis.set_ylim(bottom=0)
    title = f"Update time of each client: {run_names(runs, view)[0]}"
    axis.set_title(text(title), loc="left", fontsize=10)
    return lines


def shown_range(run, view):
    """First and last virtual second of the Gantt chart, and words that say which part it is."""
    times = column(run, "rounds", "virtual_time_s")
    finished = column(run, "tasks", "finished_s")
    finished = finished[np.isfinite(finished)]
    if view.start is None and view.end is None and len(times):
        rounds = min(MAX_ROUNDS, len(times))
        words = f"first {rounds} rounds" if rounds < len(times) else "all rounds"
        return 0.0, times[rounds - 1], words
    start = view.start or 0.0
    end = view.end if view.end is not None else max(finished.max(initial=0), times.max(initial=0))
    if not start < end:
        raise PlotError(f"there is nothing between --from {start:g} and --to {end:g}; the run ends "
                        f"at {max(finished.max(initial=0), times.max(initial=0)):.6g} s")
    return start, end, f"{start:g} to {end:g} s"


def client_spans(run, view=View()):
    """Rows (client, part, begin, length) in seconds, within the range that is drawn."""
    start, end, _ = shown_range(run, view)
    client, sent = column(run, "tasks", "client"), column(run, "tasks", "sent_s")
    finished = column(run, "tasks", "finished_s")
    parts = [column(run, "tasks", part + "_s") for part, _ in SPANS]
    inside = (sent < end) & (finished > start)
    rows = []
    for i in np.flatnonzero(inside):
        begin = sent[i]
        for (part, _), lengths in zip(SPANS, parts):
            span = min(np.nan_to_num(lengths[i]), max(finished[i] - begin, 0.0))
            low, high = max(begin, start), min(begin + span, end)
            if high > low:
                rows.append((client[i], part, low, high - low))
            begin += span
    return rows, client[inside]


def draw_gantt(axis, runs, view):
    """Download, compute and upload of each client as bars on the virtual time, of the first run."""
    run = runs[0]
    start, end, range_words = shown_range(run, view)
    rows, present = client_spans(run, view)
    clients = chosen_clients(run, view, present)
    if len(clients) == 0:
        raise NothingToDraw(f"{run.path} has no tasks between {start:g} and {end:g} s")
    drawn = clients if view.clients else clients[:MAX_LANES]
    lane = {client: i for i, client in enumerate(drawn)}
    unit, length = time_unit(end - start)
    rows = [row for row in rows if row[0] in lane]
    for part, colour in SPANS:
        for c, y in lane.items():
            bars = [(b / length, w / length) for client, p, b, w in rows if client == c and p == part]
            axis.broken_barh(bars, (y - 0.31, 0.62), color=colour, lw=0)
    outcome, client = column(run, "tasks", "outcome"), column(run, "tasks", "client")
    finished = column(run, "tasks", "finished_s")
    handles = [Patch(color=colour, lw=0, label=part) for part, colour in SPANS]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (1, 2)), label="merge"))
    for kind, (marker, words) in FAILURES.items():
        here = (outcome == kind) & (finished >= start) & (finished <= end) & np.isin(client, drawn)
        if here.any():
            mark = {"ls": "", "marker": marker, "color": FAILED, "ms": 6, "mew": 1.8 if marker == "x" else 0.6}
            if marker != "x":
                mark["mec"] = "white"
            y = [lane[c] for c in client[here]]
            axis.plot(finished[here] / length, y, clip_on=False, zorder=4, **mark)
            handles.append(Line2D([], [], label=words, **mark))
    times = column(run, "rounds", "virtual_time_s")
    for time in times[(times >= start) & (times <= end)]:
        axis.axvline(time / length, color=INK, lw=0.8, ls=(0, (1, 2)), zorder=0.5)
    lanes(axis, run, drawn)
    axis.set_xlim(start / length, end / length)
    axis.set_xlabel(f"virtual time ({unit})", loc="left")
    total = len(table_of(run, "clients").get("client", clients))
    title = f"What each client did when: {run_names(runs, view)[0]}, {range_words}"
    axis.set_title(text(title + how_many(len(drawn), total)), loc="left", fontsize=10)
    legend_below(axis, handles)
    return rows


PICTURES = {
    "quality": draw_quality,
    "staleness": draw_staleness,
    "utilisation": draw_utilisation,
    "coverage": draw_coverage,
    "memory": draw_memory,
    "updates": draw_updates,
    "gantt": draw_gantt,
}
OF_ONE_RUN = ("memory", "updates", "gantt")


# --- figures -------------------------------------------------------------------------------------


def curve_legend(figure, axis, count):
    """Names of the curves: above if they are few, else in a column beside the axes."""
    handles, names = axis.get_legend_handles_labels()
    handles, names = handles[:count], names[:count]
    if any(name.endswith(" runs)") for name in names) and len(axis.collections):
        handles.append(Patch(color=INK, alpha=0.18, lw=0))
        names.append("mean ± standard deviation")
        count += 1
    if count == 1 or sum(len(name) + 6 for name in names) <= 110 and count <= FEW:
        figure.legend(handles, names, loc="outside upper center", ncols=min(count, 4), frameon=False)
        return
    columns = math.ceil(count / 40)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + columns * (0.6 + 0.065 * max(len(name) for name in names)), height)
    figure.legend(handles, names, loc="outside right upper", ncols=columns, frameon=False, fontsize=8.5)


def lanes_of(run, name, view):
    """Number of lines of the picture, for its height."""
    if name == "updates":
        return 8
    if view.clients:
        return len(view.clients)
    most = MAX_LANES if name == "gantt" else 2 * MAX_LANES
    return min(most, max(1, len(np.unique(column(run, "tasks", "client")))))


def new_figure(width, height, size):
    figure = Figure(figsize=size or (width, height), layout="constrained", dpi=160)
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06, hspace=0.04, wspace=0.03)
    return figure


def summary(runs, view, size=None):
    """Quality and loss against virtual time and rounds; below, the clients of the first run."""
    quality = view.measure or quality_of(runs)
    below = 0.9 + 0.24 * lanes_of(runs[0], "gantt", view)
    figure = new_figure(9.6, 5.0 + below, size)
    grid = figure.add_gridspec(3, 2, height_ratios=[2.3, 2.1, below])
    axes = np.array([[figure.add_subplot(grid[r, c]) for c in range(2)] for r in range(2)])
    no_target = dataclasses.replace(view, target=None)
    for c, against in enumerate(("virtual", "rounds")):
        curves = draw_curves(axes[0, c], runs, view, quality, against)
        few = len(curves) <= FEW
        try:
            draw_curves(axes[1, c], runs, no_target, "loss", against, "train_loss" if few else None)
        except NothingToDraw:
            pass
    axes[1, 0].set_ylabel("loss" if few else "test loss")
    if few:
        line_legend(axes[1, 1], "test", "training")
    for r in range(2):
        axes[r, 1].sharey(axes[r, 0])
        axes[r, 1].set_ylabel("")
        axes[r, 1].tick_params(labelleft=False)
    for c in range(2):
        axes[0, c].sharex(axes[1, c])
        axes[0, c].set_xlabel("")
        axes[0, c].tick_params(labelbottom=False)
    draw_gantt(figure.add_subplot(grid[2, :]), runs, view)
    curve_legend(figure, axes[0, 0], len(curves))
    return figure


def figure(name, runs, view=View(), size=None):
    """A new matplotlib figure: "summary" or a name of PICTURES. `size` is in inches."""
    with matplotlib.rc_context(STYLE):
        if name == "summary":
            return summary(runs, view, size)
        if name in OF_ONE_RUN:
            return panels_of_runs(name, runs, view, size)
        against = view.against or (tuple(AGAINST) if name == "quality" else ())
        views = [dataclasses.replace(view, against=(a,)) for a in against] or [view]
        columns = 2 if len(views) == 4 else len(views)
        rows = len(views) // columns
        new = new_figure((7.2, 9.6, 12.0)[columns - 1], max(2.9 * rows, 3.6), size)
        axes = new.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axis, one in zip(axes, views):
            curves = PICTURES[name](axis, runs, one)
        for i, axis in enumerate(axes):
            if i % columns:
                axis.set_ylabel("")
        curve_legend(new, axes[0], len(curves))
        return new


def panels_of_runs(name, runs, view, size):
    """One panel for each run."""
    if len(runs) > MAX_PANELS:
        raise PlotError(f"{name} has one panel for each run, and {len(runs)} runs are too many; "
                        f"give at most {MAX_PANELS}")
    heights = [1.0 + (0.24 if name == "gantt" else 0.27) * lanes_of(run, name, view) for run in runs]
    new = new_figure(9.6 if name == "gantt" else 8.0, sum(heights), size)
    axes = new.subplots(len(runs), 1, squeeze=False, height_ratios=heights).ravel()
    names = run_names(runs, view)
    for axis, run, own in zip(axes, runs, names):
        PICTURES[name](axis, [run], dataclasses.replace(view, names=(own,)))
    return new


FORMATS = {"png": {}, "svg": {"metadata": {"Date": None}}, "pdf": {"metadata": {"CreationDate": None}}}


def save(figure, out, dpi=160, kind=None):
    """Writes a figure to a path or binary stream; `kind` is png, svg or pdf (default: the ending)."""
    kind = kind or os.path.splitext(out)[1][1:].lower()
    if kind not in FORMATS:
        raise PlotError(f"cannot write {out}: the name must end with .png, .svg or .pdf")
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=kind, dpi=dpi, **FORMATS[kind])


# --- command line --------------------------------------------------------------------------------

USED_BY = {  # flag: pictures that read it
    "--group": {"summary", "quality", "staleness", "utilisation", "coverage"},
    "--against": {"quality", "staleness", "utilisation", "coverage"},
    "--smooth": {"summary", "quality", "staleness", "utilisation", "coverage"},
    "--target": {"summary", "quality"},
    "--measure": {"summary", "quality"},
    "--set": {"summary", "quality"},
    "--from": {"summary", "gantt"},
    "--to": {"summary", "gantt"},
    "--clients": {"summary", "gantt", "memory", "updates"},
}

PICTURE_HELP = """pictures (-p):
  summary    quality and loss of all runs; the clients of the first run
  quality    quality against virtual time, rounds, bytes and wall time
  staleness, utilisation, coverage    of each merge, for all runs
  memory     peak memory of each client against that of its device, for each run
  updates    update time of each client over the rounds, for each run
  gantt      download, compute and upload of each client, for each run

examples:
  tools/plot.py runs/quickstart
  tools/plot.py 'runs/digits-*' --group method -p quality -o quality.pdf
  tools/plot.py runs/quickstart -p gantt --from 2 --to 4 --clients 0,3-5
"""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PlotError(f"{message}; --help lists what there is")


def numbers(words):
    """"0,3-5" as (0, 3, 4, 5)."""
    found = []
    for part in words.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 1000:
            raise PlotError(f"--clients {words} must be numbers and ranges like 0,3-5")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def size_in_inches(words):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)", words)
    if not match or not all(1 <= float(side) <= 50 for side in match.groups()):
        raise PlotError(f"--size {words} must be width and height in inches, like 6.4x4")
    return float(match[1]), float(match[2])


def finite(flag, value):
    if value is not None and not math.isfinite(value):
        raise PlotError(f"{flag} must be a finite number")
    return value


def parse(words):
    parser = Parser(
        prog="plot.py",
        usage="plot.py RUN... [-p PICTURE] [-o FILE] [options]",
        description="Draws runs: one picture for each call, as PNG, SVG or PDF.",
        epilog=PICTURE_HELP,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=80),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder, its run.h5, or a pattern like 'runs/a-*'")
    add("-p", "--picture", default="summary", metavar="P", help="what to draw; default: summary")
    add("-o", "--out", metavar="FILE", help=".png, .svg or .pdf; default: a PNG beside the first run.h5")
    add("--group", metavar="OPT", help="one curve per value of an option, mean ± deviation")
    add("--target", type=float, metavar="Q", help="mark and print where each curve reaches it")
    add("--against", metavar="X", help="some of virtual,rounds,bytes,wall")
    add("--measure", default="", metavar="C", help="column of /evaluations or /rounds instead of quality")
    add("--set", default="test", metavar="S", help="set of the evaluations; default: test")
    add("--smooth", type=int, default=1, metavar="N", help="moving mean over N points")
    add("--from", type=float, metavar="S", dest="start", help="gantt: first virtual second")
    add("--to", type=float, metavar="S", dest="end", help="gantt: last virtual second")
    add("--clients", metavar="LIST", help="only these clients, like 0,3-5")
    add("--size", metavar="WxH", help="inches")
    add("--dpi", type=int, default=160, help="of a PNG; default: 160")
    arguments = parser.parse_args(words)
    if arguments.picture not in ("summary", *PICTURES):
        known = ", ".join(("summary", *PICTURES))
        raise PlotError(f"there is no picture {arguments.picture}; there are {known}")
    for flag, users in USED_BY.items():
        given = any(word == flag or word.startswith(flag + "=") for word in words)
        if given and arguments.picture not in users:
            raise PlotError(f"the picture {arguments.picture} does not use {flag}")
    if not 1 <= arguments.smooth or not 20 <= arguments.dpi <= 1200:
        raise PlotError("--smooth must be at least 1, and --dpi between 20 and 1200")
    if arguments.out and os.path.splitext(arguments.out)[1].lower()[1:] not in FORMATS:
        raise PlotError(f"cannot write {arguments.out}: the name must end with .png, .svg or .pdf")
    return arguments


def view_of(arguments):
    against = tuple(dict.fromkeys(filter(None, (arguments.against or "").split(","))))
    for axis in against:
        if axis not in AGAINST:
            raise PlotError(f"--against {axis} must be some of {', '.join(AGAINST)}")
    return View(
        group=tuple(filter(None, (arguments.group or "").split(","))),
        against=against,
        measure=arguments.measure,
        set=arguments.set,
        target=finite("--target", arguments.target),
        smooth=arguments.smooth,
        start=finite("--from", arguments.start),
        end=finite("--to", arguments.end),
        clients=numbers(arguments.clients) if arguments.clients else (),
    )


def note(sentence):
    print(f"note: {sentence}", file=sys.stderr)


def paths_of(words):
    """The runs that the words name. A pattern stands for the runs that it fits, not other files."""
    paths = []
    for word in words:
        if os.path.exists(word) or not glob.has_magic(word):
            paths.append(word)
            continue
        fits = [p for p in sorted(glob.glob(word))
                if p.endswith(".h5") or os.path.exists(os.path.join(p, "run.h5"))]
        if not fits:
            raise RunError(f"no run fits {word}")
        paths += fits
    return list(dict.fromkeys(paths))


def read(path):
    try:
        return open_run(path)
    except RunError:
        raise
    except Exception as error:  # a damaged file can break any assumption of the reader
        raise RunError(f"{path} cannot be read: {error or type(error).__name__}") from None


def has_rows(run):
    """Whether a run has begun. Of tables that are not there, the picture tells."""
    tables = [table for name in ("rounds", "tasks") if (table := table_of(run, name))]
    return not tables or any(len(values) for table in tables for values in table.values())


def with_rows(runs):
    """The runs that have begun; a note names the others."""
    begun = [run for run in runs if has_rows(run)]
    for run in runs:
        if begun and run not in begun:
            note(f"{run.path} has no rows yet and is left out")
    if not begun:
        raise NothingToDraw(f"{runs[0].path} has no rows yet, so there is nothing to draw")
    return begun


def tell(picture, runs, view):
    """Prints where each curve reaches the target; warns about what the picture cannot show."""
    count = len(groups(runs, view.group)) if view.group else len(runs)
    if picture not in OF_ONE_RUN and count > len(COLOURS) * len(DASHES):
        note(f"with {count} curves some look alike; --group makes them fewer")
    if view.group:
        for label, members in groups(runs, view.group).items():
            other = differing(members)
            if other:
                shown = ", ".join(other[:4]) + (", ..." if len(other) > 4 else "")
                note(f"the runs of {label} differ in more than the seed: {shown}")
    if view.target is None:
        return
    measure = view.measure or quality_of(runs)
    every = {axis: curves_of(runs, measure, axis, dataclasses.replace(view, against=(axis,)))
             for axis in AGAINST}
    for i, curve in enumerate(every["virtual"]):
        places = {axis: reached(every[axis][i], view.target, measure) for axis in AGAINST}
        if any(at is None for at in places.values()):
            print(f"{curve.name}: does not reach {measure} {view.target:g}")
            continue
        at = {axis: every[axis][i].x[places[axis]] for axis in AGAINST}
        print(f"{curve.name}: {measure} {view.target:g} after {at['virtual']:.6g} s virtual, "
              f"round {at['rounds']:g}, {at['bytes'] / 1e6:.6g} MB, {at['wall']:.6g} s wall")


def draw(words):
    """Does what the command line says; raises one sentence."""
    arguments = parse(words)
    view = view_of(arguments)
    runs = with_rows([read(path) for path in paths_of(arguments.runs)])
    if view.group and not view.names:
        groups(runs, view.group)  # refuses an unknown option before anything is drawn
    name = "plot" if arguments.picture == "summary" else arguments.picture
    folder = os.path.dirname(os.path.abspath(runs[0].path))
    out = arguments.out or os.path.join(folder, name + ".png")
    size = size_in_inches(arguments.size) if arguments.size else None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            drawn = figure(arguments.picture, runs, view, size)
            save(drawn, out, arguments.dpi)
        except (ValueError, ArithmeticError, IndexError, TypeError, MemoryError) as error:
            raise RunError(f"{runs[0].path} holds values that cannot be drawn, it may be damaged: {error}")
        except OSError as error:
            raise PlotError(f"cannot write {out}: {error.strerror or error}")
    tell(arguments.picture, runs, view)
    print(out)


def main(words=None):
    """Runs the tool with the arguments `words`, by default those of the command. Returns its exit status: 2 for a bad request, 3 for
    a file without a picture."""
    try:
        draw(sys.argv[1:] if words is None else words)
        return 0
    except (RunError, PlotError) as error:
        print(f"plot.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 3 if isinstance(error, (RunError, NothingToDraw)) else 2


if __name__ == "__main__":
    sys.exit(main())
