#!/usr/bin/env python3
"""Starts tokenize_text.py, which turns texts into arrays of tokens.

Python has a module of this name too, which other tools import indirectly. Their interpreter finds this file first, because it is
beside them; so, imported, this file puts Python's module into its own place.
"""

import os
import sys

if __name__ == "__main__":
    import tokenize_text

    sys.exit(tokenize_text.main())
else:
    import importlib.util

    spec = importlib.util.spec_from_file_location(__name__, os.path.join(os.path.dirname(os.__file__), "tokenize.py"))
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
