#!/usr/bin/env python3
"""What only the comparison inputs/msfusion/compare.ini needs: what one participant computes and sends in a round."""


def measure(run, labels):
    """Figures of a run beside those of every sweep. Means over the tasks: `gflop`, 10⁹ floating-point operations of training
    (a multiplication and an addition are two), and `mb`, megabytes down and up. `trained`: the share of the model's parameters
    that had a holder in some round. `agreement`: mean over the rounds of the mean cosine between the updates of two participants
    on their common parameters."""
    tasks, rounds = run.tasks, run.rounds
    return {"gflop": tasks["flops"].mean() / 1e9,
            "mb": (tasks["bytes_down"] + tasks["bytes_up"]).mean() / 1e6,
            "trained": rounds["coverage_ever"][-1],
            "agreement": rounds["agreement"].mean()}
