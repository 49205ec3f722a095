#!/usr/bin/env python3
"""What only the page docs/methods/adaptcl.md needs: figures of the workers, for the rows of its sweep. The page says how
tools/compare.py makes its tables of them.

    tools/sweep.py inputs/adaptcl/compare.ini      runs what has no row in docs/methods/adaptcl.csv yet
"""

import numpy as np

WORKERS = 10
TASKS = 1200  # of every run


def measure(run, labels):
    """Figures of a run beside those of every sweep: `saved`, the share of the time that the same number of tasks takes in
    synchronous rounds with the whole model; `slowest`, the longest update time at the end in that of the fastest worker with
    the whole model; `retention`, the mean over the workers at the end."""
    tasks = run.tasks
    time = tasks["download_s"] + tasks["compute_s"] + tasks["upload_s"]
    last = [np.flatnonzero(tasks["client"] == client)[-1] for client in range(WORKERS)]
    fastest, sigma = float(run.config["clients.fastest_s"]), float(labels["sigma"])
    synchronous = TASKS / WORKERS * sigma * fastest
    return {"saved": round(1 - run.rounds["virtual_time_s"][-1] / synchronous, 6) + 0.0,
            "slowest": time[last].max() / fastest,
            "retention": (tasks["parameters"][last] / tasks["parameters"].max()).mean()}
