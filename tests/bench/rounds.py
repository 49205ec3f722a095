"""Compares whole runs with the bare training steps that they contain, in alternating pairs.

usage: rounds.py BUILD_FOLDER [PAIRS]
Prints `name<TAB>measured<TAB>bar<TAB>pass|miss`; a measured value is the median ratio of its pairs.
"""

import os
import statistics
import subprocess
import sys
import tempfile

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(sys.argv[1])
PAIRS = int(sys.argv[2]) if len(sys.argv) > 2 else 9  # single pairs differ by 10 % and more


def bare_seconds(ini, settings, processes):
    """Runs `processes` bare processes at the same time, which divide the clients among them. Returns the time of the
    slowest, and the time if each round lasted until all of them had finished their part."""
    command = [os.path.join(BUILD, "tests", "bench", "bare_steps"), ini]
    jobs = [subprocess.Popen(command + [str(part), str(processes), *settings], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for part in range(processes)]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    rounds = [[float(line) for line in job.communicate()[0].split()] for job in jobs]
    return max(map(sum, rounds)), sum(map(max, *rounds) if processes > 1 else rounds[0])


def run_seconds(ini, settings, ranks):
    """Returns the seconds from the first task to the last merge of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.path.join(BUILD, "espalier"), "run", ini, "-q", f"--run.dir={folder}",
                   "--run.name=bench", *settings]
        if ranks > 1:
            command = [os.path.join(ROOT, "tools", "mpirun.sh"), "-n", str(ranks), *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with h5py.File(os.path.join(folder, "bench", "run.h5")) as run:
            return float(run["rounds/wall_time_s"][-1])


def split_run_seconds(ini, settings, ranks):
    """Returns the seconds until the last round of a run of split training has ended, from its progress lines."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.path.join(ROOT, "tools", "mpirun.sh"), "-n", str(ranks), os.path.join(BUILD, "espalier"), "run", ini,
                   f"--run.dir={folder}", *settings]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return float([line.split() for line in lines if line.startswith("round")][-1][-2])


def row(name, ratio, bar):
    print(f"{name}\t{ratio:.3f}\t<= {bar:.2f}\t{'pass' if ratio <= bar else 'miss'}", flush=True)


def compare(name, ini, settings, ranks, processes, bar, run_seconds=run_seconds, bare_settings=()):
    ini = os.path.join(HERE, ini)
    run_seconds(ini, settings, ranks)  # fills the file cache
    free, in_step = [], []
    for _ in range(PAIRS):
        run = run_seconds(ini, settings, ranks)
        slowest, waiting = bare_seconds(ini, [*settings, *bare_settings], processes)
        free.append(run / slowest)
        in_step.append(run / waiting)
    row(name, statistics.median(free), bar)
    # If the host slows down different processes in turn, a synchronous round waits for each of them.
    if processes > 1 and not bare_settings:
        row("  where these wait for each other after each round", statistics.median(in_step), 1.05)


compare("W-small rounds, 3 ranks / 2 bare processes", "w-small.ini", [], 3, 2, 1.10)
compare("W-small rounds, 1 rank / 1 bare process", "w-small.ini", [], 1, 1, 1.05)
compare("W-large rounds, 3 ranks / 2 bare processes", "w-large.ini", ["--run.rounds=8"], 3, 2, 1.05)
compare("W-large rounds, 1 rank / 1 bare process", "w-large.ini", ["--run.rounds=4"], 1, 1, 1.05)

# The bare processes train the whole model on the same batches: the passes of bottoms and top.
FULL = ["--method.name=fedavg"]
compare("W-split rounds, merged features, 3 ranks / 2 bare processes", "w-split.ini", [], 3, 2, 1.10, split_run_seconds, FULL)
compare("W-split rounds, a top for each worker, 3 ranks / 2 bare processes", "w-split.ini", ["--method.name=splitfed_v1"],
        3, 2, 1.10, split_run_seconds, FULL)
