#!/usr/bin/env bash
# From a bare Debian or Ubuntu machine to a trained model: installs what is missing, builds the program, runs
# inputs/quickstart.ini on 3 ranks and draws what happened.  Run again, it starts at once.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up
options=()
# The tests' libraries are not installed for a first look; a build folder that has them keeps them.
[[ -f $ESPALIER_ROOT/build/CMakeCache.txt ]] || options=(-DESPALIER_TESTS=OFF -DESPALIER_BENCH=OFF)
build_target "build the program" espalier "${options[@]}"

printf '[%3d s] train: tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini\n' "$SECONDS"
"$ESPALIER_ROOT/tools/mpirun.sh" -n 3 "$ESPALIER_ROOT/build/espalier" run inputs/quickstart.ini --overwrite
step "draw runs/quickstart/plot.png" .venv/bin/python tools/plot.py runs/quickstart -o runs/quickstart/plot.png
printf '[%3d s] the run is in runs/quickstart, its picture in runs/quickstart/plot.png\n' "$SECONDS"
