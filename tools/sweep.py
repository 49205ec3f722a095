#!/usr/bin/env python3
"""Runs a grid of variants and seeds. Each finished run is a row of a CSV file.

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
import contextlib
import fcntl
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from needed_packages import need

need("numpy", "h5py")
from command_line import Parser, ends_well
from espalier_h5 import RunError
from run_state import WriteError
from sweep_file import Sweep, SweepError
from sweep_jobs import STOPPED, Local, slurm
from sweep_rows import OtherRun, finished_run, is_current, program_commit, quality, resolve, saved_rows, take

EXAMPLES = """examples:
  tools/sweep.py inputs/sweep.ini              runs what is not finished
  tools/sweep.py inputs/sweep.ini --list       shows every run, runs nothing
  tools/sweep.py inputs/sweep.ini --slurm      a job array; later --collect
  tools/compare.py --sweep inputs/sweep.csv    makes a table of the rows"""


def lock(sweep):
    """Checks that the results can be written, and keeps a second sweep.py from the same runs. The system frees the lock when
    this process ends in any way."""
    for folder in (sweep.dir, os.path.dirname(sweep.csv)):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise SweepError(f"{folder} is no folder; write another `dir = ` or `csv = ` into [sweep]")
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"nothing can be written into {folder}; write another `dir = ` or `csv = ` into [sweep]")
    path = os.path.join(sweep.dir, f".{sweep.stem}.lock")
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SweepError(f"another sweep.py runs {sweep.path} in {sweep.dir}; wait for it, or stop it by Ctrl-C") from None
    except OSError:
        pass  # a file system without locks
    return file


def begin(sweep, options, rows):
    """Finds the state of every cell, and returns the cells to show and those to run."""
    chosen = [cell for cell in sweep.cells if not options.only or any(word in cell.name for word in options.only)]
    if not chosen:
        raise SweepError(f"no run has one of the words {', '.join(options.only)} in its name; --list shows the names")
    resolve(sweep, sweep.cells)
    pending = [cell for cell in chosen if not cell.error and not find_row(sweep, options, cell, rows)]
    # All variants with the first seed come first, so that an early table is complete.
    pending.sort(key=lambda cell: sweep.seed_place[cell.key])
    return chosen, pending


def find_row(sweep, options, cell, rows):
    """Whether a cell is finished: it has its row in the table, or its run is in its folder. Else its state says why not."""
    row = rows.get(cell.key)
    if row and is_current(sweep, cell, row) and not (options.same_commit and row.get("commit") != program_commit()):
        cell.row, cell.state = row, "finished"
        return True
    try:
        run = finished_run(sweep, cell)
        commit = run.attributes.get("git_sha")
        if options.same_commit and commit != program_commit():
            raise OtherRun(f"{cell.folder} holds a run of commit {commit}")
        if options.list:
            raise RunError("finished, but without a row: --collect writes it")
        take(sweep, cell, rows)
        return True
    except WriteError:  # of the table
        raise
    except RunError as error:
        cell.state = str(error)
        cell.is_replaced = options.overwrite and isinstance(error, OtherRun)
    return False


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
    old = [cell for cell in cells if cell.key in rows and cell.state != "finished"]
    if old:
        print(f"rows of the table that are older than this sweep file, until their runs are finished: {len(old)}")
    outside = [key for key in rows if key not in sweep.order]
    if outside:
        print(f"rows of the table that belong to no run of this sweep: {len(outside)}")
    if os.path.exists(sweep.csv):
        print(f"table: {os.path.relpath(sweep.csv)}")


def work(options):
    for name in ("jobs", "minutes"):
        if getattr(options, name) < 0:
            raise SweepError(f"--{name} {getattr(options, name):g} must be at least 0")
    sweep = Sweep(options.sweep, options.dir)
    with lock(sweep) if not options.list else contextlib.nullcontext():
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
            print("not all runs were run; the same command goes on")
            return STOPPED
        return 1 if any(cell.error for cell in cells) else 0


@ends_well
def main():
    parser = Parser(usage="sweep.py SWEEP.ini [WORD...] [options]", description=__doc__.split("\n\n")[0],
                    epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", metavar="SWEEP.ini", help="the sweep file; docs/sweeps.md describes it")
    parser.add_argument("only", nargs="*", default=[], metavar="WORD", help="only runs whose name contains one of the words")
    parser.add_argument("--list", action="store_true", help="show every run and its state; run nothing")
    parser.add_argument("--slurm", action="store_true", help="write a Slurm job array of the unfinished runs")
    parser.add_argument("--collect", action="store_true", help="write the rows of runs that are finished; run nothing")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at once; default: as cores and memory allow")
    parser.add_argument("--minutes", type=float, default=0, metavar="M", help="begin no run after M minutes")
    parser.add_argument("--dir", metavar="FOLDER", help="folder of the runs; default: that of the file")
    parser.add_argument("--overwrite", action="store_true", help="replace runs of another configuration")
    parser.add_argument("--same-commit", action="store_true", help="run again what another commit of the program ran")
    try:
        return work(parser.parse_intermixed_args())
    except (SweepError, RunError) as error:
        print(f"sweep.py: {error}", file=sys.stderr)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:  # before the first run has begun; later see Local.stop
        print("sweep.py: stopped before a run began", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
