#!/usr/bin/env python3
"""Shows a run live in the terminal: rounds, quality, time left, which clients
work and which wait. It ends with the run.

    tools/follow.py runs/quickstart

It reads only the files of the run's folder, so it can follow a run on another computer of a cluster. If stdout is no
terminal, it prints one line for each round. docs/reports.md describes the view.
"""

import argparse
import os
import shutil
import sys
import time

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py")
import numpy as np
from command_line import Parser, ends_well
from espalier_h5 import RunError, duration, region_spans, run_file
from run_state import DAMAGE, FAILURES, damage, quality_of, state_of, watch

EXAMPLES = """examples:
  tools/follow.py runs/quickstart
  tools/follow.py runs/quickstart --once             the present state, then end
  tools/follow.py runs/quickstart | tee rounds.txt   one line for each round"""
STATUS = """Exit status: 0 if the run is done, 85 if it was stopped or killed (it goes
on when it is started again), 1 if it failed. Ctrl-C ends the view, not the run."""
ROUNDS = 5  # in the picture of the clients
SIGNS = {"download": "░", "compute": "█", "upload": "▒", "wait": "·", "failed": "×", "unknown": " ", "full": "█", "empty": "░",
         "spark": "▁▂▃▄▅▆▇█"}
ASCII = {"download": "<", "compute": "#", "upload": ">", "wait": ".", "failed": "x", "unknown": " ", "full": "#", "empty": "-",
         "spark": "_.:-=+*#"}


def round_word(run):
    """What `run.rounds` counts."""
    return "period" if run.protocol == "regions" else "round"


def total_rounds(run):
    return int(run.config.get("run.rounds", 0) or 0)


def time_left(run, recent=20):
    """Seconds of this machine until the last round, from the wall time of the last rounds; NaN if unknown."""
    wall, left = run.rounds.get("wall_time_s", np.empty(0)), total_rounds(run) - len(run.rounds["round"])
    wall = np.concatenate([[0.0], wall])[-recent - 1:]
    steps = np.diff(wall)
    steps = steps[steps >= 0]  # the clock starts again when a run resumes
    return float(left * steps.mean()) if len(steps) and left >= 0 else np.nan


def plain_line(run, i):
    """Round number `i` of the file as one line."""
    rounds = run.rounds
    name, versions, values = quality_of(run)
    known = np.flatnonzero(versions <= rounds["version"][i])
    quality = f"{name} {values[known[-1]]:.4f}" if len(known) else f"{name} -"
    words = [f"{round_word(run)} {rounds['round'][i]}/{total_rounds(run)}", quality, f"loss {rounds['train_loss'][i]:.4f}"]
    words += [f"merged {rounds['updates_merged'][i]}"] if "updates_merged" in rounds else []
    words += [f"utilisation {rounds['utilisation'][i]:.2f}", f"virtual {duration(rounds['virtual_time_s'][i])}"]
    words += [f"wall {duration(rounds['wall_time_s'][i])}"] if "wall_time_s" in rounds else []
    return "   ".join(words)


