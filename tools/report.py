#!/usr/bin/env python3
"""Writes one HTML page about a run: what ran, curves, what each client did when,
why tasks failed, the command to run it again.

    tools/report.py runs/quickstart            writes runs/quickstart/report.html

The page is one file. It needs no network, so it can be mailed or archived. docs/reports.md describes its parts.
"""

import argparse
import html
import json
import math
import os
import re
import shlex
import sys
import urllib.parse

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py")
import numpy as np
from command_line import Parser, ends_well
from espalier_h5 import RunError, byte_unit, changed_options, duration, model_parameters, open_run, time_unit
from run_state import DAMAGE, FAILURES, damage, folder_of, quality_of, state_of, warnings_of, write_whole
from sweep_rows import defaults, program_commit

EXAMPLES = """examples:
  tools/report.py runs/quickstart
  tools/report.py runs/quickstart -o quickstart.html
  tools/report.py runs/large --clients 200    more clients in chart and table"""
OUTCOMES = ("merged", "dropped_stale", "out_of_memory", "crashed", "rejected", "unavailable", "unfinished")
MAX_TASKS = 20000  # in the chart; more make the page slow
WIDE = {True: ' class="wide"', False: ' class="wide empty"'}
HERE = os.path.dirname(os.path.abspath(__file__))


def escaped(text):
    return html.escape(str(text))


def number(value, digits=4):
    """A number for people: 0.958, 12.3, 61 706; an en dash for NaN."""
    if isinstance(value, (int, np.integer)):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.{digits}g}" if np.isfinite(value) else "–"


def size(count):
    """Bytes with a decimal unit."""
    unit, length = byte_unit(count)
    return f"{count / length:.3g} {unit}"


# Pictures -------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 210, 46, 12, 10, 36


