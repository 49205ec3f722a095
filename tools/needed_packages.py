"""Says in one sentence which Python packages a tool lacks, before it imports them."""

import importlib.util
import os
import sys


def need(*modules):
    """Ends the program with status 2 if one of the modules is not installed."""
    absent = [{"PIL": "pillow"}.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        print(f"{os.path.basename(sys.argv[0])} needs {', '.join(absent)}, which {sys.executable} lacks: start it by .venv/bin/python, "
              f"which tools/setup.sh makes, or by another Python that has them", file=sys.stderr)
        sys.exit(2)
