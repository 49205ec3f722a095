#!/usr/bin/env bash
# From a bare Debian or Ubuntu machine to a trained model: installs missing packages, builds the program, runs
# inputs/quickstart.ini on 3 ranks and draws the run. A second call skips the finished steps.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up
options=()
# The quickstart does not install the libraries of the tests. An existing build folder keeps its options.
[[ -f $ESPALIER_ROOT/build/CMakeCache.txt ]] || options=(-DESPALIER_TESTS=OFF -DESPALIER_BENCH=OFF)
build_target "build the program" espalier "${options[@]}"

printf '[%3d s] train: tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini\n' "$SECONDS"
"$ESPALIER_ROOT/tools/mpirun.sh" -n 3 "$ESPALIER_ROOT/build/espalier" run inputs/quickstart.ini --overwrite
step "draw runs/quickstart/plot.png" .venv/bin/python tools/plot.py runs/quickstart -o runs/quickstart/plot.png
printf '[%3d s] the run is in runs/quickstart, its picture in runs/quickstart/plot.png\n' "$SECONDS"
