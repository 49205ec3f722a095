"""The cost of many registered clients for the server, and its load on a core while clients train.

usage: scale.py BUILD_FOLDER
Prints `name<TAB>measured<TAB>bar<TAB>pass|miss`, and notes.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ESPALIER = os.path.join(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build"), "espalier")

# Runs a rank and prints its time and memory on stderr; GNU time would be one more package.
METER = """
import os, resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
os.write(2, f"<meter {os.environ.get('OMPI_COMM_WORLD_RANK', '0')} {used.ru_utime + used.ru_stime} "
            f"{used.ru_maxrss * 1024}>\\n".encode())
sys.exit(status)
"""

def metered(errors):
    """Returns the figures of rank 0 from any position, because lines of several ranks may be joined."""
    cpu_s, resident = re.search(r"<meter 0 ([0-9.e+-]+) (\d+)>", errors).groups()
    return float(cpu_s), int(resident)


def measure(arguments, ranks=1):
    """Returns elapsed seconds, and the processor seconds and largest resident bytes of rank 0."""
    command = [sys.executable, "-c", METER, ESPALIER, *arguments]
    if ranks > 1:
        command = [os.path.join(ROOT, "tools", "mpirun.sh"), "-n", str(ranks), *command]
    start = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed = time.monotonic() - start
    return elapsed, *metered(done.stderr)


def run(ini, *settings, ranks=1):
    """Returns measure() of a run, its seconds from the first task to the last merge, and the server's busy seconds per task."""
    with tempfile.TemporaryDirectory() as folder:
        used = measure(["run", os.path.join(HERE, ini), "-q", f"--run.dir={folder}", "--run.name=bench", *settings],
                       ranks)
        with h5py.File(os.path.join(folder, "bench", "run.h5")) as records:
            return (*used, float(records["rounds/wall_time_s"][-1]),
                    float(records["rounds/server_busy_s"][-1]) / len(records["tasks/task"]))


def row(name, value, unit, bar, digits):
    print(f"{name}\t{value:.{digits}f} {unit}\t<= {bar:g} {unit}\t{'pass' if value <= bar else 'miss'}", flush=True)


def main():
    few = run("w-scale.ini", "--clients.count=100")
    many = run("w-scale.ini")
    library = min(measure(["list", "methods"])[0] for _ in range(3))  # only loads LibTorch
    row("100,000 clients: start and 10 rounds beyond loading", many[0] - library, "s", 5, 2)
    row("100,000 clients: server memory a client", (many[2] - few[2]) / 99900 / 1000, "KB", 2, 3)
    row("100,000 clients: server's work a task, synchronous", many[4] * 1e6, "us", 100, 1)
    row("100,000 clients: server's work a task, asynchronous",
        run("w-scale.ini", "--method.name=fedasync", "--run.rounds=2000")[4] * 1e6, "us", 100, 1)
    million = run("w-scale.ini", "--clients.count=1000000")
    print(f"note: 1,000,000 clients: {million[0]:.1f} s in all, {(million[2] - few[2]) / 1e6:.0f} MB beyond 100 "
          f"clients, {million[4] * 1e6:.0f} us a task")

    rare = ["--clients.count=1000000", "--device.laptop.availability=0.001"]
    row("1,000,000 clients, 0.1 % available: server's work a task, synchronous",
        run("w-scale.ini", *rare, "--run.rounds=50")[4] * 1e6, "us", 200, 1)
    row("1,000,000 clients, 0.1 % available: server's work a task, asynchronous",
        run("w-scale.ini", *rare, "--method.name=fedasync", "--run.rounds=5000")[4] * 1e6, "us", 200, 1)

    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace.txt")
        with open(trace, "w") as file:  # of a thousand recorded clients one is there at a time
            file.writelines(f"{i} {i * 0.001:.3f} {(i + 1) * 0.001:.3f}\n" for i in range(1000))
        rare = ["--clients.count=1000000", f"--clients.availability_trace={trace}"]
        row("1,000,000 clients, 0.1 % in a trace: server's work a task, synchronous",
            run("w-scale.ini", *rare, "--run.rounds=50")[4] * 1e6, "us", 200, 1)
        row("1,000,000 clients, 0.1 % in a trace: server's work a task, asynchronous",
            run("w-scale.ini", *rare, "--method.name=fedasync", "--run.rounds=5000")[4] * 1e6, "us", 200, 1)
    row("10,000 clients within a spread of one task: server's work a task",
        run("w-scale.ini", "--clients.count=10000", "--clients.per_round=0", "--method.name=ssp",
            "--run.rounds=10000")[4] * 1e6, "us", 200, 1)

    crowd = ["--clients.count=64"]
    short = run("w-small.ini", *crowd, "--run.rounds=4", ranks=3)
    long = run("w-small.ini", *crowd, "--run.rounds=16", ranks=3)
    row("64 clients of W-small: the server's share of a core",
        100 * (long[1] - short[1]) / (long[3] - short[3]), "%", 10, 1)


if __name__ == "__main__":
    main()
