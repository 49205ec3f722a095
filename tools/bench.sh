#!/usr/bin/env bash
# Runs the benchmarks and prints one table: name, measured, bar, pass or miss.  tools/bench.sh [WORD...]
# With words, it runs only the benchmarks whose file name contains one of them. A benchmark is a program *_bench, built
# below build/tests/bench by CMake's target `benches`, or a script tests/bench/*.sh. It prints lines of four fields separated
# by tabs (name, measured, bar, pass|miss). Its other lines go to the log.
# Use an otherwise idle machine. Status: 0 all pass, 1 at least one miss, 2 a benchmark failed.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

set_up --tests
if [[ -z ${ESPALIER_DATA:-} && -d $ESPALIER_ROOT/../shared/data ]]; then
  ESPALIER_DATA=$(cd "$ESPALIER_ROOT/../shared/data" && pwd)
  export ESPALIER_DATA
fi
build_target "build the program" espalier -DESPALIER_BENCH=ON
step "build the benchmarks" cmake --build build --target benches

mapfile -t programs < <({
  find build/tests/bench -maxdepth 1 -type f -name '*_bench' 2>/dev/null
  find tests/bench -maxdepth 1 -name '*.sh' 2>/dev/null
} | sort)

wanted() {
  local word
  (($# > 1)) || return 0
  for word in "${@:2}"; do
    [[ $1 != *"$word"* ]] || return 0
  done
  return 1
}

rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
failed=()
ran=0
for program in "${programs[@]}"; do
  wanted "$(basename "$program")" "$@" || continue
  ran=$((ran + 1))
  printf '[%3d s] %s\n' "$SECONDS" "$program"
  output=$(mktemp)
  launch=("./$program")
  [[ $program != *.sh ]] || launch=(bash "$program")
  "${launch[@]}" >"$output" 2>>"$SETUP_LOG" || failed+=("$program")
  awk -F '\t' 'NF == 4 && ($4 == "pass" || $4 == "miss")' "$output" >>"$rows"
  cat "$output" >>"$SETUP_LOG"
  rm -f "$output"
done
((ran > 0)) || die "no benchmark matches '$*'" 2

printf '\n'
awk -F '\t' '
  { for (i = 1; i <= 4; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
  END {
    for (r = 1; r <= NR; r++)
      printf "%-*s  %*s  %*s  %s\n", width[1], cell[r, 1], width[2], cell[r, 2], width[3], cell[r, 3], cell[r, 4]
  }' <(printf 'name\tmeasured\tbar\tresult\n'; cat "$rows")

if ((${#failed[@]} > 0)); then
  die "failed: ${failed[*]}; the reason is at the end of $SETUP_LOG" 2
fi
! grep -q $'\tmiss$' "$rows"
