"""Reads Espalier's run files into NumPy arrays, also during the run.

    run = open_run("runs/quickstart")
    run.rounds["train_loss"]          # an array; every column of a table has the same length
    run.config["method.name"]         # the resolved input, "section.key" to text
    run.tables["method/pruning"]      # any further table of the file, by its path
    summary(run, target=0.5)          # final and best quality, time, bytes, memory, time to the target

    many = runs(["runs/fedavg-*", "runs/heterofl-seed1"])
    many.tasks                        # one table over all runs, with the column `run` and one column for each
                                      # option that differs between the runs, such as `method.name`
    many.table("method/pruning")      # any other table; `many.tables` lists the names

The tables of `runs` are data frames if pandas is installed, otherwise dicts of arrays. `pip install ./tools` installs this
module for use from any folder.
"""

import csv
import glob
import hashlib
import os
import pickle
import re
import signal
import subprocess
import time
import warnings

try:
    import resource
except ImportError:  # not on Windows
    resource = None

import h5py
import numpy as np

# A read during a run can coincide with a flush and fail; it succeeds a moment later.
TRIES = 20
PAUSE_S = 0.1
# Processor time to read a file, besides 1 s per MB, and memory, besides 8 times its size: far more than a sound file needs.
CPU_S = 5
MEMORY_BYTES = 1 << 30
# Options that name files and do not affect results.
UNHASHED = ("run.name", "run.dir", "data.dir")
STATISTICS = (".running_mean", ".running_var")  # entries of a checkpoint's model that are no parameters
# Every run file has these, and those of its protocol.
STANDARD = ("evaluations", "clients")
PROTOCOLS = {"rounds": ("rounds", "tasks"), "regions": ("regions", "exchanges"),
             "split": ("split_rounds", "clusters", "iterations")}


class RunError(Exception):
    """One sentence that says why a file cannot be read as a run. Tools end with `status`."""

    status = 3


class Run:
    """One run: `rounds`, `tasks`, `evaluations`, `clients` (dicts of arrays), `tables` (all tables of the file by path, such
    as "tasks" and "method/pruning"), `method` (those below /method, without that prefix), `config` (a dict), `config_text`,
    `attributes`, `units`, from "table/column" to text, and `protocol`, a key of PROTOCOLS.

    In a run of the protocol `regions`, `rounds` has a row for each version of the model, computed from the tables of the file,
    and `tasks` is empty. So it is in a run of `split`, with a row for each round."""

    def __init__(self, path, file):
        self.path = path
        self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
        self.config_text = self.attributes.get("config", "")
        self.config = parse_config(self.config_text)
        self.units = {}
        self.tables = {}
        file.visititems(lambda name, item: self._read(name, item))
        own = [name for name, tables in PROTOCOLS.items() if any(table in self.tables for table in tables)]
        self.protocol = own[0] if own else "rounds"
        absent = [name for name in (*PROTOCOLS[self.protocol], *STANDARD) if name not in self.tables]
        if absent:
            raise ValueError(f"it has no table {absent[0]}")
        self.evaluations, self.clients = (self.tables[name] for name in STANDARD)
        self.rounds, self.tasks = self.tables.get("rounds", {}), self.tables.get("tasks", {})
        if self.protocol == "regions":
            self.rounds = periods(self)
        elif self.protocol == "split":
            self.rounds = split_rounds(self)
        self.method = {n.removeprefix("method/"): t for n, t in self.tables.items() if n.startswith("method/")}

    @property
    def name(self):
        """`run.name`, else the name of the folder or file."""
        if self.config.get("run.name"):
            return self.config["run.name"]
        folder, file = os.path.split(os.path.abspath(self.path))
        return os.path.basename(folder) if file == "run.h5" else os.path.splitext(file)[0]

    @property
    def is_finished(self):
        """Whether the run came to its end. A run file apart from its folder counts as finished."""
        folder, file = os.path.split(os.path.abspath(self.path))
        return file != "run.h5" or os.path.exists(os.path.join(folder, "DONE"))

    def hash(self, defaults):
        """`configuration_hash` of this run; `defaults` is the result of `default_config`."""
        return configuration_hash(self.config_text, defaults)

    def _read(self, name, item):
        if not isinstance(item, h5py.Group):
            return
        columns = {c: d for c, d in item.items() if isinstance(d, h5py.Dataset) and d.ndim > 0}
        if not columns and name not in (*STANDARD, *sum(PROTOCOLS.values(), ())):
            return
        # Columns grow one after the other, so only the rows that all columns have are valid.
        length = min((len(d) for d in columns.values()), default=0)
        self.tables[name] = {column: _values(dataset, length) for column, dataset in columns.items()}
        for column, dataset in columns.items():
            self.units[f"{name}/{column}"] = _plain(dataset.attrs.get("units", ""))


