#!/usr/bin/env bash
# scale.py with the project's own Python, over the build folder of tools/bench.sh.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$here/../../.venv/bin/python" "$here/scale.py" "$here/../../build" "$@"
