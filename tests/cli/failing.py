"""The input of a short run with failures of each kind and stale updates, for the tests of report, track and follow."""

FAILING = """
[run]
name = failing
rounds = 8
[data]
name = synthetic
synthetic_samples = 500
synthetic_shape = 1, 12, 12
[model]
name = mlp
hidden = 32, 16
[method]
name = semi_async
[clients]
count = 10
fleet = 3*fast, 5*slow, 2*tiny
[device.fast]
gflops = 2
[device.slow]
gflops = 0.05
[device.tiny]
memory_mb = 0.015
[faults]
clients = 0, 3, 4
crash = 0.3
not_finite = 0.3
[window]
max_staleness = 0
stale = drop
[train]
batch = 10
lr = 0.05
"""
