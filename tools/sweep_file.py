"""Reads a sweep file into cells: one run each, a variant with a seed. docs/sweeps.md describes the file."""

import collections
import configparser
import importlib.util
import itertools
import math
import os
import re

from espalier_h5 import RunError

SWEEP_KEYS = ("input", "seeds", "ranks", "jobs", "dir", "csv", "names", "columns", "measure", "target", "evaluated")
VARIANT_KEYS = ("input", "seeds", "ranks", "target", "evaluated", "start", "like")
# Options that sweep.py sets itself, and what to write instead.
OWN_OPTIONS = {"run.seed": "seeds = 1, 2, 3", "run.name": "[variant NAME]", "run.dir": "dir = FOLDER"}


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
        self.target = quality_of(values["target"]) if values.get("target") else None
        self.evaluated = values.get("evaluated", "test")
        self.start = values.get("start")
        self.varied = []  # options that a list in brackets varies
        self.run_name = re.sub(r"[^\w.=+-]+", "-", " ".join(labels)).strip("-") + f"-seed{seed}"
        self.dir = sweep.dir
        # Known after resolve():
        self.text = self.config = self.error = None
        self.threads = 1
        self.state = ""
        self.row = None
        self.is_replaced = False  # whether the run in its folder is another one, which this one replaces

    key = property(lambda self: (*self.labels, str(self.seed)))
    name = property(lambda self: f"{' / '.join(self.labels)}, seed {self.seed}")
    folder = property(lambda self: os.path.join(self.dir, self.run_name))
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
        self.dir = os.path.expanduser(folder or self.common.get("dir") or "runs")
        self.csv = self.beside(self.common.get("csv", self.stem + ".csv"))
        self.names = words(self.common.get("names", "variant"))
        self.columns = words(self.common.get("columns", ""))
        self.jobs = whole(self.common["jobs"], "jobs") if self.common.get("jobs") else 0
        self.refuse_columns()
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
        seen = collections.Counter()
        self.seed_place = {}  # place of each cell among the seeds of its variant
        for cell in self.cells:
            self.seed_place[cell.key] = seen[cell.labels]
            seen[cell.labels] += 1
        self.refuse_twice()
        for cell in self.cells:
            if cell.start is not None and cell.start not in self.start_cells:
                raise SweepError(f"{path}: start = {cell.start}, but there is no section [start {cell.start}]")

    def refuse_columns(self):
        needed = [name for name in (*self.names, "seed", "config") if name not in self.columns]
        if self.columns and needed:
            raise SweepError(f"{self.path}: columns needs also {', '.join(needed)}, by which sweep.py knows its rows")

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
                unnamed = [value for key, value in axes.items() if "{" + key + "}" not in name and key != "like"]
                label = self.filled(" ".join([label, *unnamed]), full, title)
                for option in OWN_OPTIONS:
                    if option in full:
                        raise SweepError(f"{self.path}: [{title}] sets {option}; write `{OWN_OPTIONS[option]}`")
                if kind == "start" and "start" in full:
                    raise SweepError(f"{self.path}: [{title}] has a start itself; give it all its options instead")
                options = {key: value for key, value in full.items() if "." in key or key in VARIANT_KEYS}
                for seed in seeds_of(full.get("seeds", "1"), self.path)[: 1 if kind == "start" else None]:
                    cell = Cell(self.split(label, kind), seed, options, self)
                    cell.varied = [key for key in axes if "." in key]
                    found.append(cell)
        return found

    def filled(self, label, values, title):
        """A label whose remaining {key} are the section's single values."""
        for key in re.findall(r"\{([^{}]*)\}", label):
            if key not in values:
                raise SweepError(f"{self.path}: [{title}] has {{{key}}} in its name, but no value of {key}; write "
                                 f"`{key} = [A, B]` into the section")
            label = label.replace("{" + key + "}", values[key])
        return label

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
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except FileNotFoundError:
        raise RunError(f"there is no {path}; give a sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    except configparser.Error as error:
        raise SweepError(" ".join(f"{path} is no sweep file: {error.message}".split())) from None
    sections = {}
    for title in parser.sections():
        name = " ".join(title.split())
        if name in sections:
            raise SweepError(f"{path} has two sections [{name}]; give one of them another name")
        sections[name] = {key: " ".join(value.split()) for key, value in parser[title].items()}
    return sections


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
        if value.startswith("[") and key != "seeds":
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
    for word in words(text.strip("[]")) or [""]:
        ends = re.fullmatch(r"(\d+)(?:(?:-|\.\.)(\d+))?", word)
        if not ends or int(ends[2] or ends[1]) < int(ends[1]):
            raise SweepError(f"{path}: seeds = {text} is no list of seeds, such as 1, 2, 3 or 1-3")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return list(dict.fromkeys(found))


def whole(text, key):
    if not re.fullmatch(r"[0-9]+", text) or int(text) == 0:
        raise SweepError(f"{key} = {text} is no whole number from 1")
    return int(text)


def quality_of(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SweepError(f"target = {text} is no quality, such as 0.8 for a top-1 of 80 %, or a perplexity")
    return value
