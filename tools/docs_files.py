#!/usr/bin/env python3
"""Writes docs/files/: what run files and checkpoints hold, one page for all protocols and one for each.

    .venv/bin/python tools/docs_files.py [--to FOLDER] [--program ESPALIER]

The tables of run files come from `espalier list files`. Checkpoints are those of tiny runs of each protocol; the
sentences about their entries are below. The script fails if an entry of a run has no sentence here, or a sentence has
no entry. In the name of an entry a word in capitals stands for a number, NAME for any name.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py

ROOT = pathlib.Path(__file__).resolve().parent.parent

Table = collections.namedtuple("Table", "path columns")
Column = collections.namedtuple("Column", "name type unit wall description")
Found = collections.namedtuple("Found", "type size")  # an entry of a checkpoint; size is None for a group
Protocol = collections.namedtuple("Protocol", "input runs entries")

# Number of values of a dataset, in words. That such a dataset has exactly one is checked.
ONE = "one"

ATTRIBUTES = {
    "filetype": "`espalier run` or `espalier checkpoint`",
    "version": "version of the format: major, minor; a program reads files of its own major version",
    "software": "`espalier`",
    "software_version": "version of the program that wrote the file",
    "git_sha": "commit of that program",
    "config": "the complete input of the run, defaults included",
    "date": "time (UTC) at which the run began; may differ between equal runs",
    "complete": "1, written last",
}
COLUMN_ATTRIBUTES = {
    "units": "unit of the column; `1` for numbers without one",
    "description": "what the column holds",
    "wall": "1 if the column may differ between equal runs; `espalier diff` compares it only with `--all`",
}

# Entries that the engine writes for every protocol.
ENGINE_ENTRIES = [
    ("data_fingerprint", ONE, "sizes and hashes of the data; a resume with other data is refused"),
    ("data", "", "format of the samples, for programs that use the model without the data"),
    ("data/sample_shape", "one per dimension", "shape of one sample"),
    ("data/classes", ONE, "number of classes"),
    ("data/vocabulary", ONE, "number of different tokens; 0 if samples are no tokens"),
    ("data/next_token", ONE, "1 if the label of each token is the next token"),
    ("data/unit", ONE, "the model gets (number × unit − mean) ÷ deviation for a number of a file"),
    ("data/mean", "one per channel, or none", "mean of the channel; none if all are 0 and all deviations are 1"),
    ("data/deviation", "one per channel, or none", "standard deviation of the channel; none if `mean` has none"),
    ("data/words", ONE, "the word of each token, one a line; empty if tokens are not words"),
    ("model", "", "the global model, with norm statistics"),
    ("model/NAME", "one per element, row-major", "parameter or norm statistic of the model, such as `fc1.weight`"),
    ("evaluations", "", "the last evaluation, and those that are not finished"),
    ("evaluations/last", "", "the last finished evaluation on the test data"),
    ("evaluations/last/made", ONE, "1 if there was one"),
    ("evaluations/last/version", ONE, "version of the model that was evaluated"),
    ("evaluations/last/time", ONE, "emulated time at which that version was produced, in ns"),
    ("evaluations/last/loss", ONE, "mean loss"),
    ("evaluations/last/top1", ONE, "fraction of samples whose class has the highest score"),
    ("evaluations/last/top5", ONE, "fraction of samples whose class is among the five highest scores"),
    ("evaluations/last/perplexity", ONE, "exponential of the loss, for language models; else NaN"),
    ("evaluations/versions", "one per evaluation",
     "versions whose evaluation is not finished; a resume evaluates them"),
    ("evaluations/times", "one per evaluation", "emulated times at which these versions were produced, in ns"),
    ("evaluations/model_VERSION", "varies",
     "parameters and statistics of such a version, each padded to a multiple of 64 bytes"),
    ("wall", "", "what may differ between equal runs; `espalier diff` compares it only with `--all`"),
    ("wall/elapsed_s", ONE, "host time since the run began, in s"),
    ("wall/busy_s", ONE, "host time that the server spent working, in s"),
    ("wall/saving_s", ONE, "host time that the server spent on checkpoints, in s"),
    ("wall/records_bytes", ONE, "length of `run.journal` up to here, in bytes"),
    ("wall/records_checksum", ONE, "checksum of `run.journal` up to here, as a signed integer"),
]

TINY = """
[run]
rounds = 4
[data]
name = synthetic
synthetic_samples = 400
synthetic_shape = 1, 12, 12
[model]
name = cnn
channels = 4, 4
features = 8
norm = batch
[clients]
count = 8
fleet = 4*fast, 4*slow
[device.fast]
gflops = 2
[device.slow]
gflops = 0.5
[train]
batch = 10
optimizer = adam
optimizer_state = keep
[checkpoint]
every = 3
keep = 9
[record]
evaluate_every = 1
"""

TINY_REGIONS = """
[run]
rounds = 5
[data]
name = synthetic
synthetic_samples = 160
synthetic_shape = 1, 6, 6
[model]
name = mlp
hidden = 12, 8
norm = batch
[clients]
count = 4
fleet = 2*fast, 2*slow
[device.fast]
gflops = 0.002
up_mbps = 0.1
down_mbps = 0.1
latency_ms = 20
[device.slow]
gflops = 0.001
up_mbps = 0.1
down_mbps = 0.1
latency_ms = 20
[regions]
period = 6
[train]
batch = 10
[checkpoint]
every = 2
keep = 9
[record]
evaluate_every = 1
"""

TINY_SPLIT = """
[run]
rounds = 4
[data]
name = synthetic
synthetic_samples = 160
synthetic_shape = 1, 6, 6
[model]
name = mlp
hidden = 12, 8
norm = batch
[clients]
count = 4
[train]
batch = 10
optimizer = adam
optimizer_state = keep
[checkpoint]
every = 2
keep = 9
[record]
evaluate_every = 1
iterations = true
"""

PROTOCOLS = {
    "rounds": Protocol(
        input=TINY,
        runs={
            "fedbuff": ["--method.name=fedbuff", "--method.server_momentum=0.5", "--window.min_updates=3",
                        "--faults.vanish=0.2"],
            # Stops within a window, so that updates wait for their merge.
            "semi_async": ["--method.name=semi_async", "--run.virtual_limit=0.0305"],
            "cos2p": ["--method.name=cos2p", "--model.exits=2"],
            "feddyn": ["--method.name=feddyn"],
            "ramfed": ["--method.name=ramfed", "--method.merge=last_known"],
            "fedadam": ["--method.name=fedadam"],
            "scaffold": ["--method.name=scaffold", "--train.optimizer=sgd", "--train.optimizer_state=reset",
                         "--method.personal=head"],
            "dc_asgd": ["--method.name=dc_asgd", "--method.adaptive=true"],
            "msfusion": ["--method.name=msfusion"],
        },
        entries=[
            ("server", "", "state of the server between two events"),
            ("server/version", ONE, "version of the global model"),
            ("server/now", ONE, "emulated time, in ns"),
            ("server/next_task", ONE, "number of the next task"),
            ("server/barren", ONE, "consecutive windows in which every task failed"),
            ("server/flags", ONE, "1 if no client has been sent new work since the window opened"),
            ("server/bytes_up", ONE, "bytes received from clients since the run began"),
            ("server/bytes_down", ONE, "bytes sent to clients since the run began"),
            ("server/ever_trained", ONE, "parameters of the model that an update has ever held"),
            ("server/ever_trained_bits", "varies",
             "one bit for each of them, in the order of the model's values, each entry padded to 64 bytes; empty: all"),
            ("server/failures_told", "varies", "list of the failures (device class, outcome) that a warning named"),
            ("server/tasks_of", "varies",
             "tasks that each client has been sent; if most have had none: -1, then client and number of the others"),
            ("server/idle", "varies", "numbers of the clients without a task; if most are: -1, then those with one"),
            ("server/away", "one per vanished client", "numbers of the clients that ever vanished"),
            ("server/away_until", "one per vanished client", "emulated times at which they return or returned, in ns"),
            ("server/out_of_memory", "one per client", "numbers of the clients that ever ran out of memory"),
            ("server/too_large", "varies", "list of these clients with the last submodel that did not fit"),
            ("server/states", "", "what clients keep between their tasks"),
            ("server/states/clients", "one per client", "numbers of the clients with such a state"),
            ("server/states/CLIENT", "varies", "state of the client: personal parameters, search, objective, optimiser"),
            ("server/sampler", "", "choice of the clients that get work"),
            ("server/sampler/draws", ONE, "random choices so far"),
            ("server/sampler/next", ONE, "client after the last chosen one, for `clients.sampling = round_robin`"),
            ("server/window", "", "the open window"),
            ("server/window/opened", ONE, "emulated time at which it opened, in ns"),
            ("server/window/enough", ONE,
             "emulated time of the last update that it needs to close, in ns; −1: not there yet"),
            ("server/window/held", ONE, "updates in it"),
            ("server/queues", "", "queues of the server"),
            ("server/queues/down", ONE, "emulated time at which its outgoing link is free, in ns"),
            ("server/queues/up", ONE, "emulated time at which its incoming link is free, in ns"),
            ("server/queues/processor", ONE, "emulated time at which its processor is free, in ns"),
            ("server/submodel_rule", "", "state of the submodel rule; empty for rules without a state"),
            ("server/submodel_rule/clients", "one per client", "`masked_depth`: clients with a mask"),
            ("server/submodel_rule/CLIENT", "", "`masked_depth`: mask of the client"),
            ("server/submodel_rule/CLIENT/units", "varies", "`masked_depth`: its units, as the code of a submodel"),
            ("server/submodel_rule/CLIENT/searches", "one per block",
             "`masked_depth`: how often units of the block were searched"),
            ("server/submodel_rule/CLIENT/last_search", ONE, "`masked_depth`: the client's task that last searched"),
            ("server/submodel_rule/loss_sum", ONE, "`double_shift`: sum of the version's training losses times samples"),
            ("server/submodel_rule/loss_weight", ONE, "`double_shift`: samples in that sum"),
            ("server/submodel_rule/best_loss", ONE, "`double_shift`: least mean training loss of a version"),
            ("server/submodel_rule/versions_since", ONE, "`double_shift`: versions since then"),
            ("server/submodel_rule/overlap_fallen", ONE, "`double_shift`: fall of the overlap so far"),
            ("server/merge_rule", "", "state of the merge rule; empty for rules without a state"),
            ("server/merge_rule/velocity", "one per parameter", "`buffered_differences`: momentum of the server"),
            ("server/merge_rule/velocity_size", ONE, "`buffered_differences`: number of values in `velocity`"),
            ("server/merge_rule/memory", "one per parameter", "`dynamic`: memory of past differences"),
            ("server/merge_rule/memory_size", ONE, "`dynamic`: number of values in `memory`"),
            ("server/merge_rule/clients", "one per client",
             "`last_known`, `compensate_delay`: clients with values below"),
            ("server/merge_rule/known_CLIENT", "one per parameter", "`last_known`: last difference of the client"),
            ("server/merge_rule/known_CLIENT_size", ONE, "`last_known`: number of values in `known_CLIENT`"),
            ("server/merge_rule/squares_CLIENT", "one per parameter",
             "`compensate_delay`: running mean of the client's squared gradients"),
            ("server/merge_rule/squares_CLIENT_size", ONE, "`compensate_delay`: number of values in `squares_CLIENT`"),
            ("server/merge_rule/control", "one per parameter", "`control_variates`: the server's control variate"),
            ("server/merge_rule/first", "one per parameter", "server optimiser: mean of the changes, or momentum"),
            ("server/merge_rule/first_size", ONE, "server optimiser: number of values in `first`"),
            ("server/merge_rule/second", "one per parameter", "server optimiser: mean or sum of the squares"),
            ("server/merge_rule/second_size", ONE, "server optimiser: number of values in `second`"),
            ("tasks", "", "tasks that are not merged"),
            ("tasks/payloads", "", "submodels that were sent with these tasks, each once"),
            ("tasks/payloads/count", ONE, "number of payloads"),
            ("tasks/payloads/NUMBER", "varies", "values of the submodel, without padding"),
            ("tasks/updates", "", "values of the updates that wait for their merge"),
            ("tasks/updates/count", ONE, "number of updates"),
            ("tasks/updates/NUMBER", "varies", "values of the trained submodel, without padding"),
            ("tasks/in_flight", "varies", "list of the outstanding tasks, which a resume sends again"),
            ("tasks/delivered", "varies", "list of the tasks that ended in the open window"),
            ("wall/compute_s", "one per task of `tasks/delivered`", "host time of its training, in s"),
            ("wall/ranks", "one per task of `tasks/delivered`", "MPI rank that did the work"),
        ]),
    "regions": Protocol(
        input=TINY_REGIONS,
        runs={
            "cocodc": ["--method.name=cocodc", "--regions.overlap=2", "--regions.fragment_count=3", "--regions.sends=3"],
            "star": ["--method.name=streaming_diloco", "--regions.overlap=2", "--regions.fragment_count=2",
                     "--regions.topology=star", "--server.up_mbps=1", "--regions.outer=adam", "--regions.base=local"],
            "decoupled": ["--method.name=decoupled_diloco", "--regions.fragment_count=2"],
        },
        entries=[
            ("regions", "", "state of the server and of the regions between two events"),
            ("regions/version", ONE, "version of the shared copy: periods that all regions have ended"),
            ("regions/made", ONE, "emulated time at which that version was produced, in ns"),
            ("regions/now", ONE, "emulated time, in ns"),
            ("regions/next_exchange", ONE, "number of the next exchange"),
            ("regions/next_job", ONE, "number of the next job of a region"),
            ("regions/period_loss", ONE, "mean training loss of the last period that a region ended"),
            ("regions/bytes_up", ONE, "bytes that regions sent since the run began"),
            ("regions/bytes_down", ONE, "bytes that regions received since the run began"),
            ("regions/last_sent", "one per fragment", "step at which the fragment was last sent; 0: never"),
            ("regions/interval", "one per fragment", "steps between the two last sendings"),
            ("regions/change", "one per fragment", "norm of its last mean difference, per step and value"),
            ("regions/norms", "varies", "list of the norms that do not count yet, because their fragments are under way"),
            ("regions/outer_FRAGMENT", "", "outer optimiser of the fragment"),
            ("regions/outer_FRAGMENT/steps", ONE, "steps that it made"),
            ("regions/outer_FRAGMENT/first", "one per value, or none", "momentum; Adam: mean of the differences"),
            ("regions/outer_FRAGMENT/second", "one per value, or none", "Adam: mean of the squares"),
            ("regions/outer_FRAGMENT/base", "one per value", "`regions.base = local`: mean of the regions' bases"),
            ("regions/network", "", "the links"),
            ("regions/network/down", ONE, "emulated time at which the server's outgoing link is free, in ns"),
            ("regions/network/up", ONE, "emulated time at which its incoming link is free, in ns"),
            ("regions/network/processor", ONE, "emulated time at which its processor is free, in ns"),
            ("regions/network/up_free", "one per region", "emulated times at which the region's link up is free, in ns"),
            ("regions/network/down_free", "one per region",
             "emulated times at which the region's link down is free, in ns"),
            ("regions/network/ring_free", ONE, "emulated time at which the ring is free, in ns"),
            ("regions/network/events", "varies", "list of what will happen on the links"),
            ("regions/exchanges", "varies", "list of the exchanges that not all regions have applied, with their values"),
            ("regions/slots", "varies", "list of the steps whose fragments are chosen, with their exchanges"),
            ("regions/slot", ONE, "`regions.decoupled`: the last step at which fragments were chosen"),
            ("regions/slot_time", ONE, "`regions.decoupled`: emulated time at which a region reached it, in ns"),
            ("regions/waiting", "varies", "`regions.decoupled`: list of the chosen fragments whose last merge is not over"),
            ("regions/inboxes", "varies", "`regions.decoupled`: list of what has reached each region during its step"),
            ("regions/replicas", "varies", "list of the sums of the regions' replicas, for `regions.evaluate = replicas`"),
            ("regions/places", "varies", "list of the regions: step, time, outstanding job, sums of the open period"),
            ("regions/residents", "", "what is on the ranks of the regions"),
            ("regions/residents/REGION", "varies",
             "state of the region: its model, the shared copy, optimiser, values of fragments under way"),
        ]),
    "split": Protocol(
        input=TINY_SPLIT,
        runs={
            "splitfed_v1": ["--method.name=splitfed_v1", "--server.up_mbps=1"],
            "parallelsfl": ["--method.name=parallelsfl", "--method.bottom_mbps=0"],
            "mergesfl": ["--method.name=mergesfl"],
        },
        entries=[
            ("split", "", "state of the server between two rounds; a round that was interrupted is repeated"),
            ("split/version", ONE, "version of the model: rounds that have ended"),
            ("split/now", ONE, "emulated time at which that version was produced, in ns"),
            ("split/tasks_of", "one per client", "rounds in which the client was a worker"),
            ("split/server_bytes_up", ONE, "bytes that the server received since the run began"),
            ("split/server_bytes_down", ONE, "bytes that the server sent since the run began"),
            ("split/device_bytes", ONE, "bytes that clients sent to clients since the run began"),
            ("split/bottom_optimizers", "varies", "list of the workers with the kept states of their bottoms' optimisers"),
            ("split/top_optimizers", "varies", "list of the clusters with the kept states of their tops' optimisers"),
            ("split/links", "", "queues of the server"),
            ("split/links/down", ONE, "emulated time at which its outgoing link is free, in ns"),
            ("split/links/up", ONE, "emulated time at which its incoming link is free, in ns"),
            ("split/links/processor", ONE, "emulated time at which its processor is free, in ns"),
            ("split/control", "", "state of the control module; empty for `fixed`"),
            ("split/control/version", ONE, "`parallelsfl`: rounds that it has observed"),
            ("split/control/clustered", ONE, "`parallelsfl`: version at which the clusters were made"),
            ("split/control/clusters", "varies", "`parallelsfl`: list of the clusters: top worker and bottoms"),
            ("split/control/times_top", "one per client", "`parallelsfl`: rounds in which the client was a top worker"),
            ("split/control/slowness", "", "`parallelsfl`: estimates of the clients' speeds, as factors of their classes"),
            ("split/control/slowness/compute", "one per client", "time of compute by that of the device class"),
            ("split/control/slowness/transfer", "one per client", "time of messages by that of the device classes"),
            ("split/control/slowness/observed", "one per client", "rounds in which the client was observed"),
            ("split/control/clustered_slowness", "", "`parallelsfl`: the same when the clusters were made"),
            ("split/control/clustered_slowness/compute", "one per client", "as above"),
            ("split/control/clustered_slowness/transfer", "one per client", "as above"),
            ("split/control/clustered_slowness/observed", "one per client", "as above"),
            ("split/control/times_selected", "one per client", "control `mergesfl`: rounds in which the client was selected"),
            ("split/control/compute_s", "one per client", "control `mergesfl`: estimated seconds of compute for a sample"),
            ("split/control/transfer_s", "one per client", "control `mergesfl`: estimated seconds of transfer for a sample"),
        ]),
}


class Stale(Exception):
    """The sentences of this script and the files of the program differ."""


def run_program(program, *words, cwd=None):
    done = subprocess.run([program, *words], cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise Stale(f"{program} {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def listed_tables(program):
    """Returns the sections of `espalier list files`: protocol (None: every run file) -> (help, tables)."""
    sections = {}
    tables = None
    for line in run_program(program, "list", "files").splitlines():
        if line == "every run file":
            sections[None] = ("", tables := [])
        elif match := re.fullmatch(r"protocol (\S+): (.*)", line):
            sections[match[1]] = (match[2], tables := [])
        elif line.startswith("/"):
            tables.append(Table(line, []))
        elif line:
            tables[-1].columns.append(Column(*line.split(None, 4)))
    return sections


def described(pattern, name):
    """Whether `name` is an entry that `pattern` describes."""
    expression = re.sub(r"[A-Z]{2,}", lambda word: "[^/]+" if word[0] == "NAME" else r"\d+", re.escape(pattern))
    return re.fullmatch(expression, name) is not None


def type_of(dataset):
    """Returns the type of a dataset in the words of the pages."""
    kind = dataset.dtype.kind
    return "text" if kind == "S" else "bytes" if dataset.dtype == "uint8" else f"{'float' if kind == 'f' else 'int'}" \
        f"{8 * dataset.dtype.itemsize}"


def check_attributes(attributes, sentences, what):
    unknown = set(attributes) - set(sentences)
    if unknown:
        raise Stale(f"attributes of {what} without a sentence: {', '.join(sorted(unknown))}")


def content(path):
    """Returns the entries of a checkpoint, name -> Found, and the names of its root attributes."""
    entries = {}
    with h5py.File(path) as file:

        def visit(name, item):
            check_attributes(item.attrs, {}, f"{path} {name}")
            entries[name] = Found("group", None) if isinstance(item, h5py.Group) else Found(type_of(item), item.size)

        file.visititems(visit)
        return entries, set(file.attrs)


def check_tables(path, tables):
    """Compares a run file with the tables that the program lists; returns the attributes of its root."""
    with h5py.File(path) as file:
        expected = {(table.path, column.name) for table in tables for column in table.columns}
        found = set()
        file.visititems(lambda name, item: found.add((item.parent.name, name.split("/")[-1]))
                        if isinstance(item, h5py.Dataset) else None)
        if expected != found:
            raise Stale(f"`espalier list files` and {path} differ in {sorted(expected ^ found)}")
        for table, column in expected:
            if set(file[table][column].attrs) != set(COLUMN_ATTRIBUTES):
                raise Stale(f"{table}/{column} has the attributes {sorted(file[table][column].attrs)}")
        return set(file.attrs)


def check_rules(program, entries):
    """Refuses the name of a rule in front of a sentence if the program does not list it."""
    listed = set(re.findall(r"^(\w+) ", run_program(program, "list", "methods"), re.M))
    for entry, _, sentence in entries:
        rules = re.match(r"(`\w+`, )*`\w+`: ", sentence)
        for rule in re.findall(r"\w+", rules[0] if rules else ""):
            if rule not in listed:
                raise Stale(f"the sentence of {entry} names {rule}, which is no rule of the program")


def run_all(program, name, tables):
    """Runs the tiny inputs of a protocol. Returns the entries of all their checkpoints, name -> list of Found, and the
    root attributes of run files and of checkpoints."""
    entries = collections.defaultdict(list)
    of_runs, of_checkpoints = set(), set()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tiny.ini").write_text(PROTOCOLS[name].input)
        for run, settings in PROTOCOLS[name].runs.items():
            run_program(program, "run", "tiny.ini", f"--run.name={run}", "-q", *settings, cwd=folder)
            of_runs |= check_tables(folder / "runs" / run / "run.h5", tables)
            for checkpoint in sorted((folder / "runs" / run / "checkpoints").iterdir()):
                found, attributes = content(checkpoint)
                of_checkpoints |= attributes
                for entry, what in found.items():
                    entries[entry].append(what)
    return entries, of_runs, of_checkpoints


def describe(entries, sentences):
    """Returns the rows (pattern, type, shape, sentence) of `entries`, in the order of `sentences`."""
    matched = set()
    rows = []
    for pattern, shape, sentence in sentences:
        names = [name for name in entries if described(pattern, name)]
        if not names:
            continue
        matched.update(names)
        found = [one for name in names for one in entries[name]]
        types = {one.type for one in found}
        if len(types) != 1:
            raise Stale(f"{pattern} has several types: {', '.join(sorted(types))}")
        kind = types.pop()
        if (shape == "") != (kind == "group"):
            raise Stale(f"{pattern} is a {kind}; its shape in tools/docs_files.py is '{shape}'")
        if shape == ONE and {one.size for one in found} != {1}:
            raise Stale(f"{pattern} does not always have one value")
        rows.append((pattern, kind, shape, sentence))
    missing = sorted(set(entries) - matched)
    if missing:
        raise Stale("no sentence in tools/docs_files.py for " + ", ".join(missing))
    return rows


def check_idle(sentences, rows, what):
    """Refuses sentences that describe no entry."""
    idle = {pattern for pattern, *_ in sentences} - {pattern for pattern, *_ in rows}
    if idle:
        raise Stale(f"{what} has {', '.join(sorted(idle))}; remove the sentence from tools/docs_files.py")


def markdown_table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def tables_text(tables):
    parts = []
    for table in tables:
        rows = [(f"`{c.name}`", c.type, c.unit.replace("-", ""), "yes" if c.wall == "wall" else "", c.description)
                for c in table.columns]
        parts.append(f"### `{table.path}`\n\n" + markdown_table(["column", "type", "unit", "wall", "content"], rows))
    return "\n".join(parts)


WRITTEN = "`tools/docs_files.py` writes this page from the program's own tables and files.\n"


def run_page(tables, helps, of_runs, of_checkpoints):
    rows = []
    for name, sentence in ATTRIBUTES.items():
        where = [word for word, names in (("run", of_runs), ("checkpoint", of_checkpoints)) if name in names]
        if not where:
            raise Stale(f"no file has the attribute {name}")
        rows.append((f"`{name}`", ", ".join(where), sentence))
    column_rows = [(f"`{name}`", sentence) for name, sentence in COLUMN_ATTRIBUTES.items()]
    links = "\n".join(f"* [`{name}`]({name}.md): {text}" for name, text in helps.items())
    return f"""# Run file and checkpoint