class Runs:
    """Several runs: `runs` (a list of Run), `names` (a unique short name of each), `options` (from "section.key" to an array
    with the value of each run, for the options that differ), `tables` (names of all tables), and one table over all
    runs: `rounds`, `tasks`, `evaluations`, `clients` and `table(name)`."""

    def __init__(self, runs):
        self.runs = list(runs)
        names = [run.name for run in self.runs]
        self.names = names if len(set(names)) == len(names) else [_folder(run.path) for run in self.runs]
        keys = dict.fromkeys(key for run in self.runs for key in run.config if key not in UNHASHED)
        texts = {key: [run.config.get(key, "") for run in self.runs] for key in keys}
        self.options = {key: typed(found) for key, found in texts.items() if len(set(found)) > 1}
        self.tables = list(dict.fromkeys(name for run in self.runs for name in run.tables))

    def __len__(self):
        return len(self.runs)

    def __iter__(self):
        return iter(self.runs)

    def __getitem__(self, index):
        return self.runs[index]

    rounds = property(lambda self: self.table("rounds"))
    tasks = property(lambda self: self.table("tasks"))
    evaluations = property(lambda self: self.table("evaluations"))
    clients = property(lambda self: self.table("clients"))

    def table(self, name):
        """One table over all runs: a data frame, or a dict of arrays if pandas is not installed."""
        columns = self.columns(name)
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame({c: v if v.ndim == 1 else list(v) for c, v in columns.items()})

    def columns(self, name):
        """The same as a dict of arrays in any case. Rows of a run without a column have NaN, "" or False there."""
        if name not in (*self.tables, "rounds"):
            raise RunError(f"no run has a table {name}; there are {', '.join(self.tables)}")
        tables = [run.rounds if name == "rounds" else run.tables.get(name, {}) for run in self.runs]
        lengths = [len(next(iter(table.values()), ())) for table in tables]
        joined = {"run": np.repeat(np.array(self.names, dtype=str), lengths)}
        joined.update({key: np.repeat(values, lengths) for key, values in self.options.items()})
        for column in dict.fromkeys(column for table in tables for column in table):
            kind = next(table[column] for table in tables if column in table)
            parts = [table.get(column, _missing(kind, n)) for table, n in zip(tables, lengths, strict=True)]
            joined[column] = np.concatenate([part for part in parts if len(part)] or parts[:1])
        return joined


def run_file(path):
    """The run file of `path`, which is a run folder or a run file."""
    return os.path.join(path, "run.h5") if os.path.isdir(path) else path


def run_paths(paths):
    """Expands patterns such as "runs/fedavg-*" and returns the paths of the runs, each once. Of a pattern's matches only
    those count that are a run's folder or an HDF5 file; a path without a pattern stays as it is."""
    found = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = os.fspath(path)
        if os.path.exists(path) or not glob.has_magic(path):
            found.append(path)
            continue
        matches = [m for m in glob.glob(path, recursive=True)
                   if os.path.isfile(run_file(m)) and run_file(m).endswith(".h5")]
        if not matches:
            raise RunError(f"no run matches {path}; give runs' folders, such as 'runs/*'")
        found += sorted(matches, key=natural)
    once = {}
    for path in found:
        once.setdefault(os.path.realpath(run_file(path)), path)
    return list(once.values())


