#!/usr/bin/env python3
"""Makes a table of runs: quality, time, bytes and memory, as mean ± deviation over
seeds, compared with a baseline.

    tools/compare.py runs/fedavg-seed* runs/heterofl-seed* --target 0.9 --baseline fedavg
    tools/compare.py --sweep inputs/sweep.csv

Runs whose options are equal apart from the seed make one row. Runs that differ in their data, fleet or budget are refused;
with --allow-different the table shows what differs. docs/sweeps.md describes the columns.
"""

import argparse
import csv
import io
import math
import os
import random
import re
import statistics
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py")
from command_line import Parser, ends_well
from espalier_h5 import RunError, kind_of, read_rows, runs, summary
from run_state import DAMAGE, damage, write_whole

EXAMPLES = """examples:
  tools/compare.py 'runs/*' --target 0.5 --baseline fedavg
  tools/compare.py --sweep inputs/sweep.csv --columns top1,peak_mb,mb_down+mb_up
  tools/compare.py --sweep inputs/sweep.csv --baseline fedavg --saved virtual_s
  tools/compare.py --sweep inputs/sweep.csv --format latex -o table.tex
  tools/compare.py --sweep inputs/sweep.csv --into README.md --mark results"""
# Column: title, decimals (a number, or two limits: see `decimals_of`), unit.
COLUMNS = {
    "top1": ("top-1", 3, ""), "best_top1": ("best top-1", 3, ""), "server_top1": ("server top-1", 3, ""),
    "local_top1": ("local top-1", 3, ""), "loss": ("loss", 3, ""), "perplexity": ("perplexity", 2, ""),
    "best_perplexity": ("best perplexity", 2, ""), "target_s": ("time to {target}", "fine", " s"),
    "target_rounds": ("rounds to {target}", 0, ""), "target_mb": ("traffic to {target}", "coarse", " MB"),
    "target_wall_s": ("wall time to {target}", "fine", " s"), "peak_mb": ("peak memory", "fine", " MB"),
    "utilisation": ("utilisation", 2, ""), "staleness": ("staleness", 2, ""), "mb_down": ("down", "coarse", " MB"),
    "mb_up": ("up", "coarse", " MB"), "mb_device": ("between devices", "coarse", " MB"), "waiting": ("waiting", 2, ""),
    "updates": ("updates", 0, ""), "failures": ("failures", 0, ""), "rounds": ("rounds", 0, ""),
    "steps": ("steps", 0, ""), "target_steps": ("steps to {target}", 0, ""), "stall_s": ("stall", "fine", " s"),
    "virtual_s": ("virtual time", "fine", " s"), "wall_s": ("wall time", "fine", " s"),
}
USUAL = ("top1", "best_top1", "perplexity", "best_perplexity", "target_s", "target_rounds", "target_steps", "target_mb", "peak_mb", "utilisation",
         "mb_down+mb_up", "mb_device", "rounds", "steps", "virtual_s", "wall_s")
KINDS = ("data", "fleet", "budget")
# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
        2.101, 2.093, 2.086)
RESAMPLES = 10000
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"}


class CompareError(Exception):
    """One sentence about an option, or about runs that cannot be compared. The tool ends with status 2."""


class Row:
    """A run: `name` of its variant, `seed`, `figures` (numbers by column), `options` (texts by "section.key"), `note`, what
    else makes it unequal to others, and `commit` of the program."""

    def __init__(self, name, seed, figures, options, note="", commit=""):
        self.name, self.seed, self.figures, self.options, self.note = name, seed, figures, options, note
        self.commit = commit


# Where rows come from.


def rows_of_runs(paths, target=None, evaluated="test"):
    """A row of each run, with a short name of its variant."""
    many = runs(paths)
    sets = sorted({name for run in many for name in run.evaluations["set"]})
    if sets and evaluated not in sets:
        raise CompareError(f"no run has evaluations of {evaluated}; there are {', '.join(sets)}")
    options = {key: [run.config.get(key, "") for run in many] for key in many.options}
    differing = [key for key in options if key not in ("run.seed", "run.isa")]
    keys = [tuple(options[key][i] for key in differing) for i in range(len(many))]
    names = variant_names(many, keys, differing)
    rows = []
    for i, run in enumerate(many):
        try:
            figures = summary(run, target, evaluated)
        except DAMAGE as error:
            raise RunError(damage(run.path, error)) from None
        rows.append(Row(names[keys[i]], run.config.get("run.seed", ""), figures, {key: options[key][i] for key in differing},
                        "" if run.is_finished else f"{many.names[i]} is unfinished", run.attributes.get("git_sha", "")))
    return rows


