#!/usr/bin/env python3
"""Runs a grid of variants and seeds, and writes one row for each finished run into a CSV file.

    tools/sweep.py SWEEP.ini

A sweep file names an input file, seeds, and what each variant changes:

    [sweep]
    input = quickstart.ini              ; beside this file, or below the working directory
    seeds = 1, 2, 3                     ; or 1-3
    target = 0.9                        ; optional: the table has the time to this quality
    run.rounds = 10                     ; an option of every run

    [variant {method.name}]
    method.name = [fedavg, fedrolex]    ; a list in brackets: one variant for each value

    [variant narrow]
    method.name = heterofl
    method.widths = 0.5, 0.25           ; no brackets: one value

The same command goes on after a kill. Finished runs are not run again. A run that fails does not stop the others.
docs/sweeps.md describes all keys.
"""

import argparse
import concurrent.futures
import configparser
import csv
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
try:
    from espalier_h5 import RunError, configuration_hash, default_config, kind_of, open_run, parse_config, read_rows, summary
except ModuleNotFoundError as error:
    print(f"sweep.py needs the Python package {error.name}: start it by .venv/bin/python, or pip install ./tools", file=sys.stderr)
    sys.exit(2)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXAMPLES = """examples:
  tools/sweep.py inputs/sweep.ini                  runs what is not finished
  tools/sweep.py inputs/sweep.ini --list           shows every run and its state, runs nothing
  tools/sweep.py inputs/sweep.ini --slurm          writes a job array; submit it, and later --collect its rows
  tools/compare.py --sweep inputs/sweep.csv        makes a table of the rows"""
SWEEP_KEYS = ("input", "seeds", "ranks", "jobs", "dir", "csv", "names", "columns", "measure", "target", "evaluated", "start",
              "like")
VARIANT_KEYS = ("input", "seeds", "ranks", "target", "evaluated", "start", "like")
# Memory of one rank before a run of the sweep has been measured: the program, its libraries and a data set.
RANK_BYTES = 600e6
STOPPED = 85


class SweepError(Exception):
    """One sentence about a sweep file or an option. The tool ends with status 2."""


class Cell:
    """One run of the sweep: a variant with one seed."""

    def __init__(self, labels, seed, values, sweep):
        self.labels = labels
        self.seed = seed
        self.options = {key: value for key, value in values.items() if "." in key}
        self.input = sweep.find(values.get("input"))
        self.ranks = whole(values.get("ranks", "1"), "ranks")
        self.target = number(values["target"], "target") if values.get("target") else None
        self.evaluated = values.get("evaluated", "test")
        self.start = values.get("start")
        self.varied = []  # options that a list in brackets varies
        self.run_name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", " ".join(labels)).strip("-") + f"-seed{seed}"
        self.folder = os.path.join(sweep.dir, self.run_name)
        # Known after resolve():
        self.text = self.config = self.error = None
        self.threads = 1
        self.state = ""
        self.row = None

    key = property(lambda self: (*self.labels, str(self.seed)))
    name = property(lambda self: f"{' / '.join(self.labels)}, seed {self.seed}")
    cores = property(lambda self: max(1, self.ranks - 1) * self.threads)

    def arguments(self):
        """The words after `espalier run`, without a start checkpoint."""
        settings = {**self.options, "run.seed": self.seed}
        return [self.input, *(f"--{key}={value}" for key, value in settings.items())]