def runs(paths):
    """Reads many runs, given as folders, files and patterns, and returns Runs. Raises RunError with one sentence."""
    opened = [open_run(path) for path in run_paths(paths)]
    if not opened:
        raise RunError("no run is given; give runs' folders, such as 'runs/*'")
    return Runs(opened)


def open_run(path):
    """Reads a run folder or file and returns a Run. Raises RunError with one sentence."""
    path = run_file(path)
    if not os.path.exists(path):
        raise RunError(f"there is no {path}; give a run's folder or its run.h5")
    if not os.path.isfile(path):  # one would wait for ever at a pipe
        raise RunError(f"{path} is no file; give a run's folder or its run.h5")
    return _guarded(path) if hasattr(os, "fork") else _read(path)


def _guarded(path):
    """Reads a file in a child process with limits of processor time and memory, because a damaged file can crash the HDF5
    library, keep it busy for ever, or ask for any memory. Returns the Run, or raises the child's RunError."""
    size = os.path.getsize(path)
    limit = CPU_S + size // 1000000
    begin, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, which fears other threads; none holds HDF5's lock
        child = os.fork()
    if child == 0:
        try:
            os.close(begin)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's matter
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _limit_memory(MEMORY_BYTES + 8 * size)
            try:
                found = _read(path)
            except RunError as error:
                found = error
            with open(end, "wb") as file:
                pickle.dump(found, file, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)
    os.close(end)
    try:
        with open(begin, "rb") as file:
            found = pickle.load(file)
    except (EOFError, pickle.UnpicklingError):
        raise RunError(f"{path} cannot be read: it is damaged so much that the HDF5 library fails") from None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if isinstance(found, RunError):
        raise found
    return found


def _limit_memory(more):
    """Limits this process to `more` bytes of memory beyond what it uses now, where the system tells how much that is."""
    try:
        with open("/proc/self/statm") as file:
            own = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):
        pass


def _read(path):
    for attempt in range(TRIES):
        try:
            with _open(path) as file:
                kind = _plain(file.attrs.get("filetype", ""))
                if kind != "espalier run":
                    raise RunError(f"{path} is not a run file of espalier; give a run's folder")
                if int(np.ravel(file.attrs["version"])[0]) != 1:
                    raise RunError(f"{path} has a newer format; use the release that wrote it")
                return Run(path, file)
        except RunError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything in h5py
            reason = " ".join(str(error).split()) or type(error).__name__
            time.sleep(PAUSE_S)
    raise RunError(f"{path} cannot be read: {reason}")


