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
import functools
import io
import math
import os
import re
import sys
import textwrap
import warnings

# A notebook passes its backend on to programs that it starts; that backend cannot draw into files.
if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py", "matplotlib")
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from command_line import ends_well
from espalier_h5 import RunError, byte_unit, is_language, model_parameters, open_run, region_spans, run_paths, time_unit
from run_state import write_whole

# The palette of Okabe and Ito, which colour-blind people can tell apart, without its yellow.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3d4349"]
DASHES = ["-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4))]
INK, FAINT = "#2b2f33", "#d9dde1"
SPANS = [("download", "#9ec3de"), ("compute", "#1f4e79"), ("upload", "#e8a15a")]
UNDER_WAY = "fragment under way"
SHARES = {"compute": ("computes", COLOURS[0]), "transfer": ("on links", COLOURS[1]), "waiting": ("waits for workers", FAINT),
          "top": ("waits for the host", COLOURS[2])}
BETWEEN, AS_HOST = "waits for clusters", "works as host"
REGION_SPANS = [("compute", "#1f4e79"), ("lost", "#aab1b8"), (UNDER_WAY, "#e8a15a")]
SPLIT_SPANS = [*SHARES.values(), (BETWEEN, "#aab1b8"), (AS_HOST, COLOURS[3])]
SERVER = -1  # as the host of a top
FAILED = "#b3261e"
FAILURES = {  # outcome: marker and words
    "out_of_memory": ("x", "out of memory"),
    "crashed": ("P", "crashed"),
    "rejected": ("s", "update rejected"),
    "unavailable": ("^", "unavailable"),
    "dropped_stale": ("v", "too stale, dropped"),
}
MAX_LANES, MAX_ROUNDS, MAX_PANELS, FEW = 12, 5, 6, 7
MAX_DOTS = 40  # points of a curve that has a dot at each
REACHED = "reaches the target"
SMALL = 8.5  # points: size of the names beside a picture

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


class Apart(PlotError):
    """The runs of a group share no part of an axis."""

    def __init__(self, group, against):
        super().__init__(f"the runs of {group} have no part of the axis '{AGAINST[against][0]}' in common, so they have no "
                         "mean there")


@dataclasses.dataclass
class View:
    """What to draw of the runs. Each picture reads the fields that concern it."""

    group: tuple = ()  # options; runs with equal values become one curve, mean and band
    against: tuple = ()  # of "virtual", "rounds", "steps", "bytes", "wall"; empty: what suits the picture
    measure: str = ""  # a column of evaluations or rounds; empty: top1, or perplexity
    set: str = "test"  # of the evaluations
    target: float = None  # in the unit of the measure
    smooth: int = 1  # moving mean over this many rounds
    start: float = None  # virtual seconds
    end: float = None
    limits: tuple = ()  # of the vertical axis: smallest and largest value
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
    own = getattr(run, table, None)
    return run.tables.get(table, {}) if own is None else own


def column(run, table, name):
    """A column as numbers or text; a sentence if the run's protocol has none of this name."""
    columns = table_of(run, table)
    if run.protocol != "rounds" and name not in columns and table in ("rounds", "tasks"):
        what = "tasks" if table == "tasks" else f"column {name}"
        kind = {"regions": "regions", "split": "split training"}[run.protocol]
        have = "have" if run.protocol == "regions" else "has"
        hint = "this can be drawn of runs with rounds of clients only" if table == "tasks" else f"/{table} has {', '.join(columns)}"
        raise PlotError(f"{run.path} is a run of {kind}, which {have} no {what}; {hint}")
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
    for run in runs:
        column(run, "evaluations", "top1")  # a sentence if there is none
    return "perplexity" if all(is_language(run.evaluations) for run in runs) else "top1"


def smaller_is_better(measure):
    return measure == "perplexity" or measure.endswith("loss")


def positions(run, against):
    """For each version of the model, where it stands on the axis `against`."""
    versions = column(run, "rounds", "version")
    places = {
        "rounds": lambda: column(run, "rounds", "round"),
        "steps": lambda: column(run, "rounds", "step"),
        "virtual": lambda: column(run, "rounds", "virtual_time_s"),
        "wall": lambda: column(run, "rounds", "wall_time_s"),
        "bytes": lambda: np.cumsum(
            column(run, "rounds", "bytes_down") + column(run, "rounds", "bytes_up")
        ),
    }[against]()
    return {0.0: 0.0, **dict(zip(versions, places))}


USUAL_AXES = {  # of the pictures whose x axis can be chosen
    "summary": ("virtual", "rounds"), "quality": ("virtual", "rounds", "bytes", "wall", "steps"),
    "staleness": ("virtual",), "utilisation": ("virtual",), "coverage": ("rounds",), "trained": ("rounds",),
    "waiting": ("rounds",),
}


NEEDS = {"wall": "wall_time_s", "steps": "step"}  # axis: column of `rounds` that not every protocol has


def axes_of(picture, view, runs=()):
    """The x axes of a picture: those asked for, or those that suit it and that all runs have."""
    return view.against or tuple(
        axis for axis in USUAL_AXES[picture]
        if axis not in NEEDS or runs and all(NEEDS[axis] in table_of(run, "rounds") for run in runs))


def moving_mean(y, count):
    """The mean of each value and the count - 1 before it, over those that are finite; NaN if none is."""
    finite = np.isfinite(y)
    total = np.cumsum(np.insert(np.where(finite, y, 0.0), 0, 0.0))
    number = np.cumsum(np.insert(finite, 0, 0))
    end = np.arange(1, len(y) + 1)
    begin = np.maximum(end - count, 0)
    with np.errstate(invalid="ignore"):
        return (total[end] - total[begin]) / (number[end] - number[begin])


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
    if view.smooth > 1:
        y = moving_mean(y, view.smooth)
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
    """A dict from label, such as "fedavg, grace_s 2", to runs, in the order of the runs."""
    options = [option_named(runs, option) for option in options]
    members = {}
    for run in runs:
        words = [(option.rpartition(".")[2], run.config.get(option, "not set") or "empty") for option in options]
        label = ", ".join(value if key in ("name", "kind") else f"{key} {value}" for key, value in words)
        members.setdefault(label, []).append(run)
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
    """Mean and mean ± one standard deviation of the runs, where all of them have values; empty if they never all have.

    Between its points a run counts as the straight line that the picture of it alone shows."""
    lines = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in lines]
    lines = [(x, y) for x, y in lines if len(x)]
    if not lines:
        return Curve(name, np.empty(0), np.empty(0))
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = np.unique(np.concatenate([x for x, _ in lines]))
    grid = grid[(grid >= first) & (grid <= last)]
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
            used = sum(np.isfinite(y).any() for _, y in lines)
            count = "" if used == len(members) else f"{used} of "
            count += f"{len(members)} runs" if len(members) > 1 else "1 run"
            found.append(mean_curve(f"{label} ({count})", lines))
    if not any(np.isfinite(curve.y).any() for curve in found):
        numbers = [y for run in runs for y in series(run, measure, against, view)[1]]
        if np.isfinite(numbers).any():
            raise Apart(found[0].name, against)
        why = "no numbers" if numbers else "no rows yet"
        raise NothingToDraw(f"{runs[0].path} has {why} for {measure}, so there is nothing to draw")
    return found