class Sweep:
    """A sweep file: its cells, in the order in which they run, and where their results go."""

    def __init__(self, path, folder=None):
        self.path = path
        self.stem = os.path.splitext(os.path.basename(path))[0]
        self.home = os.path.dirname(os.path.abspath(path))
        sections = read_sections(path)
        self.common = sections.pop("sweep", {})
        refuse_unknown(path, "sweep", self.common, SWEEP_KEYS)
        self.bases, self.starts, variants = {}, {}, {}
        kinds = {"base": self.bases, "start": self.starts, "variant": variants}
        for title, items in sections.items():
            kind, _, name = title.partition(" ")
            if kind not in kinds or not name.strip():
                raise SweepError(f"{path}: section [{title}] is none of [sweep], [variant NAME], [base NAME], [start NAME]")
            kinds[kind][name.strip()] = items
        self.dir = folder or self.common.get("dir", "runs")
        self.csv = self.beside(self.common.get("csv", self.stem + ".csv"))
        self.names = words(self.common.get("names", "variant"))
        self.columns = words(self.common.get("columns", ""))
        self.jobs = whole(self.common.get("jobs", "0"), "jobs")
        self.measure = self.plugin(self.common.get("measure"))
        if not variants:
            variants = {os.path.splitext(os.path.basename(self.common.get("input", self.stem)))[0]: {}}
        self.cells = [cell for name, items in variants.items() for cell in self.expand("variant", name, items)]
        self.start_cells = {}
        for name, items in self.starts.items():
            cells = self.expand("start", name, items)
            if len({cell.labels for cell in cells}) > 1:
                raise SweepError(f"{path}: [start {name}] has several values in brackets; a start is one run")
            self.start_cells[name] = cells[0]
        self.order = {cell.key: place for place, cell in enumerate(self.cells)}
        self.refuse_twice()
        for cell in self.cells:
            if cell.start is not None and cell.start not in self.start_cells:
                raise SweepError(f"{path}: start = {cell.start}, but there is no section [start {cell.start}]")

    def refuse_twice(self):
        seen = {}
        for cell in [*self.cells, *self.start_cells.values()]:
            other = seen.setdefault(cell.run_name, cell)
            if other is not cell:
                raise SweepError(f"{self.path}: two runs would have the folder {cell.folder}; give their variants other names")

    def beside(self, name):
        return os.path.normpath(os.path.join(self.home, os.path.expanduser(name)))

    def find(self, name):
        """An input file beside the sweep file or below the working directory."""
        if not name:
            raise SweepError(f"{self.path}: no input; write `input = FILE.ini` into [sweep]")
        for path in (self.beside(name), name):
            if os.path.isfile(path):
                return os.path.relpath(path) if not os.path.isabs(name) else path
        raise SweepError(f"{self.path}: there is no input {name}, neither beside this file nor below the working directory")

    def plugin(self, name):
        """The function `measure(run, cell)` of a Python file, for figures that espalier_h5 does not know."""
        if not name:
            return None
        path = self.beside(name)
        if not os.path.isfile(path):
            raise SweepError(f"{self.path}: measure = {name}, but there is no {path}")
        spec = importlib.util.spec_from_file_location("measure", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            return module.measure
        except Exception as error:  # the user's own code
            raise SweepError(f"{path} cannot be used for measure: {type(error).__name__}: {error}") from None

    def expand(self, kind, name, items):
        """The cells of a section."""
        title = f"{kind} {name}"
        refuse_unknown(self.path, title, items, VARIANT_KEYS)
        found = []
        for own, chosen in products(items, self.path):
            own = {key: fill(value, chosen) for key, value in own.items()}
            values = {**self.common, **self.inherited(own, title), **own}
            for full, more in products(values, self.path):
                axes = {**more, **chosen}
                axes = {key: axes[key] for key in full if key in axes}
                label = fill(name, axes)
                label = " ".join([label, *(value for key, value in axes.items() if "{" + key + "}" not in name and key != "like")])
                if "run.seed" in full:
                    raise SweepError(f"{self.path}: [{title}] sets run.seed; write `seeds = 1, 2, 3`")
                options = {key: value for key, value in full.items() if "." in key or key in VARIANT_KEYS}
                for seed in seeds_of(full.get("seeds", "1"), self.path)[: 1 if kind == "start" else None]:
                    cell = Cell(self.split(label, kind), seed, options, self)
                    cell.varied = [key for key in axes if "." in key]
                    found.append(cell)
        return found

    def split(self, label, kind):
        """The parts of a variant's name, one for each word of `names`."""
        if kind == "start" or len(self.names) == 1:
            return (label,)
        parts = tuple(part.strip() for part in label.split("/", len(self.names) - 1))
        if len(parts) != len(self.names):
            raise SweepError(f"{self.path}: [variant {label}] needs {len(self.names)} parts with / between them, because names "
                             f"= {', '.join(self.names)}")
        return parts

    def inherited(self, items, title, above=()):
        """The values of the bases that `like` names; later ones win."""
        values = {}
        for name in words(items.get("like", "")):
            if name not in self.bases or name in above:
                raise SweepError(f"{self.path}: [{title}] is like {name}, but there is no section [base {name}] above it")
            refuse_unknown(self.path, f"base {name}", self.bases[name], VARIANT_KEYS)
            values.update(self.inherited(self.bases[name], f"base {name}", (*above, name)))
            values.update(self.bases[name])
        return {key: value for key, value in values.items() if key != "like"}


def read_sections(path):
    """The sections of an INI file, in order; keys as they are written."""
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), inline_comment_prefixes=("#", ";"),
                                       interpolation=None, empty_lines_in_values=False, default_section="")
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        raise RunError(f"there is no {path}; give a sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    except configparser.Error as error:
        raise SweepError(" ".join(f"{path} is no sweep file: {error.message}".split())) from None
    return {" ".join(title.split()): {key: " ".join(value.split()) for key, value in parser[title].items()}
            for title in parser.sections()}


def refuse_unknown(path, title, items, known):
    for key, value in items.items():
        is_word = value.startswith("[") and re.fullmatch(r"\w+", key)  # a word for {} in names
        if "." not in key and key not in known and not (is_word and title != "sweep"):
            raise SweepError(f"{path}: [{title}] has the unknown key {key}; there are {', '.join(known)}, and options such as "
                             "train.lr")


def words(text):
    """A list of words: separated by |, or by commas."""
    return [word.strip() for word in text.split("|" if "|" in text else ",") if word.strip()]


def products(items, path):
    """Yields (items, chosen) for every choice of one value from each list in brackets."""
    axes = {}
    for key, value in items.items():
        if value.startswith("["):
            if not value.endswith("]") or not words(value[1:-1]):
                raise SweepError(f"{path}: {key} = {value} is no list in brackets, such as [a, b] or [1, 2 | 3, 4]")
            axes[key] = words(value[1:-1])
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        yield {**items, **chosen}, chosen


def fill(text, chosen):
    for key, value in chosen.items():
        text = text.replace("{" + key + "}", value)
    return text


def seeds_of(text, path):
    found = []
    for word in words(text):
        ends = re.fullmatch(r"(\d+)(?:(?:-|\.\.)(\d+))?", word)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise SweepError(f"{path}: seeds = {text} is no list of seeds, such as 1, 2, 3 or 1-3")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(found))


