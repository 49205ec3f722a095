#!/usr/bin/env python3
"""Exports a run to an experiment tracker, to CSV files, or to a trace for
Perfetto; with --follow also while it goes on.

    tools/track.py runs/quickstart --to tensorboard      then: tensorboard --logdir runs
    tools/track.py runs/quickstart --to trace            then open runs/quickstart/trace.json in ui.perfetto.dev

docs/reports.md describes what each target gets.
"""

import argparse
import csv
import datetime
import importlib
import itertools
import json
import os
import struct
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py")
import numpy as np
from command_line import Parser, ends_well
from espalier_h5 import RunError, region_spans
from run_state import DAMAGE, FAILURES, damage, state_of, watch, write_whole

EXAMPLES = """examples:
  tools/track.py runs/quickstart --to csv          files in runs/quickstart/csv
  tools/track.py runs/quickstart --to trace -o quickstart.json
  tools/track.py runs/quickstart --to tensorboard --follow
  tools/track.py runs/quickstart --to mlflow -o http://localhost:5000"""
TARGETS_NEED = """csv, tensorboard and trace need no other package; mlflow, wandb and trackio
need the package of that name. Exit status with --follow: 85 if the run was
stopped or killed (it goes on when it is started again), 1 if it failed."""


class TrackError(Exception):
    """One sentence about a request that cannot be met. The tool ends with status 2."""


