"""Runs the cells of a sweep on this machine, as many at once as fit, or writes a Slurm job array of them."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time

from espalier_h5 import RunError, duration
from sweep_rows import clear_line, cores, error_sentence, launcher, program, quality, show_line, take

# Memory of one rank before a run of the sweep has been measured: the program, its libraries and a data set.
RANK_BYTES = 600e6
STOPPED = 85


def free_memory():
    """Bytes that new processes can have, also within the limit of a container or job; infinite if unknown. What the container
    uses includes cached files; those that are not in use give way."""
    free = float("inf")
    try:
        with open("/proc/meminfo") as file:
            free = float(re.search(r"MemAvailable:\s*(\d+)", file.read())[1]) * 1024
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used, \
                open("/sys/fs/cgroup/memory.stat") as stat:
            cached = float(re.search(r"(?m)^inactive_file (\d+)", stat.read())[1])
            free = min(free, float(limit.read()) - float(used.read()) + cached)
    except (OSError, ValueError, TypeError):
        pass
    return free


def memory_of(process):
    """Resident bytes of a process and of all that it has started, also in sessions of their own (tools/mpirun.sh)."""
    children, pages = {}, {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(name))
            pages[int(name)] = int(fields[21])
    family = [process]
    for member in family:
        family += children.get(member, [])
    return sum(pages.get(member, 0) for member in family) * os.sysconf("SC_PAGE_SIZE")


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
        self.widest = 1  # most runs at once so far
        self.rank_bytes = RANK_BYTES
        self.stopping = False  # by a signal
        self.began, self.shown = time.monotonic(), 0.0
        self.limit = options.jobs or sweep.jobs

    def run(self, pending):
        """Runs the cells; returns whether some were not run, because of a signal or the time limit."""
        needed = dict.fromkeys(cell.start for cell in pending if cell.start)
        waiting = [self.sweep.start_cells[name] for name in needed] + pending
        self.total = len(waiting)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        while (waiting and not self.is_ending()) or self.running:
            for job in [job for job in self.running if job.status() is not None]:
                self.running.remove(job)
                self.finish(job, waiting)
            self.fail_without_start(waiting)
            for cell in list(waiting) if not self.is_ending() else ():
                if self.is_startable(cell):
                    waiting.remove(cell)
                    self.begin(cell)
            self.show_progress(waiting)
            time.sleep(0.1)
        clear_line()
        return self.stopping or bool(waiting)

    def is_ending(self):
        """Whether no further run begins."""
        minutes = (time.monotonic() - self.began) / 60
        return self.stopping or (self.options.minutes > 0 and minutes > self.options.minutes)

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
            try:
                command.append(f"--model.init={last_checkpoint(self.sweep.start_cells[cell.start])}")
            except OSError as error:
                cell.error = f"its start {cell.start} has no checkpoint: {error}"
                return
        if cell.is_replaced:
            command.append("--overwrite")
        if cell.ranks > 1:
            command = [*launcher(), "-n", str(cell.ranks), *command]
        cell.state = "running"
        self.running.append(Job(cell, command))
        self.widest = max(self.widest, len(self.running))

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
        if status == 0 and cell in self.sweep.start_cells.values():
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
        result = f"{cell.error or cell.state} {figure}".strip()
        print(f"{ended:>4} of {self.total}   {cell.name:<40} {wall:6.0f} s   {result}{self.left(waiting)}", flush=True)

    def left(self, waiting):
        """About how long the rest takes, from the runs so far."""
        waiting = [] if self.is_ending() else waiting
        if not self.walls or not (waiting or self.running):
            return ""
        every = [wall for walls in self.walls.values() for wall in walls]

        def expected(cell):
            walls = self.walls.get(cell.labels, every)
            return sum(walls) / len(walls)

        now = time.monotonic()
        seconds = sum(map(expected, waiting)) + sum(max(0, expected(job.cell) - (now - job.began)) for job in self.running)
        at_once = min(self.widest, len(waiting) + len(self.running))
        return f"   about {duration(max(1, round(seconds / at_once)))} left"

    def show_progress(self, waiting):
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            names = "; ".join(job.cell.name for job in self.running)
            show_line(f"{self.total - len(waiting) - len(self.running)} of {self.total}{self.left(waiting)}   running: {names}")


def last_checkpoint(cell):
    folder = os.path.join(cell.folder, "checkpoints")
    found = sorted(name for name in os.listdir(folder) if re.fullmatch(r"ckpt_\d+\.h5", name))
    if not found:
        raise FileNotFoundError(f"{folder} is empty")
    return os.path.join(folder, found[-1])


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
    if cell.is_replaced:  # a requeued job resumes its own run instead
        words.append('$([ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || echo --overwrite)')
    return " ".join(words)


def write_slurm(sweep, cells, file, limit):
    cases = "\n".join(f"  {place})  # {cell.name}\n    set -- {slurm_words(sweep, cell)} ;;"
                      for place, cell in enumerate(cells, 1))
    text = SLURM.format(path=shlex.quote(sweep.path), file=shlex.quote(file), folder=os.getcwd(),
                        name=re.sub(r"[^\w.-]+", "-", sweep.stem), count=len(cells), cases=cases,
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
    submit = f"sbatch {shlex.quote(file)}"
    if starts:
        first = f"{sweep.stem}-start.sbatch"
        write_slurm(sweep, starts, first, limit)
        submit = f"sbatch --dependency=afterok:$(sbatch --parsable {shlex.quote(first)}) {shlex.quote(file)}"
    print(f"{len(pending)} runs; submit them and, when they are done, write their rows:\n\n    {submit}\n"
          f"    tools/sweep.py {shlex.quote(sweep.path)} --collect")