def variant_names(many, keys, differing):
    """A unique name for each key: the runs' or their folders' name without its seed, or the options that differ."""
    for name_of in (lambda run: run.name, lambda run: os.path.basename(os.path.dirname(os.path.abspath(run.path)))):
        groups = {}
        for run, key in zip(many, keys):
            groups.setdefault(key, []).append((name_of(run), run.config.get("run.seed", "")))
        short = {key: name_without_seed(found) for key, found in groups.items()}
        if len(set(short.values())) == len(short):
            return short
    return {key: ", ".join(f"{name} = {value}" for name, value in zip(differing, key)) for key in groups}


def name_without_seed(found):
    """What the runs of a variant have in common in their names; `found` has (name, seed) of each. A number without a word for
    seed counts only if several seeds show that it is one: the name of a single run may end with another number."""
    for mark in (r"[-_. ]?seed[-_. =]?", r"[-_. ]s[-_. ]?", *([r"[-_. ]"] if len({seed for _, seed in found}) > 1 else [])):
        names = {re.sub(mark + re.escape(seed) + "$", "", name) for name, seed in found}
        if len(names) == 1 and names != {found[0][0]} and names != {""}:
            return names.pop()
    return min((name for name, _ in found), key=len)


def rows_of_csv(path, where=()):
    """The rows of a table that sweep.py wrote. The columns before `seed` name the variant; of these the name keeps those
    that differ."""
    found = read_rows(path)
    columns = list(found[0]) if found else []
    if found and "seed" not in columns:
        raise CompareError(f"{path} has no column seed, so it is not a table of sweep.py")
    for key, value in where:
        if columns and key not in columns:
            raise CompareError(f"{path} has no column {key}; it has {', '.join(columns)}")
        found = [row for row in found if row[key] == value]
    if not found:
        raise CompareError(f"{path} has no row" + (" with " + ", ".join(f"{k} = {v}" for k, v in where) if where else ""))
    place = columns.index("seed")
    names = [c for c in columns[:place] if len({row[c] for row in found}) > 1] or columns[:place][-1:]
    options = [c for c in columns if "." in c]
    others = (*columns[:place + 1], *options, "config", "commit")
    figures = {c: numbers_of(path, c, [row[c] for row in found]) for c in columns if c not in others}
    return [Row(" / ".join(row[c] for c in names), row["seed"], {c: values[i] for c, values in figures.items() if values},
                {c: row[c] for c in options}, commit=row.get("commit", "")) for i, row in enumerate(found)]


def numbers_of(path, column, texts):
    """The numbers of a column, NaN where it is empty; None if it is text of the user's own, such as notes."""
    found = []
    for text in texts:
        try:
            found.append(float(text or "nan"))
        except ValueError:
            if column not in COLUMNS:
                return None
            raise CompareError(f"{path} is damaged: {column} = {text} is no number") from None
    return found


def grouped(rows):
    """Rows by the name of their variant, in their order."""
    found = {}
    for row in rows:
        group = found.setdefault(row.name, [])
        if any(other.seed == row.seed for other in group):
            raise CompareError(f"two runs of {row.name} have the seed {row.seed}; give one of them")
        group.append(row)
    return found


# What must be equal.


def differences(rows):
    """What is unequal between the rows: {kind: [option, ...]}, and sentences about unfinished runs."""
    found = {}
    for key in dict.fromkeys(key for row in rows for key in row.options):
        if kind_of(key) and len({row.options.get(key, "") for row in rows}) > 1:
            found.setdefault(kind_of(key), []).append(key)
    notes = [row.note for row in rows if row.note]
    if notes and len(rows) > 1:
        found.setdefault("budget", [])
    return found, notes


def check_equal(rows, allowed):
    """Refuses rows that differ in what is not allowed; returns the options to show in the table."""
    found, notes = differences(rows)
    refused = [kind for kind in KINDS if kind in found and kind not in allowed]
    if refused:
        values = [f"{key}: {', '.join(dict.fromkeys(row.options.get(key, '') or 'none' for row in rows))}"
                  for kind in refused for key in found[kind]]
        values += notes if "budget" in refused else []
        raise CompareError(f"the runs differ in their {' and '.join(refused)} ({'; '.join(values)}); compare equal runs, or add "
                           f"--allow-different {','.join(refused)}")
    return [key for keys in found.values() for key in keys]