def reached(curve, target, measure):
    """Index of the first point of the curve that has reached the target; None if none has."""
    there = curve.y <= target if smaller_is_better(measure) else curve.y >= target
    return int(np.argmax(there)) if there.any() else None


# --- axes ----------------------------------------------------------------------------------------


AGAINST = {  # axis: words, and the unit for the largest value
    "virtual": ("virtual time", time_unit),
    "rounds": ("round", None),
    "steps": ("step", None),
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
    "coverage_ever": "parameters ever trained (share)",
    "waiting_share": "waiting share of the workers' time",
}


def measure_label(runs, measure, view):
    unit = next((run.units.get(f"{table}/{measure}") for run in runs for table in
                 ("evaluations", "rounds") if run.units.get(f"{table}/{measure}")), "1")
    label = MEASURES.get(measure) or measure.replace("_", " ") + ("" if unit == "1" else f" ({unit})")
    if view.set != "test" and measure in table_of(runs[0], "evaluations"):
        label += f", {view.set}"
    return label + (f"\nmean of {view.smooth} points" if view.smooth > 1 else "")


@functools.cache
def text_width(words, size):
    """Width of a line of text in inches; `size` is that of the font in points."""
    return TextPath((0, 0), words, size=size).get_extents().width / 72 if words.strip() else 0.0


def wrapped(words, room, size=STYLE["font.size"]):
    """`words` in as many lines as they need where `room` inches are free."""
    lines = []
    for line in words.split("\n"):
        share = room / max(text_width(line, size), 1e-9)
        lines += textwrap.wrap(line, max(10, int(len(line) * share))) if share < 1 else [line]
    return "\n".join(lines)


def label_y(axis, words):
    """Sets the label of the y axis, in two lines where the axes are low."""
    height = axis.get_position().height * axis.figure.get_figheight()
    axis.set_ylabel(wrapped(words, 1.1 * height))


def room_of(axis):
    """About the width of the axes in inches, which the layout does not know before it has drawn the labels at their left."""
    labels = (text_width(label.get_text(), STYLE["font.size"]) for label in axis.get_yticklabels())
    return axis.figure.get_figwidth() - max(labels, default=0.0) - 0.25


def title(axis, words):
    axis.set_title(wrapped(text(words), room_of(axis), 10), loc="left", fontsize=10)


def rounds_below(axis, words):
    """The x axis of rounds."""
    axis.set_xlabel(words)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(left=0, auto=True)


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
    if against == "bytes" and any(run.protocol == "split" for run in runs):
        words = "over the server's links, both ways"  # those between devices are /clusters/device_bytes
    longest = max((np.nanmax(c.x) for c in curves if len(c.x)), default=0.0)
    unit, length = unit_of(longest) if unit_of else ("", 1.0)
    styles = looks(runs, view, len(curves))
    many = max(len(curve.x) for curve in curves) > 100 or len(curves) > FEW
    for style, curve in zip(styles, curves):
        dots = len(curve.x) == 1 or len(curve.x) <= MAX_DOTS and len(curves) <= FEW and not view.group
        own = {"lw": 1.2 if many else 1.7, "marker": "o" if dots else None, "ms": 3}
        seen = np.isfinite(curve.y)  # a line goes on over rounds without a value
        axis.plot(curve.x[seen] / length, curve.y[seen], label=text(curve.name), **style, **own)
        if curve.low is not None:
            band = {"color": style["color"], "alpha": 0.18, "lw": 0}
            axis.fill_between(curve.x / length, curve.low, curve.high, **band)
    if bound and len(curves) <= FEW:
        for style, extra in zip(styles, curves_of(runs, bound, against, view)):
            thin = {"lw": 1.0, "alpha": 0.6, "ls": (0, (3, 2)), "marker": "_" if len(extra.x) == 1 else None}
            seen = np.isfinite(extra.y)
            axis.plot(extra.x[seen] / length, extra.y[seen], color=style["color"], **thin)
    if view.target is not None and not bound:
        axis.axhline(view.target, color=INK, lw=0.9, ls=(0, (1, 2)), zorder=1)
        axis.annotate(f"target {view.target:g}", (1, view.target), (0, -3), fontsize=8,
                      xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha="right", va="top", annotation_clip=True)
        dot = {"marker": "D", "ms": 6, "mec": "white", "mew": 0.8, "zorder": 5, "ls": ""}
        places = [reached(curve, view.target, measure) for curve in curves]
        for style, curve, at in zip(styles, curves, places):
            if at is not None:
                axis.plot(curve.x[at] / length, curve.y[at], color=style["color"], **dot)
        if any(at is not None for at in places):
            axis.plot([], [], color=INK, label=REACHED, **dot)
    words = "period" if against == "rounds" and all(run.protocol == "regions" for run in runs) else words
    rounds_below(axis, words) if unit_of is None else axis.set_xlabel(f"{words} ({unit})")
    axis.set_xlim(left=0, auto=True)
    label_y(axis, measure_label(runs, measure, view))
    return curves


