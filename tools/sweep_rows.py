"""What the program says about the cells of a sweep before they run, and the row that a finished run has in the CSV file."""

import concurrent.futures
import contextlib
import csv
import fcntl
import functools
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys

from espalier_h5 import RunError, configuration_hash, default_config, kind_of, open_run, parse_config, read_rows, summary
from run_state import DAMAGE, damage, state_of, write_whole
from sweep_file import SweepError

QUALITIES = ("perplexity", "top1", "server_top1")  # the first that a row has is shown
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class OtherRun(RunError):
    """A cell's folder has no run of this cell, or a run that cannot be read."""


def cores():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


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
        where = " <- ".join(line for line in stderr.splitlines() if re.search(r"\] \[ ?\d+\] ", line))  # Open MPI's frames
        return (f"ended by signal {number}" + (" (out of memory?)" if number == signal.SIGKILL else "")
                + (f": {where[:1500]}" if where else ""))
    return (stderr.strip().splitlines() or [f"ended with status {status}"])[-1]


def resolve(sweep, cells):
    """Asks the program for the complete input of each start and of these cells, and sets its hash or the sentence that
    refuses it. The name of a start's folder ends with its hash, so that a run's `model.init` says from which start it began."""
    starts = sweep.start_cells
    ask([*starts.values(), *cells])
    for start in starts.values():
        start.run_name += f"-{start.config}" if start.config else ""
    for cell in cells:
        start = starts.get(cell.start)
        if start and cell.config:
            cell.error = f"its start {cell.start} is refused: {start.error}" if start.error else None
            cell.config = with_start(cell.config, start)


def ask(cells):
    """Sets `text`, `config` and `threads`, or `error`, of each cell. Cells that differ only in their seed are one question."""
    defaults()
    groups = {}
    for cell in cells:
        groups.setdefault((cell.input, tuple(cell.options.items())), []).append(cell)

    def ask_for(group):
        done = subprocess.run([program(), "run", *group[0].arguments(), "--print-config"], capture_output=True, text=True)
        for cell in group:
            if done.returncode != 0:
                cell.error = error_sentence(done.stderr, done.returncode)
                continue
            cell.text = re.sub(r"(?m)^seed = .*$", f"seed = {cell.seed}", done.stdout, count=1)
            cell.config = configuration_hash(cell.text, defaults())
            cell.threads = int(parse_config(cell.text).get("run.threads", "1"))

    pool = concurrent.futures.ThreadPoolExecutor(cores())
    try:
        for place, _ in enumerate(pool.map(ask_for, groups.values()), 1):
            show_line(f"the program checks variant {place} of {len(groups)}")
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for those that have not begun
        clear_line()


def with_start(config, start):
    """The hash of a run that begins with the model of another run."""
    return hashlib.sha256((config + start.config).encode()).hexdigest()[:12] if start.config else None