def periods(run):
    """The table `rounds` of a run of regions: for each version, when it was there, the regions' mean loss over samples, their steps
    (with regions.decoupled those of the foremost region), bytes of what they sent and got in its period, and their times."""
    regions, exchanges = run.tables["regions"], run.tables["exchanges"]
    steps = max(1, int(run.config.get("regions.period") or 0))
    is_decoupled = run.config.get("regions.decoupled") == "true"
    times = version_times(run, is_decoupled)

    def round_at(seconds):
        """The round of each time. What follows the last version of a finished run belongs to its round."""
        place = np.searchsorted(times, seconds) + 1
        return np.minimum(place, len(times)) if run.is_finished else place

    # Each region has periods of its own if it never waits, so only times tell in which round something was.
    own = round_at(regions["reached_s"]) if is_decoupled else regions["period"]
    moment = np.where(np.isfinite(exchanges["sent_s"]), exchanges["sent_s"], exchanges["arrived_s"])
    sent_in = -(-exchanges["sent_step"] // steps)  # the period in which it was sent
    sent_in = np.where(is_decoupled | (exchanges["sent_step"] < 0), round_at(moment), sent_in)
    sent_in = np.minimum(sent_in, len(times)) if run.is_finished else sent_in
    rows = []
    for number, time in enumerate(times.tolist(), 1):
        mine, sent = own == number, sent_in == number
        trained = mine & (regions["samples"] > 0)
        compute, stall = regions["compute_s"][mine].sum(), regions["stall_s"][mine].sum()
        rows.append({
            "round": number, "version": number, "step": number * steps, "virtual_time_s": time,
            "train_loss": np.average(regions["train_loss"][trained], weights=regions["samples"][trained]) if trained.any() else np.nan,
            "bytes_down": exchanges["bytes_down"][sent].sum(), "bytes_up": exchanges["bytes_up"][sent].sum(),
            "utilisation": compute / (compute + stall) if compute + stall > 0 else np.nan, "stall_s": stall,
            "peak_client_bytes": regions["peak_bytes"][own <= number].max(initial=0)})
    columns = ("round", "version", "step", "virtual_time_s", "train_loss", "bytes_down", "bytes_up", "utilisation", "stall_s",
               "peak_client_bytes")
    whole = ("round", "version", "step", "bytes_down", "bytes_up", "peak_client_bytes")
    run.units.update({"rounds/virtual_time_s": "s", "rounds/bytes_down": "B", "rounds/bytes_up": "B", "rounds/stall_s": "s",
                      "rounds/peak_client_bytes": "B"})
    return {c: np.array([row[c] for row in rows], dtype=np.int64 if c in whole else float) for c in columns}


def version_times(run, is_decoupled):
    """When each version of a run of regions was there, as far as the file tells. A version that was not evaluated counts from the
    moment at which all regions, or with regions.decoupled the first one, had ended its period."""
    regions, seen = run.tables["regions"], run.evaluations
    made = dict(zip(seen["version"].tolist(), seen["virtual_time_s"].tolist()))
    ended = {}
    for number, time in zip(regions["period"].tolist(), regions["reached_s"].tolist()):
        ended.setdefault(number, []).append(time)
    count, regions_there = max(made, default=0), len(run.clients["client"])
    if not is_decoupled and regions_there:
        # A region that is away ends its period late or not at all, so a version may be there before.
        while len(ended.get(count + 1, ())) >= regions_there:
            count += 1
    times, before = [], 0.0
    after = np.minimum.accumulate([made.get(number, np.inf) for number in range(count, 0, -1)] or [np.inf])[::-1]
    for number in range(1, count + 1):
        guess = (min if is_decoupled else max)(ended.get(number, [before]))
        before = made.get(number, max(before, min(guess, after[number - 1])))
        times.append(before)
    return np.array(times)


def split_rounds(run):
    """The table `rounds` of a run of split training: for each round when its version was there, the workers' mean loss over
    samples, bytes on the server's links and between devices, and the workers' times and the shares of these."""
    workers, clusters = run.tables["split_rounds"], run.tables["clusters"]
    rows = []
    for number in np.intersect1d(workers["round"], clusters["round"]):
        mine, own = workers["round"] == number, clusters["round"] == number
        end = (clusters["ended_s"] + clusters["waiting_s"])[own].max()
        busy = (workers["compute_s"] + workers["transfer_s"])[mine].sum()
        # A worker waits for its cluster, and then for the other clusters.
        waiting = workers["waiting_s"][mine].sum() + (clusters["waiting_s"] * clusters["workers"])[own].sum()
        idle = waiting + workers["top_s"][mine].sum()
        rows.append({
            "round": number, "version": number, "virtual_time_s": end,
            "train_loss": np.average(workers["train_loss"][mine], weights=workers["samples"][mine]),
            "bytes_down": clusters["server_bytes_down"][own].sum(), "bytes_up": clusters["server_bytes_up"][own].sum(),
            "device_bytes": clusters["device_bytes"][own].sum(),
            "utilisation": busy / (busy + idle) if busy + idle > 0 else np.nan, "waiting_s": waiting,
            "waiting_share": waiting / (busy + idle) if busy + idle > 0 else np.nan,
            "peak_client_bytes": max(workers["peak_bytes"][workers["round"] <= number].max(),
                                     clusters["peak_bytes"][(clusters["round"] <= number) & (clusters["host"] >= 0)].max(initial=0))})
    whole = ("round", "version", "bytes_down", "bytes_up", "device_bytes", "peak_client_bytes")
    columns = (*whole, "virtual_time_s", "train_loss", "utilisation", "waiting_s", "waiting_share")
    run.units.update({f"rounds/{name}": "s" if name.endswith("_s") else "B" for name in columns
                      if name.endswith("_s") or "bytes" in name})
    return {c: np.array([row[c] for row in rows], dtype=np.int64 if c in whole else float) for c in columns}


def region_spans(run):
    """What regions did when: rows (region, "compute" | "stall" | "lost", begin, end) in virtual seconds, without gaps, as far as
    the file tells; and rows (region, fragment, begin, end) of the fragments under way. "lost" is time of steps that a crash undid, or
    that the region was away for; the file does not tell where it lies within a period, so it ends with the period."""
    regions, exchanges = run.tables["regions"], run.tables["exchanges"]
    done, travels = [], []
    for region in run.clients["client"].tolist():
        mine = exchanges["region"] == region
        at, stop = 0.0, regions["reached_s"][regions["region"] == region].max(initial=0.0)
        first = len(done)
        stalled = mine & (exchanges["stall_s"] > 0)
        for end, length in sorted(zip(exchanges["applied_s"][stalled].tolist(), exchanges["stall_s"][stalled].tolist())):
            begin = max(at, end - length)
            if begin > at:
                done.append((region, "compute", at, begin))
            if end > begin:
                done.append((region, "stall", begin, end))
            at = max(at, end)
        if stop > at:
            done.append((region, "compute", at, stop))
        done[first:] = [span for whole in done[first:] for span in without(whole, lost_times(regions, region))]
        there = mine & np.isfinite(exchanges["arrived_s"])
        travels += [(region, int(f), b, e) for f, b, e in zip(exchanges["fragment"][there], exchanges["sent_s"][there].tolist(),
                                                             exchanges["arrived_s"][there].tolist())]
    return done, travels


def lost_times(regions, region):
    """Rows (begin, end) of the time that a region lost, the last part of a period each."""
    rows = np.flatnonzero(regions["region"] == region)
    rows = rows[np.lexsort((regions["period"][rows], regions["reached_s"][rows]))]
    found, before = [], 0.0
    for end, compute, stall, steps in zip(*(regions[c][rows].tolist() for c in ("reached_s", "compute_s", "stall_s", "lost_steps"))):
        lost = end - before - compute - stall
        if steps > 0 and lost > 1e-9:  # the file's times are rounded to nanoseconds
            found.append((end - lost, end))
        before = end
    return found


def without(span, lost):
    """The span of a region in parts, of which those within `lost` are "lost". A stall stays one."""
    region, part, at, end = span
    if part != "compute":
        return [span]
    found = []
    for begin, stop in lost:
        begin, stop = max(begin, at), min(stop, end)
        if begin < stop:
            found += [(region, "compute", at, begin)] if begin > at else []
            found.append((region, "lost", begin, stop))
            at = stop
    return found + ([(region, part, at, end)] if end > at else [])


def model_parameters(run):
    """Number of parameters of the global model, from a checkpoint beside the run file; None if there is none that can be
    read. Norm statistics do not count."""
    folder = os.path.join(os.path.dirname(os.path.abspath(run.path)), "checkpoints")
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.h5")), key=natural, reverse=True):
        try:
            with _open(path) as file:
                return sum(values.size for name, values in file["model"].items() if not name.endswith(STATISTICS))
        except Exception:  # it is damaged, or the program has just removed it
            continue
    return None


def parse_config(text):
    """Returns a dict from "section.key" to value."""
    values, section = {}, ""
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1].strip() + "."
        else:
            key, _, value = line.partition("=")
            values[section + key.strip()] = value.strip()
    return values