def whole(text, key):
    if not text.isdigit():
        raise SweepError(f"{key} = {text} is no whole number")
    return int(text)


def number(text, key):
    try:
        return float(text)
    except ValueError:
        raise SweepError(f"{key} = {text} is no number") from None


# What the program says about a cell before it runs.


@functools.cache
def program():
    """The program: $ESPALIER, the one built in this project, or the one on the path."""
    built = os.path.join(ROOT, "build", "espalier")
    found = os.environ.get("ESPALIER") or (built if os.path.exists(built) else shutil.which("espalier"))
    if not found or not os.access(found, os.X_OK):
        raise RunError(f"there is no program {found or 'espalier'}; build it, or set ESPALIER to it")
    return found


def launcher():
    """What starts several ranks on this machine: the script of the project, or mpirun if the tools are installed alone."""
    script = os.path.join(ROOT, "tools", "mpirun.sh")
    return [script] if os.path.exists(script) else [os.environ.get("MPIRUN", "mpirun"), "--oversubscribe", "--bind-to", "none"]


@functools.cache
def defaults():
    try:
        return default_config(program())
    except subprocess.CalledProcessError as error:
        raise RunError(f"{program()} does not print its defaults: {error_sentence(error.stderr, error.returncode)}") from None


@functools.cache
def program_commit():
    done = subprocess.run([program(), "--version"], capture_output=True, text=True)
    found = re.search(r"\((\w+),", done.stdout)
    return found[1] if found else "unknown"