def draw_quality(axis, runs, view):
    """Quality of the model against the first of `view.against`."""
    measure = view.measure or quality_of(runs)
    curves = draw_curves(axis, runs, view, measure, axes_of("quality", view)[0])
    if view.limits:
        axis.set_ylim(*view.limits)
    return curves


def line_legend(axis, solid, dashed):
    """Explains full and dashed lines inside the axes."""
    handles = [
        Line2D([], [], color=INK, lw=1.7, label=solid),
        Line2D([], [], color=INK, lw=1.0, alpha=0.6, ls=(0, (3, 2)), label=dashed),
    ]
    axis.legend(handles=handles, loc="best", fontsize=SMALL, edgecolor="none", framealpha=0.85)


def from_zero(axis):
    """The y axis begins at 0, and a line at 0 is seen."""
    top = max(axis.get_ylim()[1], 1.0)
    axis.set_ylim(-0.02 * top, top)


def draw_staleness(axis, runs, view):
    """Staleness of the merged updates: mean, and dashed the largest of each round."""
    curves = draw_curves(axis, runs, view, "staleness_mean", axes_of("staleness", view)[0], "staleness_max")
    if len(curves) <= FEW:
        line_legend(axis, "mean of a merge", "largest of a merge")
    from_zero(axis)
    return curves


def draw_utilisation(axis, runs, view):
    """Busy share of the clients that had a task."""
    curves = draw_curves(axis, runs, view, "utilisation", axes_of("utilisation", view)[0])
    axis.set_ylim(0, 1.02)
    return curves


def draw_coverage(axis, runs, view):
    """How many of the merged updates hold a parameter: mean over parameters, and the fewest."""
    curves = draw_curves(axis, runs, view, "coverage_mean", axes_of("coverage", view)[0], "coverage_min")
    if len(curves) <= FEW:
        line_legend(axis, "mean over parameters", "parameter with the fewest")
    from_zero(axis)
    return curves


def draw_trained(axis, runs, view):
    """Share of the model's parameters that at least one update has held so far."""
    curves = draw_curves(axis, runs, view, "coverage_ever", axes_of("trained", view)[0])
    axis.set_ylim(0, 1.02)
    return curves


def draw_waiting(axis, runs, view):
    """Share of time in which the workers of split training waited for other workers and other clusters."""
    curves = draw_curves(axis, runs, view, "waiting_share", axes_of("waiting", view)[0])
    axis.set_ylim(0, 1.02)
    return curves


# --- clients of one run --------------------------------------------------------------------------


def client_labels(run, clients):
    """"client 3 (weak)" for each number; "server" for the host of a top that is no client."""
    table = table_of(run, "clients")
    devices = dict(zip(table.get("client", ()), table.get("device", ())))
    known = [f" ({devices[c]})" if c in devices else "" for c in clients]
    word = "region" if run.protocol == "regions" else "client"
    return ["server" if c == SERVER else text(f"{word} {int(c)}{device}") for c, device in zip(clients, known)]


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
    if run.protocol != "rounds":
        return recorded_memory(run, view)
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


def recorded_memory(run, view):
    """The same for each region, or for each worker and host of split training, which never run out of memory."""
    region, peak = (np.concatenate([column(run, table, name) for table, name in places]) for places in (
        WORKERS[run.protocol], [(table, "peak_bytes") for table, _ in WORKERS[run.protocol]]))
    region, peak = region[region != SERVER], peak[region != SERVER]
    caps = dict(zip(column(run, "clients", "client"), column(run, "clients", "memory_bytes")))
    drawn = chosen_clients(run, view, region)
    rows = [(c, peak[region == c].max(), caps.get(c, 0), 0) for c in drawn if (region == c).any()]
    if not rows:
        raise NothingToDraw(f"{run.path} has no finished rounds or periods yet, so there is no memory to draw")
    return np.array(rows, dtype=float)


WORKERS = {  # protocol: columns with the numbers of those that had work
    "rounds": [("tasks", "client")], "regions": [("regions", "region")], "split": [("split_rounds", "client"), ("clusters", "host")],
}


def workers(run):
    """Numbers of the clients that had work."""
    numbers = np.unique(np.concatenate([column(run, table, name) for table, name in WORKERS[run.protocol]]))
    return numbers[numbers != SERVER]


