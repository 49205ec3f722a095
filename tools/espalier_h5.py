"""Reads Espalier's run files into NumPy arrays, also during the run.

    run = open_run("runs/quickstart")
    run.rounds["train_loss"]          # an array; every column of a table has the same length
    run.config["method.name"]         # the resolved input, "section.key" to text
"""

import os
import time

import h5py
import numpy as np

# A read during a run can coincide with a flush and fail; it succeeds a moment later.
TRIES = 20
PAUSE_S = 0.1


class RunError(Exception):
    """One sentence that says why a file cannot be read as a run."""


class Run:
    """One run: `rounds`, `tasks`, `evaluations`, `clients` (dicts of arrays), `method` (a dict of
    such tables by path), `config`, `attributes`, and `units`, from "table/column" to text."""

    def __init__(self, path, file):
        self.path = path
        self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
        self.config = parse_config(self.attributes.get("config", ""))
        self.units = {}
        self.rounds = self._table(file, "rounds")
        self.tasks = self._table(file, "tasks")
        self.evaluations = self._table(file, "evaluations")
        self.clients = self._table(file, "clients")
        self.method = {}
        if "method" in file:
            groups = []
            file["method"].visititems(
                lambda name, item: groups.append(name) if isinstance(item, h5py.Group) else None
            )
            self.method = {name: self._table(file, "method/" + name) for name in groups}

    @property
    def name(self):
        """`run.name`, else the name of the folder or file."""
        if self.config.get("run.name"):
            return self.config["run.name"]
        folder, file = os.path.split(os.path.abspath(self.path))
        return os.path.basename(folder) if file == "run.h5" else os.path.splitext(file)[0]

    def _table(self, file, name):
        columns = {c: d for c, d in file[name].items() if isinstance(d, h5py.Dataset)}
        # Columns grow one after the other, so only the rows that all columns have are valid.
        length = min((len(d) for d in columns.values()), default=0)
        table = {}
        for column, dataset in columns.items():
            values = dataset[:length]
            if values.dtype.kind == "S":
                values = np.char.decode(values, "utf-8")
            table[column] = values
            self.units[f"{name}/{column}"] = _plain(dataset.attrs.get("units", ""))
        return table


def run_file(path):
    """The run file of `path`, which is a run folder or a run file."""
    return os.path.join(path, "run.h5") if os.path.isdir(path) else path


def open_run(path):
    """Reads a run folder or file and returns a Run. Raises RunError with one sentence."""
    path = run_file(path)
    if not os.path.exists(path):
        raise RunError(f"there is no {path}; give a run's folder or its run.h5")
    for attempt in range(TRIES):
        try:
            with _open(path) as file:
                kind = _plain(file.attrs.get("filetype", ""))
                if kind != "espalier run":
                    raise RunError(f"{path} is not a run file of espalier; give a run's folder")
                if int(file.attrs["version"][0]) != 1:
                    raise RunError(f"{path} has a newer format; use the release that wrote it")
                return Run(path, file)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            reason = error
            time.sleep(PAUSE_S)
    raise RunError(f"{path} cannot be read: {reason}")


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


def _open(path):
    try:
        return h5py.File(path, "r", locking=False)
    except (TypeError, ValueError):  # h5py is too old for `locking`; the writer takes no lock anyway
        return h5py.File(path, "r")


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
