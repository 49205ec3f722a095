#!/usr/bin/env bash
# checkpoint.py with the project's own Python, over the build folder of tools/bench.sh.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../.venv/bin/python" "$here/checkpoint.py" "$here/../../build" "$@"