def error_sentence(stderr, status):
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if lines:
        return lines[-1].removeprefix("error: ")
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        return f"ended by signal {number}" + (" (out of memory?)" if number == signal.SIGKILL else "")
    return (stderr.strip().splitlines() or [f"ended with status {status}"])[-1]


def resolve(sweep, cells):
    """Asks the program for the complete input of each cell, and sets its hash or the sentence that refuses it. Cells that
    differ only in their seed are one question."""
    defaults()
    groups = {}
    for cell in cells:
        groups.setdefault((cell.input, tuple(cell.options.items())), []).append(cell)

    def ask(group):
        done = subprocess.run([program(), "run", *group[0].arguments(), "--print-config"], capture_output=True, text=True)
        for cell in group:
            if done.returncode != 0:
                cell.error = error_sentence(done.stderr, done.returncode)
                continue
            cell.text = re.sub(r"(?m)^seed = .*$", f"seed = {cell.seed}", done.stdout, count=1)
            cell.config = configuration_hash(cell.text, defaults())
            cell.threads = int(parse_config(cell.text).get("run.threads", "1"))

    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        list(pool.map(ask, groups.values()))
    for cell in cells:
        start = sweep.start_cells.get(cell.start)
        if start and cell.config:
            cell.error = f"its start {cell.start} is refused: {start.error}" if start.error else None
            cell.config = with_start(cell.config, start)


def with_start(config, start):
    """The hash of a run that begins with the model of another run."""
    return hashlib.sha256((config + start.config).encode()).hexdigest()[:12] if start.config else None


# Rows.


def saved_rows(sweep):
    if not os.path.exists(sweep.csv):
        return {}
    rows = read_rows(sweep.csv)
    for name in (*sweep.names, "seed", "config") if rows else ():
        if name not in rows[0]:
            raise SweepError(f"{sweep.csv} has no column {name}, so it is not the table of {sweep.path}; write another `csv = `")
    return {tuple(row[name] for name in (*sweep.names, "seed")): row for row in rows}


def option_columns(sweep):
    """Options that have a column of their own: those in brackets, and those that make runs unequal in data, fleet or budget."""
    found = dict.fromkeys(key for cell in sweep.cells for key in cell.varied)
    configs = [parse_config(cell.text) for cell in sweep.cells if cell.text]
    for key in dict.fromkeys(key for config in configs for key in config):
        if kind_of(key) and len({config.get(key, "") for config in configs}) > 1:
            found[key] = None
    return list(found)


def is_current(row, cell):
    """Whether a row is of this configuration and, if the table has the column, of this target."""
    target = "" if cell.target is None else written(cell.target)
    return row["config"] == cell.config and row.get("target", target) == target


def written(value):
    return f"{value:.9g}"


def save(sweep, rows):
    """Writes the rows in the order of the cells. Rows of cells that the sweep no longer has stay, at the end."""
    ordered = sorted(rows.items(), key=lambda item: (sweep.order.get(item[0], len(sweep.order)), item[0]))
    known = {cell.key: parse_config(cell.text) for cell in sweep.cells if cell.text}
    options = option_columns(sweep)
    for key, row in ordered:
        row.update({name: known[key].get(name, "") for name in options if key in known})
    fixed = (*sweep.names, "seed", *options)
    figures = [name for _, row in ordered for name in row if name not in fixed and name not in ("config", "commit")]
    columns = sweep.columns or [*fixed, *dict.fromkeys(figures), "config", "commit"]
    os.makedirs(os.path.dirname(sweep.csv), exist_ok=True)
    with open(sweep.csv + ".tmp", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for _, row in ordered)
    os.replace(sweep.csv + ".tmp", sweep.csv)


