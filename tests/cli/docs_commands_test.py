"""Runs the commands that README.md and some pages show, in a fresh folder, and finds the output that they show. Of all other pages
every `espalier run` passes --check, and every `espalier list` and `explain` works.

A fenced block without a language is a block of commands. A block `ini` or `python` that the text before it names (Save this
as `NAME`) is written as that file. A block `output` must be in what the commands before it printed. The rule for numbers that
vary: a number with a decimal point may be another one, because the last digits of results depend on the processor, and host
times on the machine; everything else, whole numbers included, must be equal.
A comment <!-- not run: reason --> before a block leaves it out; the test prints these.
"""

import concurrent.futures
import glob
import importlib.util
import os
import re
import subprocess
import unittest

from support import ProgramTest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
NAME = re.compile(r"[Ss]ave (?:this|it)\s+as\s+`([\w.-]+)`")


RUN_PAGES = ("docs/getting-started.md", "docs/from-flower.md", "docs/from-pytorch.md")


def parts(page):
    """Yields (kind, text, prose before, reason why it is not run) for each fenced block."""
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        text = file.read()
    end = 0
    blocks = list(BLOCK.finditer(text))
    for i, block in enumerate(blocks):
        before = text[end:block.start()]
        end = block.end()
        after = text[end:blocks[i + 1].start() if i + 1 < len(blocks) else len(text)]
        skip = re.search(r"<!-- not run: (.*?) -->\s*$", before)
        yield block.group(1), block.group(2), before, after, skip and skip.group(1)


def pattern(line):
    """The line with any number in place of each number with a decimal point."""
    pieces = re.split(r"\d+\.\d+", line)
    return r"\d+(\.\d+)?".join(re.escape(piece) for piece in pieces)


class DocsCommandsTest(ProgramTest):
    def setUp(self):
        super().setUp()
        for name in ("tools", "inputs", ".venv"):
            if os.path.exists(os.path.join(ROOT, name)):
                os.symlink(os.path.join(ROOT, name), self.path(name))
        os.mkdir(self.path("build"))
        os.symlink(os.environ["ESPALIER"], self.path("build", "espalier"))

    def shell(self, command):
        return subprocess.run(["bash", "-c", command], cwd=self.folder.name, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300, check=False)

    def save_files(self, page):
        for kind, text, before, after, _ in parts(page):  # a README may name a file after its block
            names = NAME.findall(before)[-1:] or (NAME.findall(after.split("\n\n```")[0])[:1] if kind == "ini" else [])
            if kind in ("ini", "python") and names:
                self.write(names[0], text)

    def check(self, page):
        printed, run, left_out = "", 0, []
        self.save_files(page)
        for kind, text, _, _, reason in parts(page):
            if kind == "output":
                for line in text.splitlines():
                    self.assertRegex(printed, pattern(line), page)
            elif not kind:
                for line in text.splitlines():
                    command = re.sub(r"\s+#.*", "", line).strip()
                    if not command:
                        continue
                    if reason:
                        left_out.append(f"{command}: {reason}")
                        continue
                    done = self.shell(command)
                    printed += done.stdout
                    run += 1
                    self.assertEqual(done.returncode, 0, f"{page}: {command}\n{done.stdout}")
        print(f"\n{page}: {run} commands run; not run:", *left_out, sep="\n  ")
        return run

    def test_readme(self):
        self.assertGreaterEqual(self.check("README.md"), 5)

    def test_getting_started(self):
        self.assertGreaterEqual(self.check("docs/getting-started.md"), 3)

    def start_with_getting_started(self):
        """Its input and its data, which other pages use."""
        self.save_files("docs/getting-started.md")
        done = self.shell(".venv/bin/python make.py")
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_from_flower(self):
        self.assertGreaterEqual(self.check("docs/from-flower.md"), 5)

    @unittest.skipUnless(importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"), "this Python has no PyTorch")
    def test_from_pytorch(self):
        self.start_with_getting_started()
        self.assertGreaterEqual(self.check("docs/from-pytorch.md"), 6)

    def test_each_run_of_the_manual_passes_check(self):
        self.start_with_getting_started()
        commands = {}
        for path in sorted(glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True)):
            page = os.path.relpath(path, ROOT)
            for kind, text, _, _, reason in parts(page):
                if kind or reason or page in RUN_PAGES:
                    continue
                for line in text.replace("\\\n", " ").splitlines():
                    command = re.sub(r"\s+#.*|^tools/mpirun.sh -n \d+ ", "", line).strip()
                    # Where a page says INPUT.ini, any input will do.
                    command = re.sub(r"(?<=build/espalier run )INPUT\.ini", "inputs/quickstart.ini", command)
                    if re.match("build/espalier (list|explain|--version)", command):
                        commands.setdefault(command, page)
                    elif command.startswith("build/espalier run ") and "runs/NAME" not in command:
                        commands.setdefault(command.replace(" --check", "") + " --check", page)
        self.assertGreater(len(commands), 60)

        def run(command):
            done = self.shell(command)
            # Status 3 is a data set that this machine lacks, if its shape is known only from its files.
            allowed = (0,) if os.environ.get("ESPALIER_DATA") else (0, 3)
            return "" if done.returncode in allowed else f"{commands[command]}: {command}\n{done.stdout}"
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            failed = [output for output in pool.map(run, commands) if output]
        self.assertEqual(failed, [], "\n".join(failed))


if __name__ == "__main__":
    unittest.main()
