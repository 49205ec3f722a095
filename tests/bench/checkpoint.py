"""The cost of a checkpoint in every round: a model of 50 MB on the fleet of the quickstart, with and without.

usage: checkpoint.py BUILD_FOLDER [PAIRS]
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ESPALIER = os.path.join(os.path.abspath(sys.argv[1]), "espalier")
PAIRS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
MODEL = ["--model.name=mlp", "--model.hidden=4000,2300", "--run.rounds=6", "--record.evaluate_every=1000"]


def seconds(every):
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # on a disk; /tmp may be in memory
        done = subprocess.run(
            [os.path.join(ROOT, "tools", "mpirun.sh"), "-n", "3", ESPALIER, "run",
             os.path.join(ROOT, "inputs", "quickstart.ini"), "-q", f"--run.dir={folder}", *MODEL,
             f"--checkpoint.every={every}"], check=True, capture_output=True, text=True)
        with open(os.path.join(folder, "quickstart", "DONE")) as line:
            return float(re.search(r"wall_s=([\d.]+)", line.read()).group(1))


seconds(1)  # warms up the machine
ratios = sorted(seconds(1) / seconds(0) for _ in range(PAIRS))
ratio = statistics.median(ratios)
print(f"checkpoints of every round, 50 MB model\t{ratio:.3f}\t<= 1.05\t{'pass' if ratio <= 1.05 else 'miss'}")
print(f"single pairs\t{' '.join(f'{r:.3f}' for r in ratios)}")
