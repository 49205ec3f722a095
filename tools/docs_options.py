#!/usr/bin/env python3
"""Writes docs/options.md, the page of all options, from the program's own declarations.

    tools/docs_options.py build/espalier -o docs/options.md
    tools/docs_options.py build/espalier            # prints the page

The page is made of `espalier list options -v`. tests/cli/docs_options_test.py checks that the
committed page is the one that this script writes, so run it again after a change of an option.
"""

import argparse
import os
import re
import subprocess
import sys

HEAD = """# All options

After this page you know every option of an input file: its type, its default and what it accepts. One option, in the terminal:

```
build/espalier explain train.lr
build/espalier list options          # all of them, one line each
build/espalier run mine.ini --print-config    # the values of your own run
```

An option `section.key` is written as `key = value` below `[section]` in the input file, or as `--section.key=value` on the
command line, which wins. `device.*.key` stands for a device class that you name: write it below `[device.NAME]`.
Defaults here are those of the program. A method or a model family may bring others: `--print-config` shows them.

The column *resume* says what happens if a run is continued with another value:

| resume | meaning |
|---|---|
| no | the program refuses to continue the run |
| yes | allowed |
| yes, same values | allowed, and no value of the run changes |

This page is written by `tools/docs_options.py`.
"""
SECTIONS = {
    "run": "The run: name, length, seed, and when it stops.",
    "checkpoint": "Checkpoints: when they are written and which ones stay ([checkpoints and resume](reliability.md)).",
    "model": "The model family and its size ([the families](index.md#model-families)).",
    "data": "The data and who has which samples ([data](data.md)).",
    "clients": "How many clients there are, which devices they have, who works when.",
    "device": "A device class: speed, memory, link ([devices](devices.md)).",
    "method": "The method and its rules ([the methods](index.md#methods)).",
    "window": "How long the server waits for updates before it merges.",
    "train": "Local training on a client ([how clients train](training.md)).",
    "clock": "What time is ([time](time.md)).",
    "server": "Links and processor of the server ([time](time.md#links-and-processor-of-the-server)).",
    "faults": "Faults that are emulated on purpose.",
    "record": "What is recorded and evaluated.",
}


FIELD = re.compile("  (type|unit|default|accepts|resume): +(.*)")  # a help text may begin "gpt: "


def program_output(program, *words):
    done = subprocess.run([program, *words], text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"docs_options.py: {program} {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout


def explained(text):
    """Key and fields of one option, as `list options -v` prints it."""
    lines = text.splitlines()
    key = lines[0].split()[0]
    fields = {"help": " ".join(line.strip() for line in lines[1:] if not FIELD.match(line))}
    fields.update(FIELD.match(line).groups() for line in lines[1:] if FIELD.match(line))
    return key, fields


def cell(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def row(key, fields):
    unit = fields.get("unit", "")
    default = fields.get("default", "")
    if unit and default.endswith(" " + unit):
        default = default[:-len(unit) - 1]
    accepts = fields.get("accepts", "").removeprefix("one of: ")
    resume = fields.get("resume", "")
    resume = "no" if not resume else "yes, same values" if "no effect" in resume else "yes"
    default = "" if default == "(none)" else f"`{default}`"
    columns = (f"`{key}`", fields.get("type", ""), unit, default, cell(accepts), cell(fields["help"]), resume)
    return "| " + " | ".join(columns) + " |"


def page(program):
    options = [explained(text) for text in program_output(program, "list", "options", "-v").strip().split("\n\n")]
    sections = {}
    for key, fields in options:
        sections.setdefault(key.split(".")[0], []).append((key, fields))
    parts = [HEAD]
    for name in sorted(sections, key=lambda name: list(SECTIONS).index(name) if name in SECTIONS else len(SECTIONS)):
        parts.append(f"\n## {name}\n\n" + (SECTIONS[name] + "\n\n" if name in SECTIONS else ""))
        parts.append("| option | type | unit | default | accepts | meaning | resume |\n|---|---|---|---|---|---|---|\n")
        parts.append("".join(row(*option) + "\n" for option in sections[name]))
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description="Writes the page of all options from the program's declarations.",
                                     epilog="example: tools/docs_options.py build/espalier -o docs/options.md")
    parser.add_argument("program", help="the program, such as build/espalier")
    parser.add_argument("-o", metavar="FILE", dest="out", help="write the page here instead of printing it")
    wish = parser.parse_args()
    if not os.access(wish.program, os.X_OK):
        print(f"docs_options.py: {wish.program} is no program; build it first", file=sys.stderr)
        return 3
    text = page(wish.program)
    if wish.out is None:
        print(text, end="")
        return 0
    try:
        with open(wish.out, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        print(f"docs_options.py: cannot write {wish.out}: {error.strerror}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
