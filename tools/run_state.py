"""How far a run is: functions that report.py, track.py and follow.py share.

    for run, state in watch("runs/quickstart"):      # each time that the file has grown, until the run is done
        print(state.kind, len(run.rounds["round"]))

`state_of` needs only the files of the run's folder, so it also works for a run on another computer of a cluster.
"""

import contextlib
import os
import shutil
import socket
import time

import numpy as np

from espalier_h5 import RunError, is_language, open_run, run_file

FAILURES = ("out_of_memory", "crashed", "rejected", "unavailable")
PATIENCE_S = 10.0  # a run that starts or resumes has no readable file for a moment


# What odd values of a damaged file can raise in a tool.
DAMAGE = (LookupError, ArithmeticError, ValueError)


def damage(path, error):
    """One sentence about a file that could be read, but whose values make no sense."""
    return f"{run_file(path)} seems to be damaged: {type(error).__name__} {' '.join(str(error).split())}"


class WriteError(RunError):
    """One sentence that says why a file cannot be written."""

    status = 4


class State:
    """`kind`: "done", "running", "stopped", "killed" (both resume when they are started again), "failed", or "copy" for a run file
    without its folder; `text`: one sentence."""

    def __init__(self, kind, text):
        self.kind, self.text = kind, text

    @property
    def status(self):
        """The exit status of a tool that followed the run."""
        return {"stopped": 85, "killed": 85, "failed": 1}.get(self.kind, 0)

    @property
    def is_over(self):
        return self.kind != "running"


def folder_of(path):
    """The run's folder, for its folder or its run.h5; None for a run file under another name, which is a copy."""
    if os.path.isdir(path):
        return path
    folder, name = os.path.split(os.path.abspath(path))
    return folder if name == "run.h5" else None


def state_of(path):
    """The State of a run's folder or file."""
    folder = folder_of(path)
    if folder is None:
        return State("copy", "a run file without its folder; its run may have gone on since")
    done = read_text(os.path.join(folder, "DONE"))
    if done:
        return State("done", done.strip())
    owner = read_text(os.path.join(folder, "LOCK")).split()
    if len(owner) >= 3:
        host, pid, started = owner[:3]
        if host != socket.gethostname():
            return State("running", f"running on {host}")
        if start_of_process(pid) == started:
            return State("running", "running on this machine")
        return State("killed", "killed before its end; start it again to go on")
    if os.path.exists(os.path.join(folder, "LOCK")):
        return State("running", "starting")
    ends = [line for line in log_lines(folder) if line.startswith(("stopped at ", "error: "))]
    if ends and ends[-1].startswith("error: "):
        return State("failed", "failed: " + ends[-1].removeprefix("error: "))
    return State("stopped", ends[-1] if ends else "not finished; start it again to go on")


def start_of_process(pid):
    """When a process of this machine started, as in the LOCK file; "" if there is none."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def read_text(path):
    """The text of a file; "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def log_lines(path):
    """The lines of log.txt without their times; [] if there is no log.txt beside the run file."""
    folder = folder_of(path)
    text = read_text(os.path.join(folder, "log.txt")) if folder else ""
    return [line.partition(" ")[2] for line in text.splitlines()]


def warnings_of(path):
    """The warnings of log.txt, each once, in their order."""
    mark = "warning: "
    return list(dict.fromkeys(line[len(mark):] for line in log_lines(path) if line.startswith(mark)))


def watch(path, every_s=1.0, always=False):
    """Yields (Run, State): at once, then each time that the file has grown (`always`: every `every_s` seconds), and a last time
    with the state that is_over. Raises RunError if `path` is no run, or no longer one."""
    seen, failed_since, run, stamp = None, None, None, None
    while True:
        state = state_of(path)  # before the file, so that a finished run is read to its end
        before = stamp_of(path)
        try:
            if run is None or before != stamp:
                run, stamp = open_run(path), before
            failed_since = None
        except RunError:
            failed_since = failed_since or time.monotonic()
            if state.is_over or time.monotonic() - failed_since > PATIENCE_S:
                raise
            time.sleep(every_s)
            continue
        rows = {name: len(next(iter(table.values()), ())) for name, table in run.tables.items()}
        if always or rows != seen or state.is_over:
            seen = rows
            yield run, state
        if state.is_over:
            return
        time.sleep(every_s)


def write_whole(path, content):
    """Writes a file of text or bytes, so that a reader never sees a part of it and a full disk spares the file of before. Raises
    WriteError if that fails."""
    # A device or pipe, such as /dev/stdout, must not be replaced by a file.
    is_file = os.path.isfile(path) or not os.path.exists(path)
    own = os.path.realpath(path)  # a link stays one
    place = own + ".tmp" if is_file else path
    try:
        with open(place, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode("utf-8", errors="replace"))
        if is_file:
            if os.path.exists(own):
                shutil.copymode(own, place)
            os.replace(place, own)
    except OSError as error:
        if is_file:
            with contextlib.suppress(OSError):
                os.remove(place)
        raise WriteError(f"{path} cannot be written: {error.strerror}") from None


def stamp_of(path):
    """Time of the last change and size of the run file; None if there is none."""
    try:
        found = os.stat(run_file(path))
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def quality_of(run):
    """(name, versions, values) of the evaluations on the test set; the name is "perplexity" for language models, else "top-1"."""
    seen = run.evaluations
    chosen = seen["set"] == "test"
    if not chosen.any() and len(chosen):
        chosen = seen["set"] == seen["set"][0]
    perplexity = seen.get("perplexity", np.full(len(chosen), np.nan))[chosen]
    top1 = seen.get("top1", np.full(len(chosen), np.nan))[chosen]
    return ("perplexity", seen["version"][chosen], perplexity) if is_language(seen) else ("top-1", seen["version"][chosen], top1)