def default_config(program):
    """The text of all options at their defaults, from the program itself."""
    done = subprocess.run([program, "run", os.devnull, "--print-config"], capture_output=True, text=True, check=True)
    return done.stdout


def changed_options(text, defaults):
    """A dict from "section.key" to (value, default) of the options of `text` that are not at their defaults; the default is None
    for options that `defaults` does not have, such as those of a device. Names of files do not count."""
    usual = parse_config(defaults)
    return {key: (value, usual.get(key)) for key, value in parse_config(text).items()
            if key not in UNHASHED and value != usual.get(key)}


def configuration_hash(text, defaults):
    """A short hash of a complete input (`config_text` of a run, or the output of --print-config) over the options that are
    not at their defaults. A new option of the program therefore does not change it. Names of files do not count."""
    kept = [f"{key.rpartition('.')[0]} {key.rpartition('.')[2]} = {value}".rstrip()
            for key, (value, _) in changed_options(text, defaults).items()]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def kind_of(option):
    """What two runs must have equal to be compared fairly: "data", "fleet" or "budget"; "" for any other option."""
    section, _, key = option.partition(".")
    if option in ("run.rounds", "run.virtual_limit", "run.target_accuracy"):
        return "budget"
    if section == "data" and option not in UNHASHED:
        return "data"
    is_fleet = section in ("device", "server", "faults") or option == "clock.kind"
    return "fleet" if is_fleet or (section == "clients" and key != "memory_fit") else ""