def draw_memory(axis, runs, view):
    """Peak memory of each client against the memory of its device, of the first run.

    Of more clients than fit, those with the least room are drawn."""
    run = runs[0]
    rows = client_memory(run, view)
    total = len(workers(run))
    if len(rows) > 2 * MAX_LANES and not view.clients:
        room = np.where(rows[:, 2] > 0, rows[:, 1] / np.maximum(rows[:, 2], 1), 0)
        room = np.where(rows[:, 3] > 0, np.inf, room)
        rows = rows[np.sort(np.argsort(-room, kind="stable")[: 2 * MAX_LANES])]
    sizes = rows[:, 1:3][rows[:, 1:3] > 0]
    unit, length = byte_unit(sizes.max(initial=1) / 3)
    wide = sizes.max(initial=1) > 20 * sizes.min(initial=sizes.max(initial=1))
    for y, (_, peak, cap, failed) in enumerate(rows):
        if cap > 0 and peak > 0:
            axis.plot([peak / length, cap / length], [y, y], color=FAINT, lw=3, zorder=1)
        if cap > 0:
            axis.plot(cap / length, y, marker="|", color=INK, ms=11, mew=2, ls="")
        if peak > 0:  # 0: not even the submodel that was sent fitted, so nothing was measured
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
    words = f"Peak memory of clients {least}" if least else "Peak memory of each client: "
    title(axis, words + run_names(runs, view)[0] + how_many(len(rows), total))
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


def legend_width(names, columns, size=STYLE["font.size"], handle=2.0, gap=2.0):
    """Width in inches of a legend; `handle` and `gap` are handlelength and columnspacing, in sizes of the font."""
    widths = [max(text_width(name, size) for name in part)
              for part in np.array_split(np.array(names, dtype=object), columns)]
    # Letters that are fitted to few pixels are a little wider.
    return 1.05 * sum(widths) + (columns * (handle + 0.8) + (columns - 1) * gap + 1.8) * size / 72


def columns_that_fit(names, room, **sizes):
    """The largest number of columns of a legend that `room` inches hold, at least 1."""
    fits = (n for n in range(len(names), 1, -1) if legend_width(names, n, **sizes) <= room)
    return next(fits, 1)


def legend_below(axis, handles):
    """A legend right of the label of the x axis, or below it where both do not fit in one line."""
    names = [handle.get_label() for handle in handles]
    room, label = room_of(axis), text_width(axis.get_xlabel(), STYLE["font.size"]) + 0.2
    columns = columns_that_fit(names, room, handle=1.3, gap=1.4)
    columns = math.ceil(len(names) / math.ceil(len(names) / columns))  # rows of about the same length
    beside = legend_width(names, len(names), handle=1.3, gap=1.4) + label <= room
    axis.legend(
        handles=handles,
        ncols=columns,
        frameon=False,
        loc="upper right",
        bbox_to_anchor=(1.005, 0),
        borderaxespad=1.9 if beside else 3.4,
        handlelength=1.3,
        columnspacing=1.4,
    )


def by_round(run, view, values, counts):
    """A dict from client to (round in which a task was sent, value of the task), for the tasks that count."""
    place = positions(run, "rounds")
    rounds = np.array([place.get(base, np.nan) + 1 for base in column(run, "tasks", "base_version")[counts]])
    return lines_of_clients(run, view, column(run, "tasks", "client")[counts], rounds, values[counts], "tasks")


def lines_of_clients(run, view, client, rounds, values, word):
    """A dict from client to (its rounds, its values)."""
    lines = {}
    for c in chosen_clients(run, view, client):
        mine = np.flatnonzero(client == c)
        order = np.argsort(rounds[mine], kind="stable")
        lines[int(c)] = rounds[mine][order], values[mine][order]
    if not any(len(x) for x, _ in lines.values()):
        raise NothingToDraw(f"{run.path} has no such {word} yet, so there is nothing to draw")
    return lines


def draw_by_round(axis, run, lines, length=1.0):
    """A line for each client: its values over rounds. Many clients are coloured by their device."""
    table = table_of(run, "clients")
    devices = dict(zip(table.get("client", ()), table.get("device", ())))
    by_client = len(lines) <= FEW or not devices
    keys = list(lines) if by_client else list(dict.fromkeys(devices.get(c, "?") for c in lines))
    for c, (x, y) in lines.items():
        i = keys.index(c if by_client else devices.get(c, "?"))
        thin = {"lw": 1.2, "ms": 2.5, "alpha": 0.9} if by_client else {"lw": 0.9, "ms": 2, "alpha": 0.65}
        axis.plot(x, y / length, marker="o" if len(x) <= MAX_DOTS else None, **look(i), **thin)
    labels = client_labels(run, keys) if by_client else [
        text(f"{key} ({count} client{'s' if count > 1 else ''})") for key in keys
        for count in [sum(devices.get(c, "?") == key for c in lines)]]
    if len(keys) <= 4 * FEW:
        handles = [Line2D([], [], **look(i), lw=1.6, label=label) for i, label in enumerate(labels)]
        axis.legend(handles=handles, frameon=False, fontsize=SMALL, loc="upper left",
                    bbox_to_anchor=(1.0, 1.02))
    rounds_below(axis, "round" if run.protocol == "split" else "round in which the task was sent")
    axis.set_ylim(bottom=0)


def worker_lines(run, view, values):
    """A dict from worker of split training to (its rounds, its values)."""
    return lines_of_clients(run, view, column(run, "split_rounds", "client"), column(run, "split_rounds", "round"), values, "rounds")


