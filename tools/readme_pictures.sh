#!/usr/bin/env bash
# Makes the pictures of README.md and docs/plots.md from real runs (about two minutes on two cores):
#   tools/readme_pictures.sh [FOLDER]      the runs go to FOLDER, by default runs/pictures, and are used again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-runs/pictures}
python=.venv/bin/python
[[ -x $python ]] || python=python3

train() {  # NAME [--section.key=value ...]
  tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini "--run.dir=$runs" "--run.name=$1" "${@:2}" | tail -n 1
}

plot() {  # IMAGE RUN ... [options of plot.py]
  "$python" tools/plot.py "${@:2}" -o "docs/images/$1" --dpi "${dpi:-100}"
}

train quickstart
for seed in 1 2 3; do
  for method in fedavg:20 semi_async:60 fedasync:240; do
    train "digits-${method%:*}-$seed" "--method.name=${method%:*}" --method.submodel=static "--run.rounds=${method#*:}" \
      "--run.seed=$seed"
  done
done
# Clients draw a new width for each task, and the weak ones have too little memory for the widest.
train unreliable --method.levels=dynamic --method.window=semi_async --run.rounds=40 --device.strong.memory_mb=4 \
  --device.middle.memory_mb=3 --device.weak.memory_mb=2 --faults.crash=0.05 --faults.late=0.15 --faults.late_factor=2

# README.md
dpi=140 plot quickstart.png "$runs/quickstart"
dpi=140 plot windows.png "$runs/digits-*" --group method --target 0.9 -p quality --against virtual,bytes --size 9.6x3.8
dpi=140 plot clients.png "$runs/unreliable" -p gantt --from 2 --to 5.3

# docs/plots.md
mkdir -p docs/images/plots
dpi=90 plot plots/quality.png "$runs/digits-*" --group method --target 0.9 -p quality --against virtual,rounds,bytes
plot plots/seeds.png "$runs/digits-*" -p quality --against virtual
plot plots/staleness.png "$runs/digits-*-1" -p staleness --smooth 8
plot plots/utilisation.png "$runs/digits-*" --group method -p utilisation
plot plots/coverage.png "$runs/quickstart" "$runs/unreliable" -p coverage
plot plots/memory.png "$runs/unreliable" -p memory
plot plots/updates.png "$runs/unreliable" -p updates
plot plots/retention.png "$runs/quickstart" -p retention
plot plots/gantt.png "$runs/unreliable" -p gantt --from 3 --to 5.4 --clients 0,3-6
