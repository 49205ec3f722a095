"""The tools as a Python package, and started by a Python without their packages."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tools")
sys.path.insert(0, TOOLS)


class PackageTest(unittest.TestCase):
    def test_absent_packages(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(TOOLS, os.path.join(folder, "tools"))

            def helped(tool):  # -I -S: by a Python without the packages of its environment
                return subprocess.run([sys.executable, "-I", "-S", os.path.join(copy, tool + ".py"), "--help"], text=True,
                                      capture_output=True)

            for tool in ("sweep", "compare", "plot", "report", "track", "follow", "pack_images"):
                done = helped(tool)
                self.assertEqual((done.returncode, done.stdout), (2, ""), tool)
                self.assertRegex(done.stderr, rf"^{tool}\.py needs numpy, h5py[^\n]*\n$")
            # With the project's Python beside it, the tool goes on.
            os.makedirs(os.path.join(folder, ".venv", "bin"))
            with open(os.path.join(folder, ".venv", "bin", "python"), "w") as file:
                file.write(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            os.chmod(file.name, 0o755)
            done = helped("follow")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("follow.py RUN", done.stdout)

    def test_the_installed_commands(self):
        with open(os.path.join(TOOLS, "pyproject.toml"), "rb") as file:
            project = tomllib.load(file)
        data = project["tool"]["setuptools"]["package-data"]["espalier_tools"]
        for name, place in project["project"]["scripts"].items():
            module, function = place.removeprefix("espalier_tools.").split(":")
            module = importlib.import_module(module)
            inspect.signature(getattr(module, function)).bind()  # pip's scripts call it without arguments
            with open(module.__file__, encoding="utf-8") as file:
                for needed in re.findall(r'join\(HERE, "(.+?)"\)', file.read()):
                    self.assertIn(needed, data, name)


if __name__ == "__main__":
    unittest.main()