def client_updates(run, view=View()):
    """A dict from client to (round in which a task was sent, seconds until its update was there); in split training to (round,
    seconds of its passes and its messages)."""
    if run.protocol == "split":
        return worker_lines(run, view, column(run, "split_rounds", "compute_s") + column(run, "split_rounds", "transfer_s"))
    seconds = column(run, "tasks", "finished_s") - column(run, "tasks", "sent_s")
    arrived = np.isin(column(run, "tasks", "outcome"), ("merged", "dropped_stale", "rejected"))
    return by_round(run, view, seconds, arrived & np.isfinite(seconds))


def draw_updates(axis, runs, view):
    """Seconds from sending a task to the arrival of its update, for each client, of the first run. In split training: seconds of
    a worker's own passes and messages in a round."""
    lines = client_updates(runs[0], view)
    unit, length = time_unit(max(y.max() for _, y in lines.values() if len(y)))
    draw_by_round(axis, runs[0], lines, length)
    is_split = runs[0].protocol == "split"
    label_y(axis, f"{'time without waiting' if is_split else 'time until the update arrived'} ({unit})")
    title(axis, f"{'Time of each worker in a round' if is_split else 'Update time of each client'}: {run_names(runs, view)[0]}")
    return lines


def draw_batches(axis, runs, view):
    """Planned batch size of each worker of split training over rounds, of the first run."""
    lines = worker_lines(runs[0], view, column(runs[0], "split_rounds", "batch"))
    draw_by_round(axis, runs[0], lines)
    label_y(axis, "samples in a batch")
    title(axis, f"Batch size of each worker: {run_names(runs, view)[0]}")
    return lines


def client_retention(run, view=View()):
    """A dict from client to (round in which a task was sent, share of the model's parameters in its submodel), and what
    the share is of: the parameters of the model, or of the largest submodel if no checkpoint tells how large the model is."""
    parameters = column(run, "tasks", "parameters")
    whole = model_parameters(run)
    of = "the model's parameters" if whole else "the largest submodel's parameters"
    share = parameters / (whole or parameters.max(initial=1))
    return by_round(run, view, share, parameters > 0), of


def draw_retention(axis, runs, view):
    """Share of the model's parameters that the submodel of each task holds, for each client, of the first run."""
    lines, of = client_retention(runs[0], view)
    draw_by_round(axis, runs[0], lines)
    axis.set_ylim(0, max(1.04, 1.04 * max(y.max() for _, y in lines.values() if len(y))))
    label_y(axis, f"retention (share of {of})")
    title(axis, f"Retention of each client: {run_names(runs, view)[0]}")
    return lines


def shown_range(run, view):
    """First and last virtual second of the Gantt chart, and words that say which part it is."""
    times = column(run, "rounds", "virtual_time_s")
    finished = column(run, *{"rounds": ("tasks", "finished_s"), "regions": ("regions", "reached_s"),
                             "split": ("split_rounds", "ended_s")}[run.protocol])
    finished = finished[np.isfinite(finished)]
    if view.start is None and view.end is None and len(times):
        rounds = min(MAX_ROUNDS, len(times))
        word = "periods" if run.protocol == "regions" else "rounds"
        words = f"first {rounds} {word}" if rounds < len(times) else f"all {word}"
        return 0.0, times[rounds - 1], words
    start = view.start or 0.0
    end = view.end if view.end is not None else max(finished.max(initial=0), times.max(initial=0))
    if not start < end:
        raise PlotError(f"there is nothing between --from {start:g} and --to {end:g}; the run ends "
                        f"at {max(finished.max(initial=0), times.max(initial=0)):.6g} s")
    return start, end, f"{start:g} to {end:g} s"


def client_spans(run, view=View()):
    """Rows (client, part, begin, length) in seconds, within the range that is drawn, and the clients that had work in it."""
    start, end, _ = shown_range(run, view)
    if run.protocol == "rounds":
        inside = (column(run, "tasks", "sent_s") < end) & (column(run, "tasks", "finished_s") > start)
        spans = task_spans(run, np.flatnonzero(inside))
    else:
        spans = {"regions": exchange_spans, "split": worker_spans}[run.protocol](run)
    rows = [(client, part, max(begin, start), min(stop, end) - max(begin, start))
            for client, part, begin, stop in spans if min(stop, end) > max(begin, start)]
    # A task of no length has no row; its failure is drawn all the same.
    return rows, column(run, "tasks", "client")[inside] if run.protocol == "rounds" else np.array([row[0] for row in rows])


def exchange_spans(run):
    """Rows (region, part, begin, end) of all training, and of all fragments under way."""
    done, travels = region_spans(run)
    found = [*done, *((region, UNDER_WAY, begin, stop) for region, _, begin, stop in travels)]
    return [(float(region), *words) for region, *words in found if words[0] != "stall"]


def task_spans(run, chosen):
    """Rows (client, part, begin, end) of the chosen tasks."""
    client, sent = column(run, "tasks", "client"), column(run, "tasks", "sent_s")
    finished = column(run, "tasks", "finished_s")
    parts = [column(run, "tasks", part + "_s") for part, _ in SPANS]
    rows = []
    for i in chosen:
        begin = sent[i]
        for (part, _), lengths in zip(SPANS, parts):
            stop = begin + min(np.nan_to_num(lengths[i]), max(finished[i] - begin, 0.0))
            rows.append((client[i], part, begin, stop))
            begin = stop
    return rows


