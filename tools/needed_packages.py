"""Starts a tool again with .venv/bin/python, which tools/setup.sh makes, if its own Python lacks packages."""

import importlib.util
import os
import sys

TOOLS = os.path.dirname(os.path.realpath(__file__))
ENVIRONMENT = os.path.join(os.path.dirname(TOOLS), ".venv")


def need(*modules):
    """Returns if all modules are installed. Otherwise starts the tool again with the project's Python; without one it ends the program
    with one sentence and status 2."""
    absent = [{"PIL": "pillow"}.get(name, name) for name in modules if importlib.util.find_spec(name) is None]
    if not absent:
        return
    python = os.path.join(ENVIRONMENT, "bin", "python")
    is_tool = os.path.dirname(os.path.realpath(sys.argv[0])) == TOOLS  # and not a script that imports one
    if is_tool and os.path.exists(python) and not os.path.samefile(sys.prefix, ENVIRONMENT):
        os.execv(python, [python, *sys.argv])
    setup = "tools/setup.sh --language" if {"gguf", "tokenizers"}.intersection(absent) else "tools/setup.sh"
    print(f"{os.path.basename(sys.argv[0])} needs {', '.join(absent)}, which {sys.executable} lacks: start it by .venv/bin/python, "
          f"which {setup} makes, or by another Python that has them", file=sys.stderr)
    sys.exit(2)