def fitted(parts, width, between="   "):
    """The parts in as few lines of at most `width` signs as they need; a part alone may be longer."""
    lines = []
    for part in parts:
        if lines and len(lines[-1] + between + part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines


def spark(values, width, signs):
    """`values` as a row of bars."""
    values = values[np.isfinite(values)]
    if len(values) == 0 or width < 1:
        return ""
    values = values[np.linspace(0, len(values) - 1, min(width, len(values))).astype(int)]
    low, span = values.min(), np.ptp(values) or 1.0
    top = len(signs["spark"]) - 1
    return "".join(signs["spark"][int(round((v - low) / span * top))] for v in values)


def strip(tasks, rows, begin, end, width, signs):
    """What one client does from `begin` to `end`: (a row of signs, the share of the time that it is busy). Each sign stands for
    what the client does in the middle of its cell. After the client's last known task nothing is known."""
    cells = [signs["wait"]] * width
    centres = begin + (np.arange(width) + 0.5) * (end - begin) / width
    busy, known = 0.0, begin
    for i in rows:
        start, finish = tasks["sent_s"][i], tasks["finished_s"][i]
        known = max(known, finish)
        for part in ("download", "compute", "upload"):
            stop = min(start + np.nan_to_num(tasks[part + "_s"][i]), finish)
            busy += max(0.0, min(stop, end) - max(start, begin))
            for cell in np.flatnonzero((centres >= start) & (centres < stop)):
                cells[cell] = signs[part]
            start = max(start, stop)
        if tasks["outcome"][i] in FAILURES and begin <= finish <= end:
            cells[min(width - 1, int((finish - begin) / (end - begin) * width))] = signs["failed"]
    for cell in np.flatnonzero(centres > known):
        cells[cell] = signs["unknown"]
    return "".join(cells), busy / (end - begin)


def client_lines(run, width, height, signs, is_over):
    """The picture of the clients over the last rounds, with one line for each."""
    ends, tasks = run.rounds["virtual_time_s"], run.tasks
    if len(ends) == 0:
        return []
    shown = min(ROUNDS, len(ends))
    begin, end = (ends[-shown - 1] if len(ends) > shown else 0.0), ends[-1]
    if end <= begin:
        return []
    lines = fitted([f"last {shown} rounds, {duration(end - begin)} of virtual time:",
                    f"{signs['download']} download {signs['compute']} compute {signs['upload']} upload",
                    f"{signs['wait']} waits {signs['failed']} failed, blank: not known"], width, " ")
    height -= len(lines)
    if height < 1:
        return []
    active = np.flatnonzero((tasks["finished_s"] > begin) & (tasks["sent_s"] < end))
    clients = run.clients["client"]
    if len(clients) > height:  # those that had work come first
        clients = np.concatenate([np.unique(tasks["client"][active]), np.setdiff1d(clients, tasks["client"][active])])
    if len(clients) > height:
        clients = clients[:height - 1]
    left_out = len(run.clients["client"]) - len(clients)
    devices = dict(zip(run.clients["client"].tolist(), run.clients["device"].tolist()))
    labels = [f"client {c} ({devices.get(c, '?')})" for c in clients.tolist()]
    if max((len(label) for label in labels), default=0) > width // 4:
        labels = [f"client {c}" for c in clients.tolist()]
    label_width = max((len(label) for label in labels), default=0)
    has_words = width - label_width >= 44
    bar = max(1, min(60, width - label_width - (34 if has_words else 12)))
    for client, label in zip(clients.tolist(), labels):
        rows = active[tasks["client"][active] == client]
        every = np.flatnonzero(tasks["client"] == client)
        picture, busy = strip(tasks, rows, begin, end, bar, signs)
        words = f"  {last_word(run, every, is_over)}" if has_words else ""
        lines.append(f"{label:{label_width}} {picture} {100 * busy:3.0f} % busy{words}")
    if left_out:
        lines.append(f"and {left_out} more clients")
    return lines


def region_lines(run, width, height, signs, is_over):
    """The picture of the regions over the last periods, with one line for each."""
    ends = run.rounds["virtual_time_s"]
    shown = min(ROUNDS, len(ends))
    if shown == 0:
        return []
    begin, end = (ends[-shown - 1] if len(ends) > shown else 0.0), ends[-1]
    lines = fitted([f"last {shown} periods, {duration(end - begin)} of virtual time:",
                    f"{signs['compute']} computes {signs['wait']} waits for a fragment",
                    f"{signs['failed']} steps lost, blank: not known"], width, " ")
    spans, _ = region_spans(run)
    regions = run.clients["client"].tolist()[:max(0, height - len(lines))]
    bar = max(1, min(60, width - 30))
    centres = begin + (np.arange(bar) + 0.5) * (end - begin) / bar
    for region in regions:
        cells, busy = np.full(bar, signs["unknown"]), 0.0
        for _, part, start, stop in (span for span in spans if span[0] == region):
            cells[(centres >= start) & (centres < stop)] = signs[{"compute": "compute", "stall": "wait", "lost": "failed"}[part]]
            busy += max(0.0, min(stop, end) - max(start, begin)) if part == "compute" else 0.0
        lines.append(f"region {region:<3} {''.join(cells)} {100 * busy / max(end - begin, 1e-12):3.0f} % busy")
    return lines


def worker_lines(run, width, height, signs, is_over):
    """What the workers of split training did in the last round, with one line for each: shares of its time. The order of the
    signs is not that in time."""
    workers, ends = run.tables["split_rounds"], run.rounds["virtual_time_s"]
    if len(ends) == 0:
        return []
    span = ends[-1] - (ends[-2] if len(ends) > 1 else 0.0)
    lines = fitted([f"shares of the last round, {duration(span)} of virtual time:",
                    f"{signs['compute']} computes {signs['upload']} on links {signs['wait']} waits"], width, " ")
    bar = max(1, min(60, width - 30))
    rows = np.flatnonzero(workers["round"] == run.rounds["round"][-1])[:max(0, height - len(lines))]
    for row in rows:
        counts = [int(round(bar * workers[part][row] / max(span, 1e-12))) for part in ("compute_s", "transfer_s")]
        cells = (signs["compute"] * counts[0] + signs["upload"] * counts[1]).ljust(bar, signs["wait"])[:bar]
        share = 100 * (workers["compute_s"][row] + workers["transfer_s"][row]) / max(span, 1e-12)
        lines.append(f"client {workers['client'][row]:<3} {cells} {share:3.0f} % busy")
    return lines


def last_word(run, rows, is_over):
    """What the last task of a client came to."""
    if len(rows) == 0:
        return "no task yet"
    tasks = run.tasks
    i = rows[np.argmax(tasks["finished_s"][rows])]
    outcome = str(tasks["outcome"][i])
    if outcome == "merged":
        return f"merged in {tasks['merged_version'][i]}"
    return outcome.replace("_", " ") if outcome != "unfinished" or is_over else "at work"


def screen(run, state, width, height, signs, age_s):
    """The whole view as a list of lines."""
    config, rounds = run.config, run.rounds
    done, total = len(rounds["round"]), total_rounds(run)
    lines = fitted([f"{run.name}: {config.get('method.name', '?')}, {config.get('model.name', '?')} on {config.get('data.name', '?')}",
                    f"{config.get('clients.count', '?')} clients ({config.get('clients.fleet') or 'one class'})"], width, ", ")
    quiet = f"; its file grew {duration(age_s)} ago" if not state.is_over and age_s >= 30 else ""
    lines += fitted((state.text + quiet).split(), width, " ")
    share = min(1.0, done / total) if total else 0.0
    filled = int(round(20 * share))
    bar = signs["full"] * filled + signs["empty"] * (20 - filled)
    progress = [f"{round_word(run)} {done}/{total} {bar} {100 * share:.0f} %"]
    if done:
        seconds = time_left(run)
        left = [] if state.is_over or not np.isfinite(seconds) else [f"left about {duration(seconds)}"]
        progress += [*left, f"virtual {duration(rounds['virtual_time_s'][-1])}"]
        progress += [f"wall {duration(rounds['wall_time_s'][-1])}"] if "wall_time_s" in rounds else []
    lines += fitted(progress, width)
    name, versions, values = quality_of(run)
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite):
        best = finite[np.argmin(values[finite]) if name == "perplexity" else np.argmax(values[finite])]
        lines += fitted([f"{name} {values[finite[-1]]:.4f}", f"best {values[best]:.4f} at version {versions[best]}",
                         spark(values, 24, signs)], width)
    if done:
        counts = (f": {rounds['updates_merged'][-1]} merged ({rounds['updates_stale'][-1]} stale), "
                  f"{rounds['updates_dropped'][-1]} lost" if "updates_merged" in rounds else
                  f": stalls of {duration(rounds['stall_s'][-1])}" if "stall_s" in rounds else
                  f": waits of {duration(rounds['waiting_s'][-1])}")
        lines += fitted([f"last {round_word(run)}{counts}", f"training loss {rounds['train_loss'][-1]:.4f}",
                         f"utilisation {100 * rounds['utilisation'][-1]:.0f} %"], width)
    outcomes = run.tasks.get("outcome", np.empty(0, str))
    failed = {outcome: int((outcomes == outcome).sum()) for outcome in (*FAILURES, "dropped_stale")}
    told = [f"{count} {outcome.replace('_', ' ')}" for outcome, count in failed.items() if count]
    if told:
        lines += fitted(["failed tasks: " + told[0], *told[1:]], width, ", ")
    draw = {"rounds": client_lines, "regions": region_lines, "split": worker_lines}[run.protocol]
    lines += draw(run, width, height - len(lines) - 1, signs, state.is_over)
    return [line[:width] for line in lines[:max(1, height - 1)]]