def worker_spans(run):
    """Rows (client, part, begin, end) of split training: what each worker's time in a round went to, one part after the other,
    its wait for other clusters, and the work of the hosts (steps of tops, or means)."""
    host, top, ended, waiting = (column(run, "clusters", name) for name in ("host", "top_s", "ended_s", "waiting_s"))
    number = {place: row for row, place in enumerate(places_of(run, "clusters"))}
    rows, stepped = [], set()
    for place, *times in zip(places_of(run, "iterations"), column(run, "iterations", "received_s"), column(run, "iterations", "stepped_s")):
        if place in number:
            stepped.add(place)
            rows.append((host[number[place]], AS_HOST, *times))
    lengths = [(words, column(run, "split_rounds", part + "_s")) for part, (words, _) in SHARES.items()]
    client, begun = column(run, "split_rounds", "client"), column(run, "split_rounds", "begun_s")
    for i, place in enumerate(places_of(run, "split_rounds")):
        if place not in number:  # a run that goes on
            continue
        cluster, begin = number[place], begun[i]
        if place not in stepped:  # iterations are not recorded
            stepped.add(place)
            rows.append((host[cluster], AS_HOST, begin, begin + top[cluster]))
        for words, seconds in lengths:
            rows.append((client[i], words, begin, begin + seconds[i]))
            begin += seconds[i]
        rows.append((client[i], BETWEEN, ended[cluster], ended[cluster] + waiting[cluster]))
    return rows


def places_of(run, table):
    """(round, cluster) of each row."""
    return list(zip(column(run, table, "round"), column(run, table, "cluster")))


GANTT = {  # protocol: parts and colours, word for what happens at a dashed line, words of the title
    "rounds": (SPANS, "merge", "What each client did when"),
    "regions": (REGION_SPANS, "version", "What each region did when"),
    "split": (SPLIT_SPANS, "version", "What each worker's time in a round went to"),
}


def draw_gantt(axis, runs, view):
    """What each client did when, as bars on the virtual time, of the first run. In split training the parts of a worker's round
    are sums over its iterations."""
    run = runs[0]
    is_split = run.protocol == "split"
    start, end, range_words = shown_range(run, view)
    rows, present = client_spans(run, view)
    clients = chosen_clients(run, view, present[present != SERVER])
    if len(clients) == 0:
        raise NothingToDraw(f"{run.path} has no {'rounds' if is_split else 'tasks'} between {start:g} and {end:g} s")
    drawn = clients if view.clients else clients[:MAX_LANES]
    all_lanes = [*([SERVER] if SERVER in present else []), *drawn]
    lane = {client: i for i, client in enumerate(all_lanes)}
    unit, length = time_unit(end - start)
    rows = [row for row in rows if row[0] in lane]
    parts, mark, words = GANTT[run.protocol]
    # Fragments travel while their region computes, so they have the lower part of the lane.
    places = {"compute": (0.4, -0.31), "lost": (0.4, -0.31), UNDER_WAY: (0.18, 0.13)} if run.protocol == "regions" else {}
    handles = []
    for part, colour in parts:
        height, shift = places.get(part, (0.62, -0.31))
        for c, y in lane.items():
            bars = [(b / length, w / length) for client, p, b, w in rows if client == c and p == part]
            # A step of a top can be too short for a bar that is seen.
            axis.broken_barh(bars, (y + shift, height), color=colour, lw=0.7 if part == AS_HOST else 0)
        if not (is_split or part == "lost") or any(row[1] == part for row in rows):
            handles.append(Patch(color=colour, lw=0, label=part))
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (1, 2)), label=mark))
    if run.protocol == "rounds":
        mark_failures(axis, run, (start, end, length), lane, handles)
    times = column(run, "rounds", "virtual_time_s")
    for time in times[(times >= start) & (times <= end)]:
        axis.axvline(time / length, color=INK, lw=0.8, ls=(0, (1, 2)), zorder=0.5)
    lanes(axis, run, all_lanes)
    axis.set_xlim(start / length, end / length)
    axis.set_xlabel(f"virtual time ({unit})" + ("; the parts of a round are sums over its iterations" if is_split else ""), loc="left")
    total = len(table_of(run, "clients").get("client", clients))
    title(axis, f"{words}: {run_names(runs, view)[0]}, {range_words}" + how_many(len(drawn), total))
    legend_below(axis, handles)
    return rows


def draw_shares(axis, runs, view):
    """For each client of split training its time in all rounds, by what it did, of the first run: a dict from part to the seconds
    of each client."""
    run = runs[0]
    rows = [(client, part, end - begin) for client, part, begin, end in worker_spans(run) if client != SERVER]
    client, parts, lengths = (np.array(values) for values in zip(*rows)) if rows else 3 * [np.empty(0)]
    clients = chosen_clients(run, view, client)
    if len(clients) == 0:
        raise NothingToDraw(f"{run.path} has no finished rounds yet, so there is nothing to draw this from")
    drawn = clients if view.clients else clients[:MAX_LANES]
    sums = {part: np.array([lengths[(client == c) & (parts == part)].sum() for c in drawn]) for part, _ in SPLIT_SPANS}
    unit, length = time_unit(sum(sums.values()).max())
    begin = np.zeros(len(drawn))
    for part, colour in SPLIT_SPANS:
        if sums[part].any():
            axis.barh(range(len(drawn)), sums[part] / length, left=begin, height=0.62, color=colour, lw=0, label=part)
        begin += sums[part] / length
    lanes(axis, run, drawn)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"virtual time of all rounds ({unit})", loc="left")
    title(axis, f"What each worker's time went to: {run_names(runs, view)[0]}" + how_many(len(drawn), len(clients)))
    legend_below(axis, axis.get_legend_handles_labels()[0])
    return sums