After this page you know what every run file and checkpoint has, whatever the protocol of the run.
{WRITTEN}
Tables and checkpoints of a protocol have a page of their own:

{links}

## Root attributes

{markdown_table(["attribute", "in", "content"], rows)}
## Run file

`runs/NAME/run.h5` has a group for each table and a dataset for each column. Row *i* of a table is element *i* of its
columns. `integer` is a little-endian int64, `real` a float64, `text` UTF-8 of 24 bytes, padded with nulls. A column has
the attributes

{markdown_table(["attribute", "content"], column_rows)}
While a run goes on, a table is as long as its shortest column. `tools/espalier_h5.py` reads all this
([how](../sweeps.md#run-files-in-python)); any program with HDF5 can:

```python
import h5py
with h5py.File("runs/NAME/run.h5", locking=False) as file:
    rounds = {{name: column[()] for name, column in file["rounds"].items()}}
    length = min(len(column) for column in rounds.values())
    print(file["rounds/virtual_time_s"].attrs["units"], rounds["virtual_time_s"][:length])
```

These tables are in every run file:

{tables_text(tables)}
## Checkpoint

`runs/NAME/checkpoints/ckpt_VERSION.h5` has groups and datasets of one dimension. After the HDF5 data follow 24 bytes:
`ESPALIER`, the length of the data, and its XXH3 hash. [Checkpoints and resume](../reliability.md) explains when they are
written.

`runs/NAME/run.journal` has the rows of `run.h5` once more, in blocks that only the program reads. It stands in for the
rows in checkpoints: a resume makes `run.h5` again from the blocks up to the checkpoint.
"""


def protocol_page(name, text, tables, rows):
    cells = [(f"`{entry}`", kind, shape, sentence) for entry, kind, shape, sentence in rows]
    return f"""# Files of `{name}`

After this page you know each column of a run file of the protocol `{name}`, and each entry of its checkpoints.
{WRITTEN}
In `{name}`, {text}.

## Run file

Every run file also has the tables [`/evaluations` and `/clients`](run.md#run-file).

{tables_text(tables)}
## Checkpoint

A word in capitals stands for a number, `NAME` for the name of a parameter. The root attributes are those of
[every checkpoint](run.md#root-attributes). A *list* is a sequence of records, as bytes that only the program reads.
If an entry belongs to a rule, its sentence begins with the name of the rule.

{markdown_table(["entry", "type", "values", "content"], cells)}"""


def pages(program):
    """Returns the text of each page by its name."""
    sections = listed_tables(program)
    protocols = {name: section for name, section in sections.items() if name is not None}
    if set(protocols) != set(PROTOCOLS):
        raise Stale(f"tools/docs_files.py describes {sorted(PROTOCOLS)}, the program has {sorted(protocols)}")
    texts = {}
    all_rows, of_runs, of_checkpoints = [], set(), set()
    for name, (text, tables) in protocols.items():
        own = PROTOCOLS[name].entries
        check_rules(program, own)
        entries, of_run, of_checkpoint = run_all(program, name, sections[None][1] + tables)
        of_runs |= of_run
        of_checkpoints |= of_checkpoint
        rows = describe(entries, ENGINE_ENTRIES + own)
        check_idle(own, rows, f"no checkpoint of {name}")
        all_rows += rows
        texts[f"{name}.md"] = protocol_page(name, text, tables, rows)
    check_idle(ENGINE_ENTRIES, all_rows, "no checkpoint")
    check_attributes(of_runs | of_checkpoints, ATTRIBUTES, "the root")
    helps = {name: text for name, (text, _) in protocols.items()}
    texts["run.md"] = run_page(sections[None][1], helps, of_runs, of_checkpoints)
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=ROOT / "docs" / "files", help="default: docs/files")
    parser.add_argument("--program", default=str(ROOT / "build" / "espalier"), help="default: build/espalier")
    options = parser.parse_args()
    try:
        texts = pages(os.path.abspath(options.program))
    except Stale as error:
        sys.exit(f"error: {error}")
    options.to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (options.to / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