def read_rows(path):
    """The rows of a CSV file as dicts of text."""
    if not os.path.exists(path):
        raise RunError(f"there is no {path}; give a table that sweep.py wrote")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if any(None in row or None in row.values() for row in rows):
        raise RunError(f"{path} is damaged: a row has more or fewer values than the first line has names")
    return rows


def is_language(evaluations):
    """Whether these are evaluations of a language model: only those have a perplexity."""
    return bool(np.isfinite(evaluations.get("perplexity", np.nan)).any())


def summary(run, target=None, evaluated="test"):
    """The figures of a run as a dict of numbers; NaN where a run has none. `target` is a quality: a share of correct samples,
    or a perplexity for language models. `evaluated` is the name of the set of /evaluations that counts."""
    rounds, tasks = run.rounds, run.tasks
    seen = {c: v[run.evaluations["set"] == evaluated] for c, v in run.evaluations.items()}
    nothing = np.full(len(seen["version"]), np.nan)
    top1, perplexity = seen.get("top1", nothing), seen.get("perplexity", nothing)
    language = is_language(seen)
    found = {"top1": _last(top1), "best_top1": _largest(top1), "loss": _last(seen["loss"])}
    if language:
        found.update(perplexity=_last(perplexity), best_perplexity=-_largest(-perplexity))
    if target is not None:
        if target > 1 and not language and np.isfinite(top1).any():
            raise RunError(f"{run.path} has a top-1 between 0 and 1, which cannot reach {target:g}; give a target such as 0.8")
        reached = np.flatnonzero(perplexity <= target if language else top1 >= target)
        found.update(_reach(rounds, seen, reached[0] if len(reached) else None))
    ends = rounds["virtual_time_s"]
    spans = np.diff(ends, prepend=0.0)
    counted = np.isfinite(rounds["utilisation"]) & (spans > 0)
    outcomes = tasks.get("outcome")  # None: the run has no tasks
    merged = None if outcomes is None else outcomes == "merged"
    figures = {
        "peak_mb": _largest(tasks["peak_bytes"] if tasks else rounds["peak_client_bytes"]) * 1e-6,
        "utilisation": np.average(rounds["utilisation"][counted], weights=spans[counted]) if counted.any() else np.nan,
        "staleness": None if outcomes is None else tasks["staleness"][merged].mean() if merged.any() else np.nan,
        "mb_down": rounds["bytes_down"].sum() * 1e-6,
        "mb_up": rounds["bytes_up"].sum() * 1e-6,
        "updates": None if outcomes is None else int(merged.sum()),
        "failures": None if outcomes is None else
                    int((~np.isin(outcomes, ("merged", "dropped_stale", "unfinished"))).sum()),
        "rounds": len(rounds["round"]),
        "steps": int(rounds["step"].max(initial=0)) if "step" in rounds else None,
        "stall_s": rounds["stall_s"].sum() if "stall_s" in rounds else None,
        "mb_device": rounds["device_bytes"].sum() * 1e-6 if "device_bytes" in rounds else None,
        "waiting": _mean(rounds["waiting_share"]) if "waiting_share" in rounds else None,
        "virtual_s": _last(ends),
        "wall_s": _last(rounds["wall_time_s"]) if "wall_time_s" in rounds else None,
    }
    found.update({name: value for name, value in figures.items() if value is not None})
    return {name: value if isinstance(value, int) else float(value) for name, value in found.items()}