def mark_failures(axis, run, shown, lane, handles):
    """Marks tasks that failed within `shown`, (first second, last second, seconds of a unit)."""
    start, end, length = shown
    outcome, client = column(run, "tasks", "outcome"), column(run, "tasks", "client")
    finished = column(run, "tasks", "finished_s")
    for kind, (marker, words) in FAILURES.items():
        here = (outcome == kind) & (finished >= start) & (finished <= end) & np.isin(client, list(lane))
        if here.any():
            mark = {"ls": "", "marker": marker, "color": FAILED, "ms": 6, "mew": 1.8 if marker == "x" else 0.6}
            if marker != "x":
                mark["mec"] = "white"
            y = [lane[c] for c in client[here]]
            axis.plot(finished[here] / length, y, clip_on=False, zorder=4, **mark)
            handles.append(Line2D([], [], label=words, **mark))


PICTURES = {
    "quality": draw_quality,
    "staleness": draw_staleness,
    "utilisation": draw_utilisation,
    "coverage": draw_coverage,
    "trained": draw_trained,
    "waiting": draw_waiting,
    "memory": draw_memory,
    "updates": draw_updates,
    "batches": draw_batches,
    "retention": draw_retention,
    "gantt": draw_gantt,
}
MEASURED = {  # the column that a picture of curves shows; empty: the quality
    "quality": "", "staleness": "staleness_mean", "utilisation": "utilisation", "coverage": "coverage_mean",
    "trained": "coverage_ever", "waiting": "waiting_share",
}
OF_ONE_RUN = ("memory", "updates", "batches", "retention", "gantt")
BY_ROUND = ("updates", "batches", "retention")
OF_SPLIT = ("waiting", "batches")  # pictures of split training only


# --- figures -------------------------------------------------------------------------------------


def curve_legend(figure, axis, size):
    """Names of the curves: above if they are few, else in columns beside the axes, for which the figure grows unless
    `size` is given."""
    handles, names = axis.get_legend_handles_labels()
    few = len(names) - names.count(REACHED) <= FEW
    if any(name.endswith(" runs)") for name in names) and len(axis.collections):
        handles.append(Patch(color=INK, alpha=0.18, lw=0))
        names.append("mean ± standard deviation")
    width, height = figure.get_size_inches()
    above = columns_that_fit(names, width - 0.1, handle=1.6, gap=1.5)
    if few and (math.ceil(len(names) / above) <= 2 or size):
        figure.legend(handles, names, loc="outside upper center", ncols=above, frameon=False,
                      handlelength=1.6, columnspacing=1.5)
        return
    columns = math.ceil(len(names) / max(1, int(height / (1.75 * SMALL / 72))))
    beside = legend_width(names, columns, SMALL) + 0.1
    if size and beside > 0.6 * width:
        raise PlotError(f"the names of {len(names)} curves do not fit in {width:g}x{height:g} inches; give a larger "
                        "--size, or none")
    if not size:
        figure.set_size_inches(width + beside, height)
    figure.legend(handles, names, loc="outside right upper", ncols=columns, frameon=False, fontsize=SMALL)


def lanes_of(run, name, view):
    """Number of lines of the picture, for its height."""
    if name in BY_ROUND:
        return 8
    if view.clients:
        return len(view.clients)
    most = MAX_LANES if name == "gantt" else 2 * MAX_LANES
    return min(most, max(1, len(workers(run)))) + (name == "gantt" and SERVER in table_of(run, "clusters").get("host", ()))


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
    for c, against in enumerate(USUAL_AXES["summary"]):
        curves = draw_curves(axes[0, c], runs, view, quality, against)
        few = len(curves) <= FEW
        try:
            draw_curves(axes[1, c], runs, no_target, "loss", against, "train_loss" if few else None)
        except NothingToDraw:
            pass
    label_y(axes[1, 0], "loss" if few else "test loss")
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
    draw_clients = draw_shares if runs[0].protocol == "split" else draw_gantt
    draw_clients(figure.add_subplot(grid[2, :]), runs, view)
    curve_legend(figure, axes[0, 0], size)
    return figure


def figure(name, runs, view=View(), size=None):
    """A new matplotlib figure: "summary" or a name of PICTURES. `size` is in inches."""
    other = [run for run in runs if name in OF_SPLIT and run.protocol != "split"]
    if other:
        raise PlotError(f"{other[0].path} is no run of split training; only of such runs there is the picture {name}")
    with matplotlib.rc_context(STYLE):
        if name == "summary":
            return summary(runs, view, size)
        if name in OF_ONE_RUN:
            return panels_of_runs(name, runs, view, size)
        views = [dataclasses.replace(view, against=(a,)) for a in axes_of(name, view, runs)]
        columns = 2 if len(views) == 4 else len(views)
        rows = len(views) // columns
        new = new_figure((7.2, 9.6, 12.0)[columns - 1], max(2.9 * rows, 3.6), size)
        axes = new.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axis, one in zip(axes, views):
            PICTURES[name](axis, runs, one)
        for i, axis in enumerate(axes):
            if i % columns:
                axis.set_ylabel("")
        curve_legend(new, axes[0], size)
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


def fits(figure):
    """Whether the axes have room for more than their labels, and no label or legend is cut."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    with matplotlib.rc_context(STYLE):
        figure.draw(renderer)
    page = figure.bbox.padded(0.05 * figure.dpi)
    boxes = [axis.get_tightbbox(renderer) for axis in figure.axes]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    inside = all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    return inside and all(min(axis.bbox.width, axis.bbox.height) > 0.5 * figure.dpi for axis in figure.axes)


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
    "--group": {*USUAL_AXES},
    "--against": {*MEASURED},
    "--smooth": {*USUAL_AXES},
    "--target": {"summary", "quality"},
    "--measure": {"summary", "quality"},
    "--set": {"summary", "quality"},
    "--y": {"quality"},
    "--from": {"summary", "gantt"},
    "--to": {"summary", "gantt"},
    "--clients": {"summary", *OF_ONE_RUN},
}

PICTURE_HELP = """pictures (-p):
  summary    quality and loss of all runs; the clients of the first run
  quality    quality against virtual time, rounds, bytes, and wall time or steps
  staleness, utilisation, coverage, trained, waiting   of merges, for all runs
  memory     peak memory of each client against that of its device, for each run
  updates, retention, batches    of each client over rounds: time, share, size
  gantt      what each client did when, for each run