# Numbers.


def values_of(group, column):
    """The finite numbers of a column."""
    return [value for value in (row.figures.get(column, math.nan) for row in group) if math.isfinite(value)]


def decimals_of(rule, groups, column):
    """Decimals of a column: a number, or enough for its smallest mean: `fine` 1 or 3, `coarse` 0, 1 or 3."""
    if isinstance(rule, int):
        return rule
    means = [abs(statistics.mean(values)) for values in (values_of(g, column) for g in groups.values()) if values]
    least = min((mean for mean in means if mean > 0), default=1)
    limits = ((1, 1), (0, 3)) if rule == "fine" else ((10, 0), (1, 1), (0, 3))
    return next(decimals for limit, decimals in limits if least >= limit)


def mean_text(values, decimals):
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{decimals}f}{spread}"


def pairs_of(base, other, column):
    """The values of both for each seed at which both have one."""
    by_seed = {row.seed: row.figures.get(column, math.nan) for row in base}
    pairs = [(by_seed.get(row.seed, math.nan), row.figures.get(column, math.nan)) for row in other]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


class Compared:
    """A figure of a variant against the baseline's: `value`, its 95 % interval from `low` to `high` (NaN: none), `how` it was
    found ("paired", "bootstrap" or ""), and the number of `seeds`."""

    def __init__(self, value=math.nan, low=math.nan, high=math.nan, how="", seeds=0):
        self.value, self.low, self.high, self.how, self.seeds = value, low, high, how, seeds

    def mapped(self, change):
        """The same of `change(value)`; a falling function exchanges the ends."""
        low, high = sorted((change(self.low), change(self.high))) if self.how else (math.nan, math.nan)
        return Compared(change(self.value), low, high, self.how, self.seeds)


def paired(values):
    """Mean of the values of equal seeds, with a t interval."""
    center = statistics.mean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Compared(center, center - half, center + half, "paired", len(values))


def bootstrap(a, b, combine):
    """`combine` of the means of both, with a bootstrap interval if both have two values or more."""
    found = Compared(combine(statistics.mean(a), statistics.mean(b)), seeds=min(len(a), len(b)))
    if found.seeds >= 2:
        drawn = random.Random(1)
        every = sorted(combine(statistics.fmean(drawn.choices(a, k=len(a))), statistics.fmean(drawn.choices(b, k=len(b))))
                       for _ in range(RESAMPLES))
        found.low, found.high, found.how = every[int(0.025 * RESAMPLES)], every[int(0.975 * RESAMPLES)], "bootstrap"
    return found


def speed_up(base, other, column):
    """How many times smaller `column` is than for the baseline. Where both have two common seeds or more: geometric mean of
    the ratios of equal seeds, with a t interval of their logarithms. Otherwise the ratio of the means."""
    logs = [math.log(a / b) for a, b in pairs_of(base, other, column) if a > 0 and b > 0]
    if len(logs) >= 2:
        return paired(logs).mapped(math.exp)
    a, b = ([value for value in values_of(group, column) if value > 0] for group in (base, other))
    return bootstrap(a, b, lambda x, y: x / y) if a and b else Compared()


def saving(base, other, column):
    """How many percent smaller `column` is than for the baseline: 100 (1 - 1 / speed-up)."""
    return speed_up(base, other, column).mapped(lambda ratio: 100 * (1 - 1 / ratio))


def difference(base, other, column):
    """How much larger `column` is than for the baseline: mean difference at equal seeds, otherwise difference of the means."""
    pairs = pairs_of(base, other, column)
    if len(pairs) >= 2:
        return paired([b - a for a, b in pairs])
    a, b = values_of(base, column), values_of(other, column)
    return bootstrap(a, b, lambda x, y: y - x) if a and b else Compared()