def show_line(text):
    """Replaces the last line of a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K" + text[: shutil.get_terminal_size().columns - 1])
        sys.stdout.flush()


def clear_line():
    show_line("")


def saved_rows(sweep):
    if not os.path.exists(sweep.csv):
        return {}
    rows = read_rows(sweep.csv)
    for name in (*sweep.names, "seed", "config") if rows else ():
        if name not in rows[0]:
            raise SweepError(f"{sweep.csv} has no column {name}, so it is not the table of {sweep.path}; write another `csv = `")
    for row in rows:
        for name in QUALITIES:
            try:
                float(row.get(name) or "nan")
            except ValueError:
                raise SweepError(f"{sweep.csv} has {name} = {row[name]}, which is no number; delete that line, and its row is "
                                 "made again") from None
    return {tuple(row[name] for name in (*sweep.names, "seed")): row for row in rows}


def option_columns(sweep):
    """Options that have a column of their own: those in brackets, and those that make runs unequal in data, fleet or budget."""
    found = dict.fromkeys(key for cell in sweep.cells for key in cell.varied)
    configs = [parse_config(cell.text) for cell in sweep.cells if cell.text]
    for key in dict.fromkeys(key for config in configs for key in config):
        if kind_of(key) and len({config.get(key, "") for config in configs}) > 1:
            found[key] = None
    return list(found)


def is_current(sweep, cell, row):
    """Whether a row is of this configuration and of this target. A table with `columns` of its own need not have the target."""
    target = "" if cell.target is None else written(cell.target)
    is_same_target = row.get("target", target if sweep.columns else "") == target
    return row["config"] == cell.config and is_same_target


def written(value):
    return f"{value:.9g}"


@contextlib.contextmanager
def alone_with_table(sweep):
    """Only one sweep.py at a time replaces the table: sweeps of other folders or files may share it. The folder is locked, because
    the table is a new file each time."""
    os.makedirs(os.path.dirname(sweep.csv), exist_ok=True)
    folder = os.open(os.path.dirname(sweep.csv), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def save(sweep, rows, cell):
    """Adds the row of a cell to the table. All other rows are those of the file, to which other sweeps may have added theirs; so are
    rows of cells that this sweep no longer has, which come last."""
    with alone_with_table(sweep):
        rows.update(saved_rows(sweep))
        rows[cell.key] = cell.row
        write_table(sweep, rows)


def write_table(sweep, rows):
    """Writes the rows in the order of the cells."""
    ordered = sorted(rows.items(), key=lambda item: (sweep.order.get(item[0], len(sweep.order)), item[0]))
    known = {cell.key: parse_config(cell.text) for cell in sweep.cells if cell.text}
    options = option_columns(sweep)
    for key, row in ordered:
        row.update({name: known[key].get(name, "") for name in options if key in known})
    fixed = (*sweep.names, "seed", *options)
    figures = [name for _, row in ordered for name in row if name not in fixed and name not in ("config", "commit")]
    columns = sweep.columns or [*fixed, *dict.fromkeys(figures), "config", "commit"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in ordered)
    write_whole(sweep.csv, text.getvalue())


def finished_run(sweep, cell):
    """The finished run in a cell's folder. Raises OtherRun if the folder has no run of this cell, and RunError if the run has
    not ended or there is none."""
    if not os.path.exists(cell.folder):
        raise RunError("not begun")
    try:
        run = open_run(cell.folder)
    except RunError as error:
        raise OtherRun(f"{error}; --overwrite replaces it") from None
    start = sweep.start_cells.get(cell.start)
    text = re.sub(r"(?m)^init = .*$", "init =", run.config_text) if start else run.config_text
    config = configuration_hash(text, defaults())
    if start and f"{os.sep}{start.run_name}{os.sep}" in run.config.get("model.init", ""):
        config = with_start(config, start)
    if config != cell.config:
        raise OtherRun(f"{cell.folder} holds a run of another configuration; --overwrite replaces it")
    if not run.is_finished:
        raise RunError(f"{state_of(cell.folder).kind} after {len(run.rounds['round'])} rounds")
    return run


def row_of(sweep, cell, run):
    """The row of a finished run."""
    sets = sorted(set(run.evaluations["set"]))
    if sets and cell.evaluated not in sets:
        raise RunError(f"evaluated = {cell.evaluated}, but there are only evaluations of {', '.join(sets)}")
    try:
        figures = summary(run, cell.target, cell.evaluated)
    except DAMAGE as error:
        raise RunError(damage(run.path, error)) from None
    if cell.target is not None:
        figures = {"target": cell.target, **figures}
    labels = dict(zip(sweep.names, cell.labels))
    try:
        figures.update(sweep.measure(run, labels) if sweep.measure else {})
        texts = {name: written(value) for name, value in figures.items()}
    except Exception as error:  # the user's own code
        raise RunError(f"measure failed: {type(error).__name__}: {error}") from None
    return {**labels, "seed": str(cell.seed), **texts, "config": cell.config,
            "commit": run.attributes.get("git_sha", "unknown")}


def take(sweep, cell, rows):
    """Adds the row of a cell whose run is finished, or raises RunError with its state."""
    cell.row = row_of(sweep, cell, finished_run(sweep, cell))
    save(sweep, rows, cell)
    cell.state = "finished"


def quality(row):
    """The final quality of a row in words: the first figure that it has."""
    for name in QUALITIES:
        if row and row.get(name, "nan") not in ("nan", ""):
            return f"{name.replace('_', ' ')} {float(row[name]):.4g}"
    return ""