examples:
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


def limits(words):
    """"7,10.5" as (7.0, 10.5)."""
    try:
        low, high = (float(word) for word in words.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise PlotError(f"--y {words} must be two numbers like 7,10.5, the smaller one first")
    return low, high


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
    add("--against", metavar="X", help="some of virtual,rounds,steps,bytes,wall")
    add("--measure", default="", metavar="C", help="column of /evaluations or /rounds instead of quality")
    add("--set", default="test", metavar="S", help="set of the evaluations; default: test")
    add("--smooth", type=int, default=1, metavar="N", help="moving mean over N points")
    add("--y", metavar="LOW,HIGH", help="limits of the vertical axis, of quality")
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
    if not 1 <= arguments.smooth <= 10**9 or not 20 <= arguments.dpi <= 1200:
        raise PlotError("--smooth must be at least 1 and at most 1000000000, and --dpi between 20 and 1200")
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
        limits=limits(arguments.y) if arguments.y else (),
        clients=numbers(arguments.clients) if arguments.clients else (),
    )


def note(sentence):
    print(f"note: {sentence}", file=sys.stderr)


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
    """Warns about what the picture cannot show; prints where each curve reaches the target."""
    count = len(groups(runs, view.group)) if view.group else len(runs)
    if picture not in OF_ONE_RUN and count > len(COLOURS) * len(DASHES):
        note(f"with {count} curves some look alike; --group makes them fewer")
    if view.group:
        for label, members in groups(runs, view.group).items():
            other = differing(members)
            if other:
                shown = ", ".join(other[:4]) + (", ..." if len(other) > 4 else "")
                note(f"the runs of {label} differ in more than the seed: {shown}")
    if view.target is not None:
        tell_target(runs, view, view.measure or quality_of(runs))


def drawable(picture, runs, view):
    """`view` without the axes on which no group has a mean; notes name what is left out."""
    measure = MEASURED[picture] or view.measure or quality_of(runs)
    kept, left_out = [], []
    for axis in axes_of(picture, view, runs):
        try:
            curves = curves_of(runs, measure, axis, view)
            kept.append(axis)
            left_out += [Apart(curve.name, axis) for curve in curves if len(curve.x) == 0]
        except Apart as error:
            left_out.append(error)
    if not kept:
        raise left_out[0]
    for sentence in left_out:
        note(sentence)
    return dataclasses.replace(view, against=tuple(kept))


def tell_target(runs, view, measure):
    """Prints where each curve reaches the target."""
    words = {"virtual": "{:.6g} s virtual", "rounds": "round {:g}", "steps": "step {:g}", "bytes": "{:.6g} MB", "wall": "{:.6g} s wall"}
    places = {}
    for axis in AGAINST:
        try:
            found = curves_of(runs, measure, axis, view)
        except PlotError:  # no group has a mean on this axis
            continue
        for curve in found:
            told = places.setdefault(curve.name, [])
            at = reached(curve, view.target, measure)
            if at is not None:
                told.append(words[axis].format(curve.x[at] / (1e6 if axis == "bytes" else 1)))
    for name, told in places.items():
        print(f"{name}: {measure} {view.target:g} after {', '.join(told)}" if told else
              f"{name}: does not reach {measure} {view.target:g}")


def draw(words):
    """Does what the command line says; raises one sentence."""
    arguments = parse(words)
    view = view_of(arguments)
    runs = with_rows([open_run(path) for path in run_paths(arguments.runs)])
    if view.group:
        groups(runs, view.group)  # refuses an unknown option before anything is drawn
    name = "plot" if arguments.picture == "summary" else arguments.picture
    folder = os.path.dirname(os.path.abspath(runs[0].path))
    out = arguments.out or os.path.join(folder, name + ".png")
    size = size_in_inches(arguments.size) if arguments.size else None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            if view.group and arguments.picture != "summary":
                view = drawable(arguments.picture, runs, view)
            drawn = figure(arguments.picture, runs, view, size)
            if size and not fits(drawn):
                raise PlotError(f"the picture does not fit in {arguments.size} inches; give a larger --size, or none")
            drawing = io.BytesIO()
            save(drawn, drawing, arguments.dpi, os.path.splitext(out)[1][1:].lower())
            write_whole(out, drawing.getvalue())
        except (ValueError, ArithmeticError, IndexError, TypeError, MemoryError) as error:
            raise RunError(f"{runs[0].path} holds values that cannot be drawn, it may be damaged: {error}")
    tell(arguments.picture, runs, view)
    print(out)


@ends_well
def main(words=None):
    """Runs the tool and returns its exit status: 2 for a bad request, 3 for a file without a picture."""
    try:
        draw(sys.argv[1:] if words is None else words)
        return 0
    except (RunError, PlotError) as error:
        print(f"plot.py: {' '.join(str(error).split())}", file=sys.stderr)
        return getattr(error, "status", 3 if isinstance(error, NothingToDraw) else 2)


if __name__ == "__main__":
    sys.exit(main())