def age_of(path):
    try:
        return max(0.0, time.time() - os.path.getmtime(run_file(path)))
    except OSError:
        return 0.0


def follow(path, every_s, once, out):
    """Shows the run until it is over; returns the last State."""
    is_terminal = out.isatty()
    signs = SIGNS if "utf" in (out.encoding or "").lower() else ASCII
    drawn, told = 0, None
    for run, state in watch(path, every_s, always=is_terminal):
        if is_terminal or once:
            width, height = shutil.get_terminal_size((100, 40))
            lines = screen(run, state, width - 1, height, signs, age_of(path))
            back = f"\x1b[{drawn}A\r\x1b[J" if drawn and is_terminal else ""
            out.write(back + "\n".join(lines) + "\n")
            drawn = len(lines)
        else:
            rows = len(run.rounds["round"])
            first = max(0, rows - 1) if told is None else told  # a run of which much is done begins with its last round
            for i in range(min(first, rows), rows):
                out.write(plain_line(run, i) + "\n")
            told = rows
            if state.is_over:
                out.write(state.text + "\n")
        out.flush()
        if once:
            break
    return state


@ends_well
def main():
    parser = Parser(prog="follow.py", usage="follow.py RUN [options]",
                    description=__doc__.split("\n\n")[0] + "\n" + STATUS, epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run's folder or its run.h5")
    parser.add_argument("--once", action="store_true", help="show the present state and end")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between two looks at the file; default: 1")
    options = parser.parse_args()
    if not 0.05 <= options.every <= 3600:
        parser.error("--every is a number of seconds from 0.05 to 3600")
    try:
        state = follow(options.run, options.every, options.once, sys.stdout)
    except RunError as error:
        print(f"follow.py: {error}", file=sys.stderr)
        return 3
    except DAMAGE as error:
        print(f"follow.py: {damage(options.run, error)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        state = state_of(options.run)
    return state.status


if __name__ == "__main__":
    sys.exit(main())
