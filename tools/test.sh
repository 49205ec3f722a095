#!/usr/bin/env bash
# Sets the machine up as quickstart.sh does and runs every test:  tools/test.sh [--quick]
#   --quick   without the tests labelled `slow`
# Tests look for real data in $ESPALIER_DATA. A test without its data reports that it was skipped.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

selection=()
case "${1:-}" in
  "") ;;
  --quick) selection=(--label-exclude '^slow$') ;;
  *) die "unknown argument '$1'; usage: tools/test.sh [--quick]" 2 ;;
esac

set_up --tests
if [[ -z ${ESPALIER_DATA:-} && -d $ESPALIER_ROOT/../shared/data ]]; then
  ESPALIER_DATA=$(cd "$ESPALIER_ROOT/../shared/data" && pwd)
  export ESPALIER_DATA
fi

check_format() {
  find include src tests -name '*.h' -o -name '*.cpp' | sort |
    xargs -r .venv/bin/clang-format --dry-run --Werror
}

cd "$ESPALIER_ROOT"
step "format of the sources (to fix: .venv/bin/clang-format -i FILE)" check_format
build_target "build the program, tests and benchmarks" all -DESPALIER_TESTS=ON -DESPALIER_BENCH=ON

printf '[%3d s] tests\n' "$SECONDS"
ctest --test-dir build --output-on-failure --no-tests=error -j "$(nproc)" "${selection[@]}"