def t_quantile(degrees):
    """97.5 % quantile of Student's t; beyond the table by its expansion around the normal distribution's 1.96."""
    if degrees <= len(T975):
        return T975[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


# The table.


def parse_columns(text, groups):
    """Columns as (names, title): "a+b" joins two, "a=TITLE" renames one."""
    known = dict.fromkeys(name for group in groups.values() for row in group for name in row.figures)
    chosen = []
    for word in text.split(",") if text else USUAL:
        names, _, title = word.partition("=")
        names = [name.strip() for name in names.split("+")]
        missing = [name for name in names if name not in known]
        if missing and text:
            raise CompareError(f"there is no column {missing[0]}; there are {', '.join(known)}")
        filled = any(values_of(group, name) for group in groups.values() for name in names)
        if not missing and (text or filled or names[0].startswith("target")):
            chosen.append((names, title.strip()))
    return chosen


def make_table(rows, columns="", target=None, against=(), allowed=(), head=""):
    """The table as (titles, lines, notes), all texts. `against` is the result of `comparisons`."""
    groups = grouped(rows)
    shown = check_equal(rows, allowed)
    chosen = parse_columns(columns, groups)
    if target is None:
        targets = {row.figures.get("target") for row in rows}
        target = targets.pop() if len(targets) == 1 else None
    named = "the target" if target is None else f"{target:.4g}" if target > 1 else f"{100 * target:.4g}%"
    titles = [head, "seeds", *shown]
    cells = {name: [name, str(len(group)), *shown_options(group, shown)] for name, group in groups.items()}
    for names, title in chosen:
        rules = [COLUMNS.get(name, (name.replace("_", " "), "fine", " MB" if "mb" in name.split("_") else "")) for name in names]
        titles.append(title or ", ".join(rule[0] for rule in rules).replace("{target}", named))
        decimals = [decimals_of(rule[1], groups, name) for rule, name in zip(rules, names)]
        for name, group in groups.items():
            found = [values_of(group, column) for column in names]
            text = ", ".join(mean_text(values, d) for values, d in zip(found, decimals)) + (rules[-1][2] if any(found) else "")
            if 0 < len(found[0]) < len(group):
                text += f" ({len(found[0])} of {len(group)})"
            cells[name].append(text)
    notes = [f"Different between the runs: {', '.join(shown)}."] if shown else []
    notes += [f"Note: {note}." for note in differences(rows)[1]]
    for comparison in against:
        titles.append(comparison.title(named))
        for name, text in comparison.cells(groups).items():
            cells[name].append(text)
        notes.append(comparison.note(groups))
    return titles, list(cells.values()), notes


def shown_options(group, keys):
    return [", ".join(dict.fromkeys(row.options.get(key, "") for row in group)) for key in keys]


class Comparison:
    """A column of the table that compares a figure, `column`, with the baseline's. `kind` is a key of COMPARISONS."""

    def __init__(self, kind, column, baseline):
        self.kind, self.column, self.baseline = kind, column, baseline
        self.find = COMPARISONS[kind]

    def title(self, named="the target"):
        if self.kind == "speed_up":
            return "speed-up"
        word = COLUMNS.get(self.column, (self.column.replace("_", " "),))[0].replace("{target}", named)
        return f"{word}, saved" if self.kind == "saved" else f"{word}, difference"

    def values(self, groups):
        return {name: self.find(groups[self.baseline], group, self.column) for name, group in groups.items()}

    def written(self, value):
        if self.kind == "speed_up":
            return f"{value:.2f}"
        decimals = 1 if self.kind == "saved" else COLUMNS.get(self.column, ("", 3))[1]
        text = f"{value:+.{decimals if isinstance(decimals, int) else 3}f}".replace("-", "−")
        return text if self.kind == "difference" else text.removeprefix("+")

    def cells(self, groups):
        found = {}
        for name, own in self.values(groups).items():
            unit = {"speed_up": " ×", "saved": " %"}.get(self.kind, COLUMNS.get(self.column, ("", 0, ""))[2])
            text = "–" if math.isnan(own.value) else self.written(own.value) + unit
            if name == self.baseline:
                text = text if self.kind == "speed_up" else "–"
            elif own.how:
                way = ", bootstrap" if own.how == "bootstrap" else ""
                text += f" ({self.written(own.low)} to {self.written(own.high)}{way})"
                text += f" ({own.seeds} of {len(groups[name])})" if own.seeds < len(groups[name]) else ""
            found[name] = text
        return found

    def note(self, groups):
        """The sentence that explains the column."""
        used = {own.how for name, own in self.values(groups).items() if name != self.baseline} - {""}
        ratio = self.kind != "difference"
        ways = {"paired": f"{'geometric mean' if ratio else 'mean'} over equal seeds and its 95 % t interval",
                "bootstrap": f"{'ratio' if ratio else 'difference'} of means and its 95 % bootstrap interval"}
        explained = "; ".join(ways[how] for how in sorted(used, reverse=True))
        figure = COLUMNS.get(self.column, (self.column,))[0].replace(" to {target}", " to the target")
        text = {"speed_up": f"Speed-up: {figure} of {self.baseline} divided by that of the row",
                "saved": f"Saved: how much less {figure} the row needs than {self.baseline}, 1 − 1 / speed-up",
                "difference": f"Difference: {figure} of the row minus that of {self.baseline}"}[self.kind]
        return text + (f" ({explained})." if explained else ".")


COMPARISONS = {"speed_up": speed_up, "saved": saving, "difference": difference}


def comparisons(rows, baseline, speedup=None, saved="", differing=""):
    """The Comparisons that the options ask for: a speed-up, unless only others are asked for."""
    if not baseline:
        if speedup or saved or differing:
            raise CompareError("--speedup, --saved and --difference need --baseline NAME")
        return []
    groups = grouped(rows)
    if baseline not in groups:
        raise CompareError(f"there is no variant {baseline} for --baseline; there are {', '.join(groups)}")
    wanted = [("speed_up", speedup or default_measure(rows))] if speedup or not (saved or differing) else []
    wanted += [(kind, column.strip()) for kind, text in (("saved", saved), ("difference", differing))
               for column in text.split(",") if column.strip()]
    known = dict.fromkeys(name for row in rows for name in row.figures)
    for kind, column in wanted:
        if column not in known:
            raise CompareError(f"there is no column {column} for --{kind.replace('_', '')}; there are {', '.join(known)}")
    return [Comparison(kind, column, baseline) for kind, column in wanted]


def default_measure(rows):
    return "target_s" if any("target_s" in row.figures for row in rows) else "virtual_s"


def markdown(titles, lines, notes):
    def line_of(cells):
        return "| " + " | ".join(re.sub(r"([\\|*`<])", r"\\\1", cell) for cell in cells) + " |"

    text = [line_of(titles) if titles[0] else "| " + line_of(titles[1:]), "|---" + "|--:" * (len(titles) - 1) + "|"]
    text += [line_of(line) for line in lines]
    return "\n".join(text + ([""] + notes if notes else [])) + "\n"


def latex(titles, lines, notes):
    def plain(text):
        text = re.sub(r"[\\&%$#_{}~^<>|]", lambda found: LATEX.get(found[0], "\\" + found[0]), text)
        for sign, word in (("±", r"$\pm$"), ("×", r"$\times$"), ("–", "--"), ("−", "$-$")):
            text = text.replace(sign, word)
        return text

    rows = [" & ".join(map(plain, line)) + r" \\" for line in (titles, *lines)]
    text = [r"\begin{tabular}{l" + "r" * (len(titles) - 1) + "}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule",
            r"\end{tabular}", *("% " + note for note in notes)]
    return "\n".join(text) + "\n"


def machine_csv(rows, columns, against, allowed):
    """Means and deviations as plain numbers, a column each."""
    shown, groups = check_equal(rows, allowed), grouped(rows)
    names = [name for joined, _ in parse_columns(columns, groups) for name in joined]
    compared = [(comparison.kind if comparison.kind == "speed_up" else f"{comparison.column}_{comparison.kind}",
                 comparison.values(groups)) for comparison in against]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["variant", "seeds", *shown, *(f"{name}{part}" for name in names for part in ("", "_deviation")),
                     *(f"{title}{part}" for title, _ in compared for part in ("", "_low", "_high"))])
    for name, group in groups.items():
        line = [name, len(group), *shown_options(group, shown)]
        for column in names:
            values = values_of(group, column)
            line += [f"{statistics.mean(values):.9g}" if values else "",
                     f"{statistics.stdev(values):.9g}" if len(values) > 1 else ""]
        for _, values in compared:
            own = values[name]
            line += ["" if math.isnan(v) else f"{v:.6g}" for v in (own.value, own.low, own.high)]
        writer.writerow(line)
    return out.getvalue()


