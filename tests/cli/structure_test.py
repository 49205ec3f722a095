"""The parts are a ladder: a part includes only parts below it, and no protocol includes another."""

import os
import re
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def sources(folder):
    for where, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if name.endswith((".h", ".cpp")):
                yield os.path.relpath(os.path.join(where, name), os.path.join(ROOT, folder))


def included(folder, file):
    with open(os.path.join(ROOT, folder, file), encoding="utf-8") as text:
        return re.findall(r'^#include "espalier/(.*)"', text.read(), re.M)


class Structure(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as text:
            self.parts = re.search(r"set\(espalier_parts (.*)\)", text.read()).group(1).split()
        self.includes = [(file, target) for folder in ("include/espalier", "src")
                         for file in sources(folder) for target in included(folder, file)]

    def test_includes_point_down_the_ladder(self):
        self.assertGreater(len(self.includes), 300)
        for file, target in self.includes:
            own, other = (path.split("/")[0] for path in (file, target))
            self.assertLessEqual(self.parts.index(other), self.parts.index(own), f"{file} includes {target}")

    def test_no_protocol_includes_another(self):
        for file, target in self.includes:
            if file.startswith("protocol/") and target.startswith("protocol/"):
                self.assertEqual(file.split("/")[1], target.split("/")[1], f"{file} includes {target}")

    def test_the_engine_names_no_protocol_and_no_method(self):
        protocols = os.listdir(os.path.join(ROOT, "src", "protocol"))
        methods = [name[:-4] for name in os.listdir(os.path.join(ROOT, "src", "method")) if name != "register.cpp"]
        words = re.compile(r"\b(" + "|".join([*(p + "::" for p in protocols), *methods]) + r")\b")
        for folder in ("include/espalier/engine", "src/engine"):
            for file in sources(folder):
                with open(os.path.join(ROOT, folder, file), encoding="utf-8") as text:
                    self.assertIsNone(words.search(text.read()), file)


if __name__ == "__main__":
    unittest.main()