def ticks(low, high, count=5):
    """Round numbers within [low, high]."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def limits(arrays, from_zero):
    """The range of an axis for finite values."""
    values = np.concatenate(arrays)
    low, high = float(values.min()), float(values.max())
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        pad = 0.5 * abs(high) or 1.0
        return low - (0.0 if from_zero else pad), high + pad
    pad = 0.05 * (high - low)
    return (low if from_zero and low == 0 else low - pad), high + pad


def curve(title, x_label, series, y_label="", from_zero=False):
    """A <figure> of lines. `series` holds (label, colour number, dashed, xs, ys). "" if there is no finite value."""
    series = [(label, colour, dashed, *every_few(np.asarray(xs, float), np.asarray(ys, float))) for label, colour, dashed, xs, ys in series]
    # A line goes on over rounds without a value.
    series = [(*words, xs[seen], ys[seen]) for *words, xs, ys in series if (seen := np.isfinite(xs) & np.isfinite(ys)).any()]
    if not series:
        return ""
    y_low, y_high = limits([s[4] for s in series], from_zero)
    x_low, x_high = 0.0, max(float(s[3].max()) for s in series) or 1.0

    def px(x):
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y):
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>'
                     f'<text x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in ticks(x_low, x_high):
        parts.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:.4g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escaped(x_label)}</text>')
    for label, colour, dashed, xs, ys in series:
        path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in zip(xs.tolist(), ys.tolist()))
        parts.append(f'<path class="line c{colour}{" dashed" if dashed else ""}" d="M{path}"/>')
        if len(xs) <= 60:
            parts += [f'<circle class="dot c{colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="2.2"><title>{escaped(label)} {y:.4g} at '
                      f"{x:.4g}</title></circle>" for x, y in zip(xs.tolist(), ys.tolist())]
    keys = "".join(f'<span class="key"><i class="c{colour}{" dashed" if dashed else ""}"></i>{escaped(label)}</span>'
                   for label, colour, dashed, _, _ in series)
    unit = f" <small>{escaped(y_label)}</small>" if y_label else ""
    return (f'<figure><figcaption><b>{escaped(title)}</b>{unit}<span class="keys">{keys}</span></figcaption>'
            f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(title)}">{"".join(parts)}</svg>'
            f"</figure>")


def thinned(xs, columns, most=75):
    """Blocks of consecutive rounds instead of more than twice `most` rounds: (number of rounds in a block, the x at the end of
    each, the values of each column, without those that are not finite). `columns` holds (values, function of a block)."""
    block = -(-len(xs) // most) if len(xs) > 2 * most else 1
    starts = range(0, len(xs), block)
    ends = np.array([xs[min(i + block, len(xs)) - 1] for i in starts])

    def reduced(values, reduce):
        values = values[np.isfinite(values)]
        return reduce(values) if len(values) else np.nan

    return block, ends, [np.array([reduced(values[i:i + block], reduce) for i in starts]) for values, reduce in columns]


def every_few(xs, ys, most=1500):
    """At most about `most` points of a curve, the last one included."""
    if len(xs) <= most:
        return xs, ys
    chosen = np.unique(np.linspace(0, len(xs) - 1, most).astype(int))
    return xs[chosen], ys[chosen]


def word_of(run):
    """What `run.rounds` counts."""
    return "period" if run.protocol == "regions" else "round"


def batches(run, xs):
    """Lines of the batch sizes in each round of split training."""
    workers = run.tables["split_rounds"]
    of_rounds = [workers["batch"][workers["round"] == number] for number in run.rounds["round"]]
    return [(word, colour, colour != 1, xs, np.array([reduce(sizes) for sizes in of_rounds]))
            for word, colour, reduce in (("largest", 2, np.max), ("mean", 1, np.mean), ("smallest", 4, np.min))]


def curves(run):
    """All curves of a run, as HTML."""
    rounds, seen = run.rounds, run.evaluations
    if len(rounds["round"]) == 0 and len(seen["version"]) == 0:
        return f'<p class="none">No {word_of(run)} is recorded yet.</p>'
    last = max(rounds["virtual_time_s"].max(initial=0), seen["virtual_time_s"].max(initial=0))
    unit, length = time_unit(last)
    label, x = f"virtual time ({unit})", rounds["virtual_time_s"] / length
    name, versions, _ = quality_of(run)
    column = "perplexity" if name == "perplexity" else "top1"
    sets = list(dict.fromkeys(seen["set"].tolist()))
    sets, words = sets[:4], f"; first 4 of {len(sets)} sets" if len(sets) > 4 else ""

    def of_sets(column):
        nothing = np.full(len(seen["version"]), np.nan)
        return [(str(s), i + 1, False, seen["virtual_time_s"][seen["set"] == s] / length, seen.get(column, nothing)[seen["set"] == s])
                for i, s in enumerate(sets)]

    mega = 1e-6
    none = np.full(len(x), np.nan)  # of what this protocol does not record; its picture is left out

    def recorded(name):
        return rounds.get(name, none)

    block, ends, (merged, stale, lost, age, oldest, used, holders, fewest, stalls, waits) = thinned(x, [
        (recorded("updates_merged"), np.mean), (recorded("updates_stale"), np.mean), (recorded("updates_dropped"), np.mean),
        (recorded("staleness_mean"), np.mean), (recorded("staleness_max"), np.max), (100 * rounds["utilisation"], np.mean),
        (recorded("coverage_mean"), np.mean), (recorded("coverage_min"), np.min), (recorded("stall_s"), np.mean),
        (100 * recorded("waiting_share"), np.mean)])
    moved = np.cumsum(recorded("device_bytes")) * mega
    between_devices = [("between devices", 4, False, x, moved)] if np.nanmax(moved, initial=0) > 0 else []
    over = f"; over {block} {word_of(run)}s each" if block > 1 else ""
    pictures = [
        curve("Perplexity" if column == "perplexity" else "Accuracy", label, of_sets(column),
              ("" if column == "perplexity" else "top-1, share of samples") + words),
        curve("Loss", label, of_sets("loss") + [("training", 0, True, x, rounds["train_loss"])]),
        curve("Updates in a round", label, [("merged", 1, False, ends, merged), ("of them stale", 2, False, ends, stale),
                                            ("lost", 4, True, ends, lost)], "updates" + over, True),
        curve("Staleness", label, [("mean", 1, False, ends, age), ("maximum", 2, True, ends, oldest)], "versions" + over, True),
        curve("Utilisation", label, [("clients at work", 1, False, ends, used)], "% of their time" + over, True),
        curve("Coverage", label, [("mean", 1, False, ends, holders), ("minimum", 2, True, ends, fewest)],
              "updates per parameter" + over, True),
        curve("Stalls", label, [("all regions", 4, False, ends, stalls)], "s in a period" + over, True),
        curve("Waiting", label, [("workers, for others", 4, False, ends, waits)], "% of their time" + over, True),
        curve("Batch sizes", label, batches(run, x), "samples", True) if run.protocol == "split" else "",
        curve("Traffic, in sum", label, [("down", 1, False, x, np.cumsum(rounds["bytes_down"]) * mega),
                                         ("up", 2, True, x, np.cumsum(rounds["bytes_up"]) * mega), *between_devices], "MB", True),
        curve("Largest memory of a client", label, [("peak", 1, False, x, rounds["peak_client_bytes"] * mega)], "MB", True),
        curve("Time on this machine", label, [("wall time", 1, False, x, recorded("wall_time_s"))], "s", True),
    ]
    return f'<div class="curves">{"".join(pictures)}</div>'


def outcomes_of(run):
    """All outcomes; those that a newer program may have come last."""
    return list(dict.fromkeys([*OUTCOMES, *run.tasks["outcome"].tolist()]))


def chart_data(run, max_clients):
    """What the script of the page draws: one row for each client, and the tasks, sorted by the time that they were sent."""
    tasks = run.tasks
    clients = run.clients["client"].tolist()
    with_tasks = np.unique(tasks["client"]).tolist()
    chosen = [c for c in clients if c in set(with_tasks)][:max_clients] if len(clients) > max_clients else clients
    lane = {client: i for i, client in enumerate(chosen)}
    rows = [i for i in np.argsort(tasks["sent_s"], kind="stable").tolist() if int(tasks["client"][i]) in lane]
    shown = rows[:MAX_TASKS]
    devices = dict(zip(clients, run.clients["device"].tolist()))
    outcomes = outcomes_of(run)

    def seconds(value):
        return float(f"{value:.9g}") if np.isfinite(value) else 0

    listed = []
    for i in shown:
        start, finish = tasks["sent_s"][i], tasks["finished_s"][i]
        ends = [start]
        for part in ("download_s", "compute_s", "upload_s"):
            ends.append(min(ends[-1] + np.nan_to_num(tasks[part][i]), finish))
        listed.append([lane[int(tasks["client"][i])], int(tasks["task"][i]), *map(seconds, ends), seconds(finish),
                       outcomes.index(str(tasks["outcome"][i])), int(tasks["merged_version"][i]), int(tasks["staleness"][i]),
                       int(tasks["rank"][i])])
    return {
        "clients": [[int(c), str(devices[c])] for c in chosen], "tasks": listed, "outcomes": outcomes,
        "failed": [outcomes.index(o) for o in FAILURES], "merges": [seconds(t) for t in run.rounds["virtual_time_s"]],
        "end": seconds(max(run.rounds["virtual_time_s"].max(initial=0), tasks["finished_s"].max(initial=0))),
        "note": left_out(len(chosen), len(clients), len(shown), len(rows)),
    }


def left_out(chosen, clients, shown, rows):
    notes = []
    if chosen < clients:
        notes.append(f"{chosen} of {clients} clients are shown (--clients shows more)")
    if shown < rows:
        notes.append(f"the first {shown} of their {rows} tasks are shown")
    return "; ".join(notes)


# Words ----------------------------------------------------------------------------------------------------------------

def is_positive(run, option):
    try:
        return float(run.config.get(option, 0) or 0) > 0
    except ValueError:
        return False


def reason(run, outcome, rows, device):
    """Why tasks of one client ended with `outcome`: one or two sentences."""
    config, tasks = run.config, run.tasks
    if outcome == "out_of_memory":
        asked, cap = tasks["asked_bytes"][rows].max(), tasks["cap_bytes"][rows].max()
        return (f"The submodel did not fit: with {size(cap)} of memory on the device, a request for {size(asked)} was refused. Give "
                f"[device.{device}] more memory_mb, or choose smaller submodels.")
    if outcome == "crashed":
        return f"The client crashed during the task, so its work is lost (faults.crash = {config.get('faults.crash', '?')})."
    if outcome == "rejected":
        cause = f"faults.not_finite = {config['faults.not_finite']}" if is_positive(run, "faults.not_finite") else \
            "the training diverged: lower train.lr, or set train.clip"
        return f"The update has values that are not finite, so it was not merged ({cause})."
    if outcome == "unavailable":
        cause = f" (faults.vanish = {config['faults.vanish']})" if is_positive(run, "faults.vanish") else ""
        return f"The client vanished during the task and sent no update{cause}."
    if outcome == "dropped_stale":
        late = tasks["staleness"][rows]
        age = f"{late.min()}" if late.min() == late.max() else f"{late.min()} to {late.max()}"
        return f"The update was too stale: {age} version{'' if age == '1' else 's'} old, and window.max_staleness is {config.get('window.max_staleness', '?')}."
    return ""


def client_rows(run, max_clients):
    """(rows of the table of clients, number of clients left out). Clients with failures come before others if not all fit."""
    tasks, clients = run.tasks, run.clients
    order = clients["client"].tolist()
    if len(order) > max_clients:
        failed = set(tasks["client"][np.isin(tasks["outcome"], (*FAILURES, "dropped_stale"))].tolist())
        order = sorted(order, key=lambda c: (c not in failed, c))[:max_clients]
        order.sort()
    place = {c: i for i, c in enumerate(clients["client"].tolist())}
    by_client = {c: np.flatnonzero(tasks["client"] == c) for c in order}
    ends = run.rounds["virtual_time_s"] if len(run.rounds["round"]) else tasks["finished_s"]  # no window has closed yet
    end = max(ends.max(initial=0), 1e-12)
    table = []
    for c in order:
        rows, device = by_client[c], str(clients["device"][place[c]])
        outcomes = tasks["outcome"][rows]
        merged = outcomes == "merged"
        finished = tasks["sent_s"][rows] + sum(np.nan_to_num(tasks[p][rows]) for p in ("download_s", "compute_s", "upload_s"))
        finished = np.minimum(np.minimum(finished, tasks["finished_s"][rows]), end)  # a crash ends a task early
        busy = np.maximum(finished - tasks["sent_s"][rows], 0).sum()
        peak, cap = tasks["peak_bytes"][rows].max(initial=0), clients["memory_bytes"][place[c]]
        reasons = []
        for outcome in outcomes_of(run)[1:]:
            if outcome == "unfinished":
                continue
            found = rows[outcomes == outcome]
            if len(found):
                reasons.append((outcome, len(found), reason(run, outcome, found, device)))
        table.append({
            "client": c, "device": device, "samples": int(clients["samples"][place[c]]), "tasks": len(rows),
            "merged": int(merged.sum()), "unfinished": int((outcomes == "unfinished").sum()),
            "staleness": tasks["staleness"][rows][merged].mean() if merged.any() else np.nan,
            "busy": min(1.0, busy / end), "peak": int(peak), "cap": int(cap), "reasons": reasons,
        })
    return table, len(clients["client"]) - len(order)


def outcome_table(run, max_clients):
    rows, hidden = client_rows(run, max_clients)
    lines = []
    for row in rows:
        peak = size(row["peak"]) if row["peak"] else "–"
        if row["cap"]:
            share = min(1.0, row["peak"] / row["cap"])
            peak = f'<span class="meter" style="--share:{share:.3f}"></span>{peak} of {size(row["cap"])}'
        why = "".join(f'<div class="why"><b>{count} {escaped(outcome.replace("_", " "))}.</b> {escaped(text)}</div>'
                      for outcome, count, text in row["reasons"])
        if row["unfinished"]:
            why += f'<div class="why quiet">{row["unfinished"]} unfinished when the run ended.</div>'
        if row["tasks"] == 0 and len(run.tasks["task"]):
            why = '<div class="why quiet">It was sent no task.</div>'
        cells = [("client", f'<b>{row["client"]}</b>'), ("device", escaped(row["device"])), ("samples", number(row["samples"])),
                 ("tasks", number(row["tasks"])), ("merged", number(row["merged"])), ("staleness", number(row["staleness"], 3)),
                 ("busy", f'{100 * row["busy"]:.0f} %'), ("peak memory", peak),
                 ("not merged", why)]
        lines.append("<tr>" + "".join(f'<td data-label="{label}"{WIDE.get(bool(cell), "") if label == "not merged" else ""}><div>{cell}</div></td>'
                                      for label, cell in cells) + "</tr>")
    head = "".join(f"<th>{label}</th>" for label in
                   ("client", "device", "samples", "tasks", "merged", "staleness", "busy", "peak memory", "not merged, and why"))
    return f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>{hidden_clients(hidden)}'


def region_table(run):
    """What each region did, as a table."""
    regions, exchanges = run.tables["regions"], run.tables["exchanges"]
    lines = []
    for region, device, cap in zip(*(run.clients[c].tolist() for c in ("client", "device", "memory_bytes"))):
        mine, sent = regions["region"] == region, exchanges["region"] == region
        peak = regions["peak_bytes"][mine].max(initial=0)
        loss = regions["train_loss"][mine]
        compute, stall = regions["compute_s"][mine].sum(), regions["stall_s"][mine].sum()
        cells = [("region", f"<b>{region}</b>"), ("device", escaped(str(device))), ("steps", number(int(regions["steps"][mine].sum()))),
                 ("samples", number(int(regions["samples"][mine].sum()))), ("training loss", number(loss[-1], 4) if len(loss) else "–"),
                 ("computes", duration(compute)), ("stalls", duration(stall)), ("fragments sent", number(int(sent.sum()))),
                 ("up", size(exchanges["bytes_up"][sent].sum())), ("down", size(exchanges["bytes_down"][sent].sum())),
                 ("peak memory", (size(peak) if peak else "–") + (f" of {size(cap)}" if cap else ""))]
        lines.append("<tr>" + "".join(f'<td data-label="{label}"><div>{cell}</div></td>' for label, cell in cells) + "</tr>")
    head = "".join(f"<th>{label}</th>" for label, _ in cells) if lines else ""
    return f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def worker_table(run, max_clients):
    """What each client of split training did, as a table."""
    workers, clusters = run.tables["split_rounds"], run.tables["clusters"]
    has_hosts = (clusters["host"] >= 0).any()
    lines = []
    for client, device, cap in list(zip(*(run.clients[c].tolist() for c in ("client", "device", "memory_bytes"))))[:max_clients]:
        mine, held = workers["client"] == client, clusters["host"] == client
        peak = max(workers["peak_bytes"][mine].max(initial=0), clusters["peak_bytes"][held].max(initial=0))
        loss, batch = workers["train_loss"][mine], workers["batch"][mine]
        cells = [("client", f"<b>{client}</b>"), ("device", escaped(str(device))), ("rounds", number(int(mine.sum()))),
                 *([("rounds as host of a top", number(int(held.sum())))] if has_hosts else []),
                 ("last batch", number(int(batch[-1])) if len(batch) else "–"),
                 ("iterations", number(int(workers["iterations"][mine].sum()))), ("samples", number(int(workers["samples"][mine].sum()))),
                 ("training loss", number(loss[-1], 4) if len(loss) else "–"),
                 *((word, duration(workers[column][mine].sum())) for word, column in (
                     ("computes", "compute_s"), ("on links", "transfer_s"), ("waits for workers", "waiting_s"), ("waits for the host", "top_s"))),
                 ("up", size(workers["bytes_up"][mine].sum())), ("down", size(workers["bytes_down"][mine].sum())),
                 ("peak memory", (size(peak) if peak else "–") + (f" of {size(cap)}" if cap else ""))]
        lines.append("<tr>" + "".join(f'<td data-label="{label}"><div>{cell}</div></td>' for label, cell in cells) + "</tr>")
    head = "".join(f"<th>{label}</th>" for label, _ in cells) if lines else ""
    return f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>' + hidden_clients(
        len(run.clients["client"]) - len(lines))


def hidden_clients(count):
    """The line below a table that leaves clients out."""
    return f'<p class="quiet">{count} more clients are left out (--clients shows more).</p>' if count else ""


def outcome_totals(run):
    outcomes = run.tasks["outcome"]
    counted = [(o, int((outcomes == o).sum())) for o in outcomes_of(run)]
    if len(outcomes) == 0:
        return '<p class="none">No task is recorded yet.</p>'
    told = ", ".join(f"<b>{number(count)}</b> {o.replace('_', ' ')}" for o, count in counted if count)
    return f"<p>{number(len(outcomes))} tasks: {told}.</p>"


def span_of(counts):
    """The smallest and the largest of some counts, as "3 to 5"."""
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else f"{max(counts)}"


def facts(run):
    """What ran, as (name, HTML) pairs."""
    config, tasks, clients = run.config, run.tasks, run.clients

    def given(*options):
        return ", ".join(f"{escaped(o)} {escaped(config[o])}" for o in options if config.get(o) not in (None, "", "0", "-1"))

    rules = [f"{part} {config[f'method.{part}']}" for part in ("submodel", "window", "merge", "objective", "search")
             if config.get(f"method.{part}")]
    whole, largest = model_parameters(run), tasks["parameters"].max(initial=0) if tasks else 0
    parameters = f", {number(whole)} parameters" if whole else f", {number(largest)} parameters in the largest submodel" if largest else ""
    per_round = config.get("clients.per_round", "0")
    at_once = f"{per_round} at once" if per_round != "0" else "all at once"
    work = f"periods of {config.get('regions.period', '?')} steps" if run.protocol == "regions" else f"{config['train.steps']} steps" if config.get("train.steps", "0") != "0" else f"{config.get('train.epochs', '?')} epochs".replace("1 epochs", "1 epoch")
    if run.protocol == "split" and len(run.rounds["round"]):
        at_once = f"{span_of(np.unique(run.tables['split_rounds']['round'], return_counts=True)[1])} of them workers in a round"
        work = f"{span_of(run.tables['split_rounds']['iterations'])} iterations in a round"
    attributes = run.attributes
    pairs = [
        ("Method", f"<b>{escaped(config.get('method.name', '?'))}</b>" + (f" with {escaped(', '.join(rules))}" if rules else "")),
        ("Model", f"<b>{escaped(config.get('model.name', '?'))}</b>" + parameters),
        ("Data", f"<b>{escaped(config.get('data.name', '?'))}</b>, {number(int(clients['samples'].sum()))} training samples, partition "
                 f"{escaped(config.get('data.partition', '?'))}"
                 + (f" with alpha {escaped(config['data.alpha'])}" if config.get("data.partition") == "dirichlet" else "")),
        ("Clients", f"{number(len(clients['client']))}, {escaped(at_once)}"),
        ("Training", f"{escaped(work)}, batch {escaped(config.get('train.batch', '?'))}, {escaped(config.get('train.optimizer', '?'))}, "
                     f"rate {escaped(config.get('train.lr', '?'))}, schedule {escaped(config.get('train.schedule', '?'))}"),
        ("Exchanges", given(*(f"regions.{o}" for o in ("fragments", "fragment_count", "overlap", "schedule", "sends", "codec", "arrival",
                              "topology", "outer", "outer_lr"))).replace("regions.", "") if run.protocol == "regions" else ""),
        ("Split", given("split.cut", "split.control", "split.top", *(("split.clusters", "split.host") if
                        config.get("split.control") == "fixed" else ())).replace("split.", "") if run.protocol == "split" else ""),
        ("Window", "" if run.protocol != "rounds" else given("window.min_updates", "window.grace_s", "window.deadline_s", "window.max_staleness", "window.stale",
                         "window.release").replace("window.", "")),
        ("Clock", escaped(config.get("clock.kind", "?"))),
        ("Seed", escaped(config.get("run.seed", "?"))),
        ("Program", f"espalier {escaped(attributes.get('software_version', '?'))}, commit {escaped(attributes.get('git_sha', '?'))}"
                    + (f", {ranks_of(run)} rank{'s' if ranks_of(run) > 1 else ''}" if tasks else "")),
        ("Started", escaped(attributes.get("date", "?"))),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs if value) + "</dl>"


def fleet(run):
    """The device classes of the fleet as a table."""
    clients = run.clients

    def rate(mbps):
        return number(mbps) if mbps else "no limit"

    columns = [("memory", "memory_bytes", lambda cap: size(cap) if cap else "no cap"), ("GFLOP/s", "gflops", number),
               ("down, Mbit/s", "down_mbps", rate), ("up, Mbit/s", "up_mbps", rate), ("latency, ms", "latency_ms", number)]
    lines = []
    for device in dict.fromkeys(clients["device"].tolist()):
        mine = clients["device"] == device
        cells = [("device", f"<b>{escaped(device)}</b>"), ("clients", number(int(mine.sum())))]
        cells += [(label, show(clients[column][mine][0])) for label, column, show in columns]
        lines.append("<tr>" + "".join(f'<td data-label="{label}"><div>{cell}</div></td>' for label, cell in cells) + "</tr>")
    head = "".join(f"<th>{label}</th>" for label in ("device", "clients", *(c[0] for c in columns)))
    return f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def ranks_of(run):
    return int(run.tasks["rank"].max(initial=0)) + 1 if run.tasks else 1


def tiles(run):
    """The most important numbers."""
    rounds = run.rounds
    name, versions, values = quality_of(run)
    finite = np.flatnonzero(np.isfinite(values))
    shown = []
    if len(finite):
        best = finite[np.argmin(values[finite]) if name == "perplexity" else np.argmax(values[finite])]
        shown.append((name, f"{values[finite[-1]]:.4g}", f"best {values[best]:.4g} at version {versions[best]}"))
    done, total = len(rounds["round"]), run.config.get("run.rounds", "?")
    shown.append((word_of(run) + "s", number(done), f"of {total}"))
    if done:
        wall = f"{duration(rounds['wall_time_s'][-1])} on this machine" if "wall_time_s" in rounds else f"{number(int(rounds['step'][-1]))} steps" if "step" in rounds else "of the emulated devices"
        shown.append(("virtual time", duration(rounds["virtual_time_s"][-1]), wall))
        shown.append(("traffic", size(rounds["bytes_down"].sum() + rounds["bytes_up"].sum()),
                      f"{size(rounds['bytes_down'].sum())} down, {size(rounds['bytes_up'].sum())} up"))
        if rounds.get("device_bytes", np.zeros(1)).any():
            shown.append(("between devices", size(rounds["device_bytes"].sum()), "beside the server's traffic"))
        spans = np.diff(rounds["virtual_time_s"], prepend=0.0)
        counted = np.isfinite(rounds["utilisation"]) & (spans > 0)
        if counted.any():
            used = np.average(rounds["utilisation"][counted], weights=spans[counted])
            shown.append(("utilisation", f"{100 * used:.0f} %", "of the clients' time"))
    if run.tasks:
        outcomes = run.tasks["outcome"]
        failed = int(np.isin(outcomes, FAILURES).sum())
        shown.append(("failed tasks", number(failed), f"of {number(len(outcomes))}"))
    elif done and run.protocol == "split":
        shown.append(("waiting", duration(rounds["waiting_s"].sum()), "of all workers"))
    elif done:
        shown.append(("stalls", duration(rounds["stall_s"].sum()), "of all regions"))
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><span>{escaped(a)}</span><b>{escaped(b)}</b><span>{escaped(c)}</span></div>' for a, b, c in shown) + "</div>"


def command(run, path):
    """The shell command that repeats the run under another name."""
    source = os.path.join(folder_of(path) or "", "config.ini")
    if not folder_of(path) or not os.path.exists(source):
        source = f"{run.name}.ini"  # the page has it as a link
    ranks = ranks_of(run)
    words = ["tools/mpirun.sh", "-n", str(ranks)] if ranks > 1 else []
    return shlex.join([*words, "build/espalier", "run", source, f"--run.name={run.name}-again"])


def repeat(run, path):
    text = run.attributes.get("config", "")
    link = "data:text/plain;charset=utf-8," + urllib.parse.quote(text, errors="replace")
    same = {"virtual": "It gives the same values, on any number of ranks.",
            "paced": "It gives the same values if the machine keeps up.",
            "measured": "The clock is measured, so times and with them the results differ a little."}
    kind = run.config.get("clock.kind", "")
    name = escaped(re.sub(r"[^\w.-]", "_", run.name))
    return (f'<pre class="command"><code>{escaped(command(run, path))}</code></pre>'
            f'<p>{same.get(kind, "")} The input with all options: <a download="{name}.ini" href="{link}">{name}.ini</a>.</p>'
            + options_of(run))


def options_of(run):
    """The options that are not at their defaults, and all options with these marked."""
    try:
        usual = defaults()
    except (RunError, OSError) as error:
        changed = {}
        told = f'<p class="quiet">Options that are not at their defaults are not marked: {escaped(error)}.</p>'
    else:
        changed = changed_options(run.config_text, usual)
        lines = [f"<tr><td>{breakable(option)}</td><td><b>{shown(value)}</b></td><td>{shown(default)}</td></tr>"
                 for option, (value, default) in changed.items()]
        wrote, here = run.attributes.get("git_sha", "?"), program_commit()
        notes = [] if wrote == here else [f"The defaults are those of commit {escaped(here)}; the run is of {escaped(wrote)}."]
        if any(default is None for _, default in changed.values()):
            notes.append("–: the defaults have no such device or option.")
        note = f'<p class="quiet">{" ".join(notes)}</p>' if notes else ""
        told = ('<h3>Options that are not at their defaults</h3><table class="options"><thead><tr><th>option</th><th>value</th>'
                f'<th>default</th></tr></thead><tbody>{"".join(lines)}</tbody></table>{note}' if lines else
                "<p>All options are at their defaults.</p>")
    marked, section = [], ""
    for line in run.config_text.splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        option = f"{section}.{line.partition('=')[0].strip()}"
        marked.append(f"<mark>{escaped(line)}</mark>" if option in changed else escaped(line))
    return told + f"<details><summary>All options of the run</summary><pre>{chr(10).join(marked)}</pre></details>"


def breakable(option):
    """The name of an option that a narrow window can break after a dot or underscore."""
    return re.sub("([._])", r"\1<wbr>", escaped(option))


def shown(value):
    """The value of an option; None if it has no default."""
    return {None: "–", "": "empty"}.get(value, escaped(value))


def warning_list(path):
    folder = folder_of(path)
    if not folder or not os.path.exists(os.path.join(folder, "log.txt")):
        return '<p class="none">There is no log.txt beside the run file.</p>'
    found = warnings_of(path)
    if not found:
        return '<p class="none">The program gave no warning.</p>'
    return "<ul>" + "".join(f"<li>{escaped(line)}</li>" for line in found) + "</ul>"


def state_line(run, state):
    """What the top of the page says about the end of the run."""
    done, total = len(run.rounds["round"]), run.config.get("run.rounds", "?")
    if state.kind == "done":
        return '<p class="state done">done</p>'
    words = {"running": "This run goes on", "failed": "This run failed", "copy": "This is a copy"}.get(state.kind, "This run is not finished")
    text = state.text.removeprefix("failed: ")
    return (f'<p class="state {state.kind}"><b>{words}:</b> {escaped(text)}. '
            f"The page shows {number(done)} of {escaped(total)} {word_of(run)}s.</p>")


def page(run, path, state, max_clients):
    """The whole page as text."""
    data = json.dumps(chart_data(run, max_clients) if run.tasks else {}, separators=(",", ":")).replace("</", "<\\/")
    with open(os.path.join(HERE, "report.css"), encoding="utf-8") as file:
        style = file.read()
    with open(os.path.join(HERE, "report.js"), encoding="utf-8") as file:
        script = file.read()
    if run.protocol == "regions":
        own = [("What each region did", region_table(run))]
    elif run.protocol == "split":
        own = [("What each worker did", worker_table(run, max_clients))]
    else:
        chart = CHART if len(run.tasks["task"]) else '<p class="none">No task is recorded yet.</p>'
        own = [("What each client did when", chart), ("Outcomes", outcome_totals(run) + outcome_table(run, max_clients))]
    sections = [
        ("What ran", facts(run) + "<h3>Fleet</h3>" + fleet(run)), ("Curves", curves(run)), *own, ("Warnings", warning_list(path)),
        ("Run it again", repeat(run, path)),
    ]
    body = "".join(f'<section id="{title.lower().replace(" ", "-")}"><h2>{title}</h2>{content}</section>' for title, content in sections)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src "
            f"'unsafe-inline'\"><meta name=\"color-scheme\" content=\"light dark\"><title>{escaped(run.name)}</title>\n"
            f"<style>\n{style}</style></head><body><main>\n"
            f'<header><h1>{escaped(run.name)}</h1>{state_line(run, state)}</header>\n'
            f"{tiles(run)}{body}</main>\n"
            f'<script type="application/json" id="data">{data}</script>\n<script>\n{script}</script>\n</body></html>\n')


CHART = """<div id="chart" tabindex="0" role="group" aria-label="what each client did when; arrow keys move, + and - zoom"></div>
<div class="tools"><span class="buttons"><button data-do="in" title="zoom in (+)">+</button><button data-do="out" title="zoom out (-)">−</button>
<button data-do="left" title="earlier (left arrow)">←</button><button data-do="right" title="later (right arrow)">→</button>
<button data-do="all" title="the whole run (0)">all</button><button data-do="first" title="the first five rounds">first rounds</button></span>
<span class="keys"><span class="key"><i class="download"></i>download</span><span class="key"><i class="compute"></i>compute</span>
<span class="key"><i class="upload"></i>upload</span><span class="key"><i class="server"></i>server queue</span>
<span class="key"><i class="failed">×</i>failed</span><span class="key"><i class="merge"></i>merge</span></span></div>
<p id="told" class="quiet" aria-live="polite">Point at a task. Drag to move; double-click, or hold Ctrl and turn the wheel, to zoom.</p>
<noscript><p>This chart needs JavaScript.</p></noscript>"""


@ends_well
def main():
    parser = Parser(prog="report.py", usage="report.py RUN [options]", description=__doc__.split("\n\n")[0], epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run's folder or its run.h5")
    parser.add_argument("-o", "--out", metavar="FILE", help="page to write; default: report.html beside run.h5")
    parser.add_argument("--clients", type=int, default=60, metavar="N", help="most clients in chart and table; default: 60")
    options = parser.parse_args()
    if options.clients < 1:
        parser.error("--clients is a number of clients, at least 1")
    try:
        state = state_of(options.run)
        run = open_run(options.run)
        out = options.out or os.path.join(os.path.dirname(os.path.abspath(run.path)), "report.html")
        write_whole(out, page(run, options.run, state, options.clients))
    except RunError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return error.status
    except DAMAGE as error:
        print(f"report.py: {damage(options.run, error)}", file=sys.stderr)
        return 3
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