def put_into(page, mark, text):
    """Replaces what stands between <!-- MARK --> and <!-- end MARK --> in a page."""
    try:
        with open(page, encoding="utf-8") as file:
            before = file.read()
    except FileNotFoundError:
        raise RunError(f"there is no {page}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{page} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    begin, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    if before.count(begin) != 1 or before.count(end) != 1 or before.index(end) < before.index(begin):
        raise CompareError(f"{page} needs the lines {begin.strip()} and {end}, each once and in this order")
    head, rest = before.split(begin)
    write_whole(page, head + begin + text + end + rest.split(end)[1])


# The command.


def conditions(texts):
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise CompareError(f"--where {text} needs the form COLUMN=VALUE")
        found.append((key.strip(), value.strip()))
    return found


def work(options):
    if bool(options.runs) == bool(options.sweep):
        raise CompareError("give runs' folders, or --sweep and a table that sweep.py wrote")
    if bool(options.into) != bool(options.mark):
        raise CompareError("--into PAGE and --mark NAME belong together")
    if options.target is not None and not 0 < options.target < math.inf:
        raise CompareError(f"--target {options.target:g} is no quality, such as 0.8 for a top-1 of 80 %, or a perplexity")
    allowed = set(options.allow_different.replace("all", ",".join(KINDS)).split(",")) - {""}
    if allowed - set(KINDS):
        raise CompareError(f"--allow-different {options.allow_different}: write some of {', '.join(KINDS)}, or all")
    if options.sweep:
        if options.target is not None:
            raise CompareError("--target needs runs; a sweep has `target = ` in its file")
        rows = rows_of_csv(options.sweep, conditions(options.where))
    else:
        if options.where:
            raise CompareError("--where needs --sweep; of runs, give those to compare")
        rows = rows_of_runs(options.runs, options.target, options.evaluated)
    check_equal(rows, allowed)
    commits = sorted({row.commit for row in rows} - {""})
    if len(commits) > 1:
        print(f"compare.py: note: the runs are of different commits of the program: {', '.join(commits)}", file=sys.stderr)
    against = comparisons(rows, options.baseline, options.speedup, options.saved, options.difference)
    if options.format == "csv":
        text = machine_csv(rows, options.columns, against, allowed)
    else:
        made = make_table(rows, options.columns, options.target, against, allowed, options.head)
        text = (latex if options.format == "latex" else markdown)(*made)
    if options.into:
        put_into(options.into, options.mark, text)
    elif options.out:
        write_whole(options.out, text)
    else:
        print(text, end="")


@ends_well
def main():
    parser = Parser(usage="compare.py RUN... | --sweep CSV [options]", description=__doc__.split("\n\n")[0], epilog=EXAMPLES,
                    formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28))
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a run's folder, its run.h5, or a pattern like 'runs/a-*'")
    parser.add_argument("--sweep", metavar="CSV", help="the CSV file of a sweep, instead of runs")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="only these rows of the CSV file")
    parser.add_argument("--target", type=float, metavar="Q", help="quality to reach: top-1, or perplexity")
    parser.add_argument("--evaluated", default="test", metavar="SET", help="set of /evaluations that counts; default: test")
    parser.add_argument("--columns", default="", metavar="LIST", help="like a,b+c,d=TITLE; + joins two columns")
    parser.add_argument("--baseline", metavar="NAME", help="variant for the speed-up")
    parser.add_argument("--speedup", metavar="COLUMN", help="what it divides; default: target_s, else virtual_s")
    parser.add_argument("--saved", default="", metavar="LIST", help="percent less than the baseline, of virtual_s")
    parser.add_argument("--difference", default="", metavar="LIST", help="difference from the baseline, of top1")
    parser.add_argument("--allow-different", default="", metavar="KINDS", help="compare runs of unequal data, fleet, budget, or all")
    parser.add_argument("--format", choices=("markdown", "csv", "latex"), default="markdown", metavar="F", help="markdown, csv or latex; default: markdown")
    parser.add_argument("--head", default="", metavar="TITLE", help="title of the first column")
    parser.add_argument("-o", "--out", metavar="FILE", help="file to write; default: print")
    parser.add_argument("--into", metavar="PAGE", help="write the table into a page, between the lines")
    parser.add_argument("--mark", metavar="NAME", help="<!-- NAME --> and <!-- end NAME -->")
    try:
        work(parser.parse_intermixed_args())
    except (CompareError, RunError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return getattr(error, "status", 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