def typed(texts):
    """An array of the values that `texts` write: integers, numbers, truth values or text, whichever fits all."""
    if all(text in ("true", "false") for text in texts):
        return np.array([text == "true" for text in texts])
    for kind in (int, float):
        try:
            return np.array([kind(text) for text in texts])
        except (ValueError, OverflowError):
            pass
    return np.array(texts, dtype=str)


def duration(seconds):
    """A time in words: 0.25 s, 12.3 s, 4 min 05 s, 3 h 10 min, 2 d 4 h."""
    if not np.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = int(round(seconds)) // 60
    if minutes < 60:
        return f"{minutes} min {int(round(seconds)) % 60:02d} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def time_unit(seconds):
    """Name and length of a readable unit for a span of `seconds`."""
    for name, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 3 * length:
            return name, length
    return "s", 1.0


def byte_unit(size):
    """Name and length of a readable unit for a number of bytes."""
    for name, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= length:
            return name, length
    return "B", 1.0


def natural(text):
    """A sort key that puts seed2 before seed10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def _reach(rounds, seen, row):
    """Time, rounds, bytes and steps until row `row` of the evaluations; NaN if it is None."""
    if row is None:
        found = dict.fromkeys(("target_s", "target_rounds", "target_mb", "target_wall_s"), np.nan)
        return {**found, "target_steps": np.nan} if "step" in rounds else found
    before = rounds["version"] <= seen["version"][row]
    found = {"target_s": seen["virtual_time_s"][row], "target_rounds": float(before.sum()),
             "target_mb": (rounds["bytes_down"][before].sum() + rounds["bytes_up"][before].sum()) * 1e-6,
             "target_wall_s": _last(rounds["wall_time_s"][before]) if "wall_time_s" in rounds else np.nan}
    return {**found, "target_steps": float(_last(rounds["step"][before]))} if "step" in rounds else found


def _last(values):
    return values[-1] if len(values) else np.nan


def _mean(values):
    return values.mean() if len(values) else np.nan


def _largest(values):
    return np.nanmax(values) if np.isfinite(values).any() else np.nan


def _folder(path):
    return os.path.dirname(path) if os.path.basename(path) == "run.h5" else path


def _missing(like, length):
    """`length` values that stand for a column that is absent."""
    if like.dtype.kind in "iuf":
        return np.full((length, *like.shape[1:]), np.nan)
    return np.zeros((length, *like.shape[1:]), dtype=like.dtype)


def _values(dataset, length):
    """The first `length` rows of a column, as numbers, truth values or text."""
    names = h5py.check_enum_dtype(dataset.dtype)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return dataset.asstr()[:length].astype(str)
    values = dataset[:length]
    if names is None or values.dtype == bool:
        return values
    texts = {number: name for name, number in names.items()}
    return np.array([texts.get(value, str(value)) for value in values.tolist()], dtype=str)


def _open(path):
    try:
        return h5py.File(path, "r", locking=False)
    except (TypeError, ValueError):  # h5py is too old for `locking`; the writer takes no lock anyway
        return h5py.File(path, "r")
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")  # the caller has it open with locking; HDF5 wants the same of all in one process


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        value.encode("utf-8")  # raises an error if a damaged file has bytes that are no text
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