def needed(name):
    """An optional package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise TrackError(f"--to {name} needs the Python package {name}, which is not installed; install it with: "
                         f"{sys.executable} -m pip install {name}") from None


# What trackers get: a list of (wall time, version, {name: value}) -----------------------------------------------------

ROUND_METRICS = {
    "training/loss": ("train_loss", 1), "updates/merged": ("updates_merged", 1), "updates/stale": ("updates_stale", 1),
    "updates/lost": ("updates_dropped", 1), "staleness/mean": ("staleness_mean", 1), "staleness/max": ("staleness_max", 1),
    "coverage/mean": ("coverage_mean", 1), "coverage/min": ("coverage_min", 1), "coverage/ever": ("coverage_ever", 1),
    "clients/utilisation": ("utilisation", 1),
    "clients/peak_MB": ("peak_client_bytes", 1e-6), "traffic/down_MB": ("bytes_down", 1e-6), "traffic/up_MB": ("bytes_up", 1e-6),
    "regions/stall_s": ("stall_s", 1), "split/waiting_s": ("waiting_s", 1), "traffic/devices_MB": ("device_bytes", 1e-6), "training/step": ("step", 1), "time/virtual_s": ("virtual_time_s", 1), "time/wall_s": ("wall_time_s", 1),
}
EVALUATION_METRICS = ("loss", "top1", "top5", "perplexity")


def started(run):
    """When the run began, in seconds since 1970."""
    try:
        date = datetime.datetime.strptime(run.attributes["date"], "%Y-%m-%dT%H:%M:%SZ")
    except (KeyError, ValueError):
        return 0.0
    return date.replace(tzinfo=datetime.timezone.utc).timestamp()


def metrics(run, first_round=0, first_evaluation=0):
    """The rows of /rounds and /evaluations from the given ones on, in the order of their versions. Values that are not finite
    are left out."""
    rounds, seen, begin = run.rounds, run.evaluations, started(run)
    # Without a wall time, the emulated one stands for it.
    walls = rounds.get("wall_time_s", rounds["virtual_time_s"])
    rows = []
    for i in range(first_round, len(rounds["round"])):
        values = {name: float(rounds[column][i]) * scale for name, (column, scale) in ROUND_METRICS.items() if column in rounds}
        rows.append((begin + float(walls[i]), int(rounds["version"][i]), values))
    for i in range(first_evaluation, len(seen["version"])):
        version = int(seen["version"][i])
        known = np.flatnonzero(rounds["version"] <= version)
        wall = float(walls[known[-1]]) if len(known) else 0.0
        rows.append((begin + wall, version, {f"{seen['set'][i]}/{name}": float(seen[name][i]) for name in EVALUATION_METRICS if name in seen}))
    rows.sort(key=lambda row: row[1])
    return [(wall, version, {name: v for name, v in values.items() if np.isfinite(v)}) for wall, version, values in rows]


class Tracker:
    """A target that gets metrics. Subclasses have `log(wall, version, values)`, and `flush` and `close` where needed."""

    def __init__(self):
        self.rounds = self.evaluations = 0

    def update(self, run):
        """Sends what is new in the file."""
        for row in metrics(run, self.rounds, self.evaluations):
            self.log(*row)
        # A run that resumes from its last checkpoint repeats rounds; they have the same values and are not sent again.
        self.rounds = max(self.rounds, len(run.rounds["round"]))
        self.evaluations = max(self.evaluations, len(run.evaluations["version"]))
        self.flush()

    def flush(self):
        pass

    def close(self):
        pass


# TensorBoard: an event file is a row of records; each holds a protobuf message `Event` ----------------------------------

def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def masked_crc(data):
    """CRC-32C, rotated and with a constant added, as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data):
    """One TFRecord: length, its checksum, data, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, data):
    """A protobuf field of bytes, text or a message."""
    data = data.encode(errors="replace") if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(wall, step, content):
    """An Event: wall_time = 1, step = 2, then `content`."""
    return record(b"\x09" + struct.pack("<d", wall) + b"\x10" + varint(step) + content)


def summary(values):
    """The summary (5) of an Event; each Value (1) has a tag (1) and a simple_value (2)."""
    return field(5, b"".join(field(1, field(1, tag) + b"\x15" + struct.pack("<f", value)) for tag, value in values.items()))


def text_summary(tag, text):
    """A summary for TensorBoard's page of texts: tag (1), a tensor (8) of one string, metadata (9) with the plugin's name."""
    tensor = b"\x08\x07" + field(2, b"") + field(8, text)
    return field(5, field(1, field(1, tag) + field(8, tensor) + field(9, field(1, field(1, "text")))))


class TensorBoard(Tracker):
    def __init__(self, run, options):
        super().__init__()
        folder = options.out or beside(run, "tensorboard")
        os.makedirs(folder, exist_ok=True)
        begin = started(run)
        # The same name each time, so that a second export replaces the first.
        self.path = os.path.join(folder, f"events.out.tfevents.{int(begin)}.espalier")
        self.file = open(self.path, "wb")
        self.file.write(event(begin, 0, field(3, "brain.Event:2")))
        lines = ["| option | value |", "|---|---|"] + [f"| {k} | {v} |" for k, v in run.config.items()]
        self.file.write(event(begin, 0, text_summary("options", "\n".join(lines))))

    def log(self, wall, version, values):
        if values:
            self.file.write(event(wall, version, summary(values)))

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


# Trackers of optional packages ----------------------------------------------------------------------------------------

class Mlflow(Tracker):
    def __init__(self, run, options):
        super().__init__()
        self.mlflow, self.path = needed("mlflow"), options.out or "MLflow"
        if options.out:
            self.mlflow.set_tracking_uri(options.out)
        self.mlflow.set_experiment(options.project)
        self.mlflow.start_run(run_name=run.name)
        parameters = [(key, value[:500]) for key, value in run.config.items()]
        for i in range(0, len(parameters), 100):  # MLflow takes 100 at once
            self.mlflow.log_params(dict(parameters[i:i + 100]))

    def log(self, wall, version, values):
        self.mlflow.log_metrics(values, step=version)

    def close(self):
        self.mlflow.end_run()


class Wandb(Tracker):
    def __init__(self, run, options):
        super().__init__()
        wandb, self.path = needed("wandb"), "wandb"
        if options.out:
            os.makedirs(options.out, exist_ok=True)
            self.path = options.out
        self.run = wandb.init(project=options.project, name=run.name, config=dict(run.config), dir=options.out)
        # Evaluations come later than their round, so the version is a column of its own rather than wandb's step.
        self.run.define_metric("version")
        self.run.define_metric("*", step_metric="version")

    def log(self, wall, version, values):
        self.run.log({"version": version, **values})

    def close(self):
        self.run.finish()


class Trackio(Tracker):
    def __init__(self, run, options):
        super().__init__()
        if options.out:
            raise TrackError("--to trackio takes no -o; its folder is set by the variable TRACKIO_DIR")
        self.trackio, self.path = needed("trackio"), "trackio"
        self.trackio.init(project=options.project, name=run.name, config=dict(run.config))

    def log(self, wall, version, values):
        self.trackio.log(values, step=version)

    def close(self):
        self.trackio.finish()


# CSV ------------------------------------------------------------------------------------------------------------------

class Csv:
    """One file for each table, with full precision; options.csv; columns.csv with the unit of each column."""

    def __init__(self, run, options):
        self.path = options.out or beside(run, "csv")
        os.makedirs(self.path, exist_ok=True)
        self.rows = {}
        self.write("options.csv", [("option", "value"), *run.config.items()])
        self.write("columns.csv", [("table", "column", "unit"), *((*name.rsplit("/", 1), unit) for name, unit in run.units.items())])

    def write(self, name, rows, mode="w"):
        with open(os.path.join(self.path, name), mode, newline="", encoding="utf-8", errors="replace") as file:
            csv.writer(file).writerows(rows)

    def update(self, run):
        for name, table in ((name.replace("/", "-"), table) for name, table in run.tables.items()):
            if not table:
                continue
            if name not in self.rows:
                self.write(name + ".csv", [list(table)])
                self.rows[name] = 0
            columns = [values[self.rows[name]:].tolist() for values in table.values()]
            self.write(name + ".csv", zip(*columns), "a")
            self.rows[name] = max(self.rows[name], len(next(iter(table.values()))))

    def close(self):
        pass


# Trace ----------------------------------------------------------------------------------------------------------------

CLIENTS, SERVER, RANKS = 1, 2, 3
LANES = 1000000  # thread numbers of further lanes of a client or rank


def nanoseconds(values):
    return np.rint(np.nan_to_num(np.asarray(values, float)) * 1e9).astype(np.int64)


class Lanes:
    """Gives slices that overlap to different lanes of one track."""

    def __init__(self):
        self.ends = {}

    def place(self, owner, begin, end):
        ends = self.ends.setdefault(owner, [])
        for lane, last in enumerate(ends):
            if last <= begin:
                ends[lane] = end
                return lane
        ends.append(end)
        return len(ends) - 1


def slice_of(pid, tid, name, begin, end, **args):
    return {"ph": "X", "pid": pid, "tid": tid, "ts": begin / 1000, "dur": (end - begin) / 1000, "name": name, "args": args}


def region_events(run, tracks):
    """What each region did, and its fragments under way."""
    events, lanes = [], Lanes()
    done, travels = region_spans(run)
    devices = dict(zip(run.clients["client"].tolist(), run.clients["device"].tolist()))
    for region, part, begin, end in done:
        track = CLIENTS, region
        tracks[track] = f"region {region} ({devices.get(region, '?')})"
        begin, end = nanoseconds([begin, end]).tolist()
        events.append(slice_of(*track, part, begin, end))
    for region, fragment, begin, end in sorted(travels, key=lambda row: row[2]):
        begin, end = nanoseconds([begin, end]).tolist()
        track = CLIENTS, region + (1 + lanes.place(region, begin, end)) * LANES
        tracks[track] = f"region {region}, fragments"
        events.append(slice_of(*track, f"fragment {fragment}", begin, end))
    return events


def task_events(run, tracks):
    """What each client and rank did."""
    tasks, events = run.tasks, []
    sent, finished = nanoseconds(tasks["sent_s"]), nanoseconds(tasks["finished_s"])
    parts = {part: nanoseconds(tasks[part + "_s"]) for part in ("download", "compute", "upload")}
    client_lanes, rank_lanes = Lanes(), Lanes()
    devices = dict(zip(run.clients["client"].tolist(), run.clients["device"].tolist()))
    spans = {}
    for i in np.argsort(sent, kind="stable").tolist():
        client, outcome = int(tasks["client"][i]), str(tasks["outcome"][i])
        begin, end = int(sent[i]), int(max(finished[i], sent[i]))
        lane = client_lanes.place(client, begin, end)
        track = CLIENTS, client + lane * LANES
        tracks[track] = f"client {client} ({devices.get(client, '?')})" + (f", {lane + 1}" if lane else "")
        args = {"task": int(tasks["task"][i]), "outcome": outcome, "base_version": int(tasks["base_version"][i]),
                "merged_version": int(tasks["merged_version"][i]), "staleness": int(tasks["staleness"][i])}
        at = begin
        for part, lengths in parts.items():
            stop = min(at + int(lengths[i]), end)
            if stop > at:
                events.append(slice_of(*track, part, at, stop, **args))
            if part == "compute":
                spans[i] = at, stop
            at = max(at, stop)
        if end - at > 1:  # rounding of the file leaves a nanosecond
            events.append(slice_of(*track, "server queue", at, end, **args))
        if outcome in FAILURES:
            events.append({"ph": "i", "pid": track[0], "tid": track[1], "ts": end / 1000, "s": "t", "name": outcome, "args": args})
    for i in sorted(spans, key=lambda i: spans[i]):
        (begin, end), rank, client = spans[i], int(tasks["rank"][i]), int(tasks["client"][i])
        if end <= begin:
            continue
        lane = rank_lanes.place(rank, begin, end)
        track = RANKS, rank + lane * LANES
        tracks[track] = f"rank {rank}" + (f", {lane + 1}" if lane else "")
        wall = float(tasks["wall_compute_s"][i])
        events.append(slice_of(*track, f"client {client}", begin, end, task=int(tasks["task"][i]),
                               wall_compute_s=wall if np.isfinite(wall) else None))
    return events


def worker_events(run, tracks):
    """A slice for each round of each worker of split training, with the times of its parts."""
    workers, events = run.tables["split_rounds"], []
    begins, ends = nanoseconds(workers["begun_s"]).tolist(), nanoseconds(workers["ended_s"]).tolist()
    for i, (begin, end) in enumerate(zip(begins, ends)):
        client = int(workers["client"][i])
        tracks[CLIENTS, client] = f"client {client}"
        times = {name: float(workers[name][i]) for name in ("compute_s", "transfer_s", "waiting_s", "top_s")}
        events.append(slice_of(CLIENTS, client, f"round {workers['round'][i]}", begin, end, batch=int(workers["batch"][i]), **times))
    return events


def trace_events(run):
    """All events of the trace, in the order of their times; times are emulated microseconds."""
    rounds, seen, tracks = run.rounds, run.evaluations, {}
    is_regions = run.protocol == "regions"
    events_of = {"rounds": task_events, "regions": region_events, "split": worker_events}[run.protocol]
    events = events_of(run, tracks)
    ends = nanoseconds(rounds["virtual_time_s"])
    for i, end in enumerate(ends.tolist()):
        begin = int(ends[i - 1]) if i else 0
        tracks[SERVER, 0] = "periods" if is_regions else "rounds"
        counts = {name: int(rounds[column][i]) for name, column in (
            ("merged", "updates_merged"), ("stale", "updates_stale"), ("lost", "updates_dropped")) if column in rounds}
        events.append(slice_of(SERVER, 0, f"{'period' if is_regions else 'round'} {rounds['round'][i]}", begin, end,
                               version=int(rounds["version"][i]), **counts))
        events += counter("training loss", end, rounds["train_loss"][i])
        events += counter("utilisation", end, rounds["utilisation"][i])
        if "staleness_mean" in rounds:
            events += counter("staleness", end, rounds["staleness_mean"][i])
    for i, at in enumerate(nanoseconds(seen["virtual_time_s"]).tolist()):
        for name in EVALUATION_METRICS:
            events += counter(f"{seen['set'][i]} {name}", at, seen[name][i]) if name in seen else []
    events.sort(key=lambda e: e["ts"])
    return names_of(tracks) + events


def counter(name, at, value):
    """A point of a curve on the server's track, or nothing if the value is not finite."""
    if not np.isfinite(value):
        return []
    return [{"ph": "C", "pid": SERVER, "tid": 0, "ts": at / 1000, "name": name, "args": {"value": float(value)}}]