def row_of(sweep, cell):
    """The row of a finished run. Raises RunError if there is none in the cell's folder."""
    run = open_run(cell.folder)
    text = re.sub(r"(?m)^init = .*$", "init =", run.config_text) if cell.start else run.config_text
    config = configuration_hash(text, defaults())
    if cell.start:
        config = with_start(config, sweep.start_cells[cell.start])
    if not run.is_finished:
        raise RunError(f"unfinished, {len(run.rounds['round'])} rounds")
    if config != cell.config:
        raise RunError(f"{cell.folder} holds a run of another configuration; --overwrite replaces it")
    figures = summary(run, cell.target, cell.evaluated)
    if cell.target is not None:
        figures = {"target": cell.target, **figures}
    labels = dict(zip(sweep.names, cell.labels))
    if sweep.measure:
        try:
            figures.update(sweep.measure(run, labels))
        except Exception as error:  # the user's own code
            raise RunError(f"measure failed: {type(error).__name__}: {error}") from None
    texts = {name: written(value) for name, value in figures.items()}
    return {**labels, "seed": str(cell.seed), **texts, "config": cell.config,
            "commit": run.attributes.get("git_sha", "unknown")}


def take(sweep, cell, rows):
    """Adds the row of a cell whose run is finished."""
    cell.row = rows[cell.key] = row_of(sweep, cell)
    cell.state = "finished"
    save(sweep, rows)


# Running.


def cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def free_memory():
    """Bytes that new processes can have, also within the limit of a container or job; infinite if unknown."""
    free = float("inf")
    try:
        with open("/proc/meminfo") as file:
            free = float(re.search(r"MemAvailable:\s*(\d+)", file.read())[1]) * 1024
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            free = min(free, float(limit.read()) - float(used.read()))
    except (OSError, ValueError, TypeError):
        pass
    return free


def memory_of(session):
    """Resident bytes of all processes of a session."""
    total = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total


