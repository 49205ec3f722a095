#!/usr/bin/env bash
# Kills runs at every named point and at many random instants, resumes them on other numbers of ranks and
# compares them with uninterrupted runs, value by value:  tools/kill_matrix.sh [KILLS [SEED]]
#   KILLS   random instants for each of four windows and three victims (server, a client's rank, all); 30
#   SEED    of these instants; 1
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ESPALIER_KILLS=${1:-30} ESPALIER_SEED=${2:-1}
export ESPALIER=${ESPALIER:-$root/build/espalier} ESPALIER_MPIRUN=$root/tools/mpirun.sh
exec "$root/.venv/bin/python" "$root/tests/cli/nothing_lost_slow_test.py" -v
