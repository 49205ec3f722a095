"""How the tools read their command line and end."""

import argparse
import contextlib
import functools
import os
import signal
import sys
import warnings


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one sentence on stderr, with status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def ends_well(main):
    """Decorates a tool's main, which returns the exit status, for ends that no tool expects: a reader of its output that has read enough,
    an output or file that cannot be written (status 4), and Ctrl-C. NumPy's warnings about odd values do not get between a tool's lines."""

    @functools.wraps(main)
    def decorated(*words):
        name = os.path.basename(sys.argv[0])
        try:
            sys.stdout = sys.stdout or open(os.devnull, "w")  # the caller has closed it
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                try:
                    return main(*words)
                finally:
                    sys.stdout.flush()
        except BrokenPipeError:  # such as `| head`
            forget_output()
            return 128 + signal.SIGPIPE
        except OSError as error:
            forget_output()
            print(f"{name}: {error.filename or 'output'}: {error.strerror}" if error.strerror else f"{name}: {error}", file=sys.stderr)
            return 4
        except KeyboardInterrupt:
            forget_output()
            return 128 + signal.SIGINT

    return decorated


def refuse(sentence, status=2):
    """Ends a tool: status 2 for what it was asked for, 3 for data that are missing or damaged, 4 for what cannot be written."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def writing(place):
    """Ends a tool that cannot write `place` with one sentence and status 4."""
    try:
        yield
    except BrokenPipeError:  # of stdout
        raise
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())
        refuse(f"{error.filename or place} cannot be written: {reason}", 4)


def forget_output():
    """What is still to be written to stdout goes nowhere, so that Python does not try it again when it ends."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