def end_with_parent():
    """In a new process: stops it at a checkpoint if sweep.py is killed. mpirun passes this signal on."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGUSR1)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


class Job:
    """A started run."""

    def __init__(self, cell, command):
        self.cell = cell
        self.began = time.monotonic()
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
                                        start_new_session=True, preexec_fn=end_with_parent)
        self.memory = self.peak = 0
        self.measured = self.began

    def status(self):
        """None while it runs. Measures its memory once a second, because a look at all processes is slow."""
        now = time.monotonic()
        if now - self.measured > 1 or not self.memory:
            self.memory, self.measured = memory_of(self.process.pid), now
            self.peak = max(self.peak, self.memory)
        return self.process.poll()

    def error(self):
        self.errors.seek(0)
        return error_sentence(self.errors.read(), self.process.returncode)


class Local:
    """Runs cells on this machine, as many at once as cores and memory allow."""

    def __init__(self, sweep, rows, options):
        self.sweep, self.rows, self.options = sweep, rows, options
        self.running, self.walls = [], {}
        self.rank_bytes = RANK_BYTES
        self.stopping = False
        self.began = time.monotonic()
        self.limit = options.jobs or sweep.jobs

    def run(self, pending):
        """Runs the cells; returns whether it was stopped."""
        needed = dict.fromkeys(cell.start for cell in pending if cell.start)
        waiting = [self.sweep.start_cells[name] for name in needed] + pending
        self.total = len(waiting)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        while (waiting and not self.stopping) or self.running:
            for job in [job for job in self.running if job.status() is not None]:
                self.running.remove(job)
                self.finish(job, waiting)
            if self.options.minutes and time.monotonic() - self.began > 60 * self.options.minutes:
                waiting = []
            self.fail_without_start(waiting)
            for cell in list(waiting) if not self.stopping else ():
                if self.is_startable(cell):
                    waiting.remove(cell)
                    self.begin(cell)
            self.show_line(waiting)
            time.sleep(0.1)
        clear_line()
        return self.stopping

    def stop(self, *_):
        """The first signal asks every run for a checkpoint; a second one ends the runs."""
        clear_line()
        print("stopping: every run writes a checkpoint" if not self.stopping else "ending the runs", flush=True)
        for job in self.running:
            job.process.send_signal(signal.SIGKILL if self.stopping else signal.SIGUSR1)
        self.stopping = True

    def is_startable(self, cell):
        if cell.start and self.sweep.start_cells[cell.start].state != "finished":
            return False
        if not self.running:
            return True
        if self.limit:
            return len(self.running) < self.limit
        used = sum(job.cell.cores for job in self.running)
        if used + cell.cores > cores():
            return False
        expected = sum(max(0, self.rank_bytes * job.cell.ranks - job.memory) for job in self.running)
        return expected + self.rank_bytes * cell.ranks < free_memory()

    def fail_without_start(self, waiting):
        for cell in list(waiting):
            start = self.sweep.start_cells.get(cell.start)
            if start and (start.error or start.state == "stopped"):
                waiting.remove(cell)
                cell.error = f"its start {cell.start} " + (f"failed: {start.error}" if start.error else "was stopped")

    def begin(self, cell):
        command = [program(), "run", *cell.arguments(), f"--run.dir={self.sweep.dir}", f"--run.name={cell.run_name}", "-q"]
        if cell.start:
            command.append(f"--model.init={last_checkpoint(self.sweep.start_cells[cell.start])}")
        if self.options.overwrite and cell.key in self.sweep.order:
            command.append("--overwrite")
        if cell.ranks > 1:
            command = [*launcher(), "-n", str(cell.ranks), *command]
        cell.state = "running"
        self.running.append(Job(cell, command))

    def finish(self, job, waiting):
        cell, status = job.cell, job.process.returncode
        # A run that was killed together with an earlier sweep.py may still be writing its checkpoint.
        if status == 2 and "is in use by process" in job.error() and time.monotonic() - self.began < 60:
            waiting.insert(0, cell)
            return
        wall = time.monotonic() - job.began
        if status == 0:
            peaks = [job.peak / cell.ranks] + ([self.rank_bytes] if self.walls else [])
            self.rank_bytes = max(peaks)
            self.walls.setdefault(cell.labels, []).append(wall)
        figure = ""
        if status == 0 and cell.key not in self.sweep.order:
            cell.state = "finished"  # a start has no row
        elif status == 0:
            try:
                take(self.sweep, cell, self.rows)
                figure = quality(cell.row)
            except RunError as error:
                cell.error = str(error)
        elif status == STOPPED or self.stopping:
            cell.state = "stopped"
        else:
            cell.error = job.error()
        ended = self.total - len(waiting) - len(self.running)
        clear_line()
        words = f"{cell.error or cell.state:<8} {figure}"
        print(f"{ended:>4} of {self.total}   {cell.name:<40} {wall:6.0f} s   {words}{self.left(waiting)}", flush=True)

    def left(self, waiting):
        """About how long the rest takes, from the runs so far."""
        if not self.walls or not (waiting or self.running):
            return ""
        every = [wall for walls in self.walls.values() for wall in walls]

        def expected(cell):
            walls = self.walls.get(cell.labels, every)
            return sum(walls) / len(walls)

        now = time.monotonic()
        seconds = sum(map(expected, waiting)) + sum(max(0, expected(job.cell) - (now - job.began)) for job in self.running)
        return f"   about {duration(seconds / max(1, len(self.running)))} left"

    def show_line(self, waiting):
        if sys.stdout.isatty():
            names = "; ".join(job.cell.name for job in self.running)
            line = f"{self.total - len(waiting) - len(self.running)} of {self.total}{self.left(waiting)}   running: {names}"
            sys.stdout.write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])
            sys.stdout.flush()


def clear_line():
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")


def last_checkpoint(cell):
    folder = os.path.join(cell.folder, "checkpoints")
    return os.path.join(folder, sorted(name for name in os.listdir(folder) if re.fullmatch(r"ckpt_\d+\.h5", name))[-1])


def duration(seconds):
    for name, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


def quality(row):
    """The final quality of a row in words: the first figure that it has."""
    for name in ("perplexity", "top1", "server_top1"):
        if row and row.get(name, "nan") not in ("nan", ""):
            return f"{name.replace('_', ' ')} {float(row[name]):.4g}"
    return ""


# Slurm.

SLURM = """#!/bin/bash
# The runs of {path}, one job each. Submit from this folder, {folder}:
#
#     sbatch {file}
#
# Two minutes before the time limit Slurm sends USR1. The program writes a checkpoint and ends with status 85. The
# job is requeued and resumes there. `tools/sweep.py {path} --collect` then writes the rows.
#SBATCH --job-name={name}
#SBATCH --array=1-{count}{limit}
#SBATCH --nodes=1
#SBATCH --ntasks={ranks}              # results do not depend on the number of ranks
#SBATCH --cpus-per-task={threads}       # threads of a rank
#SBATCH --mem-per-cpu=2G        # see `build/espalier run INPUT.ini --check`
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120       # to the program; increase it if a checkpoint takes longer
#SBATCH --requeue
#SBATCH --open-mode=append      # one log for all attempts
#SBATCH --output=%x-%A_%a.log