def names_of(tracks):
    """Metadata: names of processes and threads, and the order in which a viewer shows them."""
    named = []
    for pid, name in ((SERVER, "server"), (CLIENTS, "clients"), (RANKS, "ranks (computed on, in emulated time)")):
        if any(p == pid for p, _ in tracks):
            named.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}})
            named.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": len(named)}})
    order = sorted(tracks, key=lambda t: (t[0], t[1] % LANES, t[1] // LANES))
    for place, (pid, tid) in enumerate(order):
        named.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": tracks[pid, tid]}})
        named.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": place}})
    return named


class Trace:
    """The whole file is written anew each time, because a viewer wants complete JSON."""

    def __init__(self, run, options):
        self.path = options.out or beside(run, "trace.json")

    def update(self, run):
        other = {"run": run.name, "time": "emulated", "software": f"espalier {run.attributes.get('software_version', '?')}"}
        text = json.dumps({"traceEvents": trace_events(run), "displayTimeUnit": "ms", "otherData": other}, separators=(",", ":"),
                          allow_nan=False)
        write_whole(self.path, text)

    def close(self):
        pass


TARGETS = {"tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb, "trackio": Trackio, "csv": Csv, "trace": Trace}


def beside(run, name):
    return os.path.join(os.path.dirname(os.path.abspath(run.path)), name)


def export(options):
    """Exports the run, with --follow until it is over; returns (where to, State). An error of an optional package is a
    TrackError with the first sentence of its message."""
    try:
        return send(options)
    except (RunError, TrackError):
        raise
    except Exception as error:
        if options.to not in ("mlflow", "wandb", "trackio"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise TrackError(f"{options.to} refused the export: {text.split('. ')[0]}") from None


def send(options):
    target = None
    try:
        watched = watch(options.run, options.every)
        for run, state in watched if options.follow else itertools.islice(watched, 1):
            target = target or TARGETS[options.to](run, options)
            target.update(run)
    except KeyboardInterrupt:
        state = state_of(options.run)
    finally:
        if target:
            target.close()
    return target.path if target else "", state


@ends_well
def main():
    parser = Parser(prog="track.py", usage="track.py RUN --to TARGET [options]",
                    description=__doc__.split("\n\n")[0] + "\n" + TARGETS_NEED, epilog=EXAMPLES,
                    formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26))
    parser.add_argument("run", metavar="RUN", help="a run's folder or its run.h5")
    parser.add_argument("--to", required=True, choices=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("-o", "--out", metavar="PLACE", help="folder, file or address; default: beside run.h5")
    parser.add_argument("--project", default="espalier", metavar="NAME", help="project or experiment of a tracker; default: espalier")
    parser.add_argument("--follow", action="store_true", help="go on until the run is done")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="with --follow: seconds between two looks; default: 2")
    options = parser.parse_args()
    if not 0.05 <= options.every <= 3600:
        parser.error("--every is a number of seconds from 0.05 to 3600")
    try:
        place, state = export(options)
    except (RunError, TrackError) as error:
        print(f"track.py: {error}", file=sys.stderr)
        return getattr(error, "status", 2)
    except DAMAGE as error:
        print(f"track.py: {damage(options.run, error)}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"track.py: {error.filename or options.out or 'the export'} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 4
    print(place)
    return state.status if options.follow else 0


if __name__ == "__main__":
    sys.exit(main())
