"""The method of docs/writing-a-method.md compiles as the program's own methods do, and is FedProx."""

import json
import os
import re
import shlex
import subprocess
import tempfile
import textwrap
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = os.path.join(os.path.dirname(os.environ["ESPALIER"]), "compile_commands.json")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def blocks():
    """The header and the source of the page."""
    return [textwrap.dedent(text) for text in re.findall(r"^ *```cpp\n(.*?)^ *```", read("docs", "writing-a-method.md"), re.M | re.S)]


class DocsMethodTest(unittest.TestCase):
    @unittest.skipUnless(os.path.exists(COMMANDS), "there is no build with compile_commands.json")
    def test_it_compiles(self):
        with open(COMMANDS, encoding="utf-8") as file:
            entry = next(entry for entry in json.load(file) if "espalier_method.dir" in entry["file"])
        words = shlex.split(entry["command"])
        words = words[:words.index("-o")]  # then come the output and the source
        if os.path.basename(words[0]) == "ccache":
            words = words[1:]
        with tempfile.TemporaryDirectory() as folder:
            names = [os.path.join(folder, "espalier", "method", "mine.h"), os.path.join(folder, "mine.cpp")]
            os.makedirs(os.path.dirname(names[0]))
            for name, text in zip(names, blocks(), strict=True):
                with open(name, "w", encoding="utf-8") as file:
                    file.write(text)
            done = subprocess.run([*words, "-I", folder, "-fsyntax-only", "-Wall", "-Werror", "-Wno-invalid-pch", names[1]],
                                  cwd=entry["directory"], text=True, capture_output=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_it_is_fedprox_under_other_names(self):
        def essence(text):
            text = re.sub(r"//.*", "", text)
            return re.sub(r"\s+", " ", text[text.index("class"):text.index("void register")])
        ours = essence(blocks()[1])
        for old, new in (("Pull", "Proximal"), ("method.pull", "method.mu"), ("factor_", "mu_")):
            ours = ours.replace(old, new)
        self.assertEqual(ours, essence(read("src", "method", "fedprox.cpp")))


if __name__ == "__main__":
    unittest.main()