# If your cluster has modules, load the same ones as for the build, for example:
# module load gcc openmpi hdf5

case "$SLURM_ARRAY_TASK_ID" in
{cases}
esac

status=0
srun --mpi=pmix --kill-on-bad-exit=1 {program} run "$@" || status=$?
if [ "$status" -eq 85 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""


def slurm_words(sweep, cell):
    words = [shlex.quote(w) for w in (*cell.arguments(), f"--run.dir={sweep.dir}", f"--run.name={cell.run_name}", "-q")]
    if cell.start:
        folder = shlex.quote(os.path.join(sweep.start_cells[cell.start].folder, "checkpoints"))
        words.append(f'--model.init="$(ls {folder}/ckpt_*.h5 | tail -n 1)"')
    return " ".join(words)


def write_slurm(sweep, cells, file, limit):
    cases = "\n".join(f"  {place})  # {cell.name}\n    set -- {slurm_words(sweep, cell)} ;;"
                      for place, cell in enumerate(cells, 1))
    text = SLURM.format(path=sweep.path, file=file, folder=os.getcwd(), name=sweep.stem, count=len(cells), cases=cases,
                        limit=f"%{limit}" if limit else "", ranks=max(cell.ranks for cell in cells),
                        threads=max(cell.threads for cell in cells), program=shlex.quote(program()))
    with open(file, "w", encoding="utf-8") as out:
        out.write(text)


def slurm(sweep, pending, limit):
    if not pending:
        print("nothing to submit: every run is finished or refused")
        return
    starts = [sweep.start_cells[name] for name in dict.fromkeys(cell.start for cell in pending if cell.start)]
    file = f"{sweep.stem}.sbatch"
    write_slurm(sweep, pending, file, limit)
    submit = f"sbatch {file}"
    if starts:
        first = f"{sweep.stem}-start.sbatch"
        write_slurm(sweep, starts, first, limit)
        submit = f"sbatch --dependency=afterok:$(sbatch --parsable {first}) {file}"
    print(f"{len(pending)} runs; submit them and, when they are done, write their rows:\n\n    {submit}\n"
          f"    tools/sweep.py {sweep.path} --collect")


# The command.


def lock(sweep):
    """Keeps a second sweep.py from the same table; the system frees the lock when this process ends in any way."""
    path = os.path.join(sweep.dir, f".{sweep.stem}.lock")
    os.makedirs(sweep.dir, exist_ok=True)
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SweepError(f"another sweep.py runs {sweep.path} in {sweep.dir}; wait for it, or stop it by Ctrl-C") from None
    except OSError:
        pass  # a file system without locks
    return file


def begin(sweep, options, rows):
    """Finds the state of every cell, and returns the cells to run."""
    chosen = [cell for cell in sweep.cells if not options.only or any(word in cell.name for word in options.only)]
    if not chosen:
        raise SweepError(f"no run has one of the words {', '.join(options.only)} in its name; --list shows the names")
    resolve(sweep, list(sweep.start_cells.values()))
    resolve(sweep, sweep.cells)
    pending = []
    for cell in chosen:
        row = rows.get(cell.key)
        if cell.error:
            continue
        if row and is_current(row, cell) and not (options.same_commit and row.get("commit") != program_commit()):
            cell.row, cell.state = row, "finished"
            continue
        try:
            if options.list or options.overwrite or options.same_commit:
                raise RunError("changed since its row was written" if row else "")
            take(sweep, cell, rows)
        except RunError as error:
            cell.state = str(error) if os.path.exists(cell.folder) else "not begun"
            pending.append(cell)
    # All variants with the first seed come first, so that an early table is complete.
    pending.sort(key=lambda cell: [c.seed for c in sweep.cells if c.labels == cell.labels].index(cell.seed))
    return chosen, pending


def show(sweep, cells, rows):
    """Prints a line for each cell, and what else a reader of the table must know."""
    width = max(len(" / ".join(cell.labels)) for cell in cells)
    print(f"\n{'variant':<{width}}  seed  result")
    for cell in cells:
        state = f"failed: {cell.error}" if cell.error else cell.state
        if cell.state == "finished":
            state = quality(cell.row) or "finished"
        print(f"{' / '.join(cell.labels):<{width}}  {cell.seed:>4}  {state}")
    finished = [cell for cell in cells if cell.state == "finished"]
    failed = [cell for cell in cells if cell.error]
    print(f"\n{len(finished)} of {len(cells)} runs finished" + (f", {len(failed)} failed" if failed else ""))
    commits = sorted({cell.row.get("commit", "") for cell in finished} - {""})
    if len(commits) > 1 or commits not in ([], [program_commit()]):
        print(f"the rows come from commits {', '.join(commits)}; the program is {program_commit()} (--same-commit runs the "
              "others again)")
    outside = [key for key in rows if key not in sweep.order]
    if outside:
        print(f"{len(outside)} rows of the table belong to no run of this sweep")
    if os.path.exists(sweep.csv):
        print(f"table: {os.path.relpath(sweep.csv)}")


def work(options):
    sweep = Sweep(options.sweep, options.dir)
    with lock(sweep):
        options.overwrite |= options.same_commit
        rows = saved_rows(sweep)
        cells, pending = begin(sweep, options, rows)
        if options.slurm:
            slurm(sweep, pending, options.jobs or sweep.jobs)
            return 0
        stopped = False
        if pending and not options.list and not options.collect:
            stopped = Local(sweep, rows, options).run(pending)
        show(sweep, cells, rows)
        if stopped:
            print("stopped; the same command goes on")
            return STOPPED
        return 1 if any(cell.error for cell in cells) else 0


def main():
    parser = argparse.ArgumentParser(usage="sweep.py SWEEP.ini [WORD...] [options]", description=__doc__.split("\n\n")[0], epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP.ini", help="the sweep file; docs/sweeps.md describes it")
    parser.add_argument("only", nargs="*", metavar="WORD", help="only runs whose name contains one of the words")
    parser.add_argument("--list", action="store_true", help="show every run and its state; run nothing")
    parser.add_argument("--slurm", action="store_true", help="write a Slurm job array of the runs that are not finished")
    parser.add_argument("--collect", action="store_true", help="write the rows of runs that are finished; run nothing")
    parser.add_argument("--jobs", type=int, default=0, help="runs at once; default: as cores and memory allow")
    parser.add_argument("--minutes", type=float, default=0, help="begin no run after this time")
    parser.add_argument("--dir", help="folder of the runs; default: `dir` of the sweep file, or runs")
    parser.add_argument("--overwrite", action="store_true", help="replace runs of another configuration in these folders")
    parser.add_argument("--same-commit", action="store_true", help="run again what another commit of the program ran")
    try:
        status = work(parser.parse_intermixed_args())
    except (SweepError, RunError, OSError) as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        status = getattr(error, "status", 2)
    sys.exit(status)


if __name__ == "__main__":
    main()
