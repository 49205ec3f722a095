"""The parts are a ladder: a part includes only parts below it, and no protocol includes another. The files of a
run's story and the classes of `rounds` stay small."""

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

    def text(self, *path):
        with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
            return file.read()

    def test_engine_and_app_name_no_protocol_and_no_method(self):
        protocols = os.listdir(os.path.join(ROOT, "src", "protocol"))
        methods = [name[:-4] for name in os.listdir(os.path.join(ROOT, "src", "method")) if name != "register.cpp"]
        # Option keys may hold such a word ("run.rounds").
        words = re.compile(r"(?<![.\w\"])(" + "|".join(protocols + methods) + r")(?![\w\"])")
        for folder in ("include/espalier/engine", "src/engine"):
            for file in sources(folder):
                self.assertIsNone(words.search(self.text(folder, file)), file)
        used = [(file, target) for file, target in self.includes if file.startswith("app/")]
        self.assertGreater(len(used), 50)
        for file, target in used:
            self.assertFalse(target.startswith(("protocol/", "method/")) and target != "method/register.h",
                             f"{file} includes {target}")

    def test_the_story_of_a_run_is_short(self):
        lines = {file: self.text("src", file).count("\n")
                 for file in ("app/main.cpp", "app/run.cpp", "engine/driver.cpp")}
        self.assertLessEqual(lines["app/run.cpp"], 200)
        self.assertLessEqual(sum(lines.values()), 500)
        self.assertLess(self.text("tests", "engine", "toy_espalier.cpp").count("\n"), 150)

    def test_no_class_of_a_protocol_has_more_than_15_members(self):
        for protocol in os.listdir(os.path.join(ROOT, "src", "protocol")):
            folder = f"include/espalier/protocol/{protocol}"
            largest = 0
            for file in sources(folder):
                for body in re.findall(r"^class \w+[^;]*?\{\n(.*?)^\};", self.text(folder, file), re.M | re.S):
                    members = re.findall(r"^  [^(]*?\b\w+_(?: = [^;]*)?;", body, re.M)
                    largest = max(largest, len(members))
                    self.assertLessEqual(len(members), 15, file)
            self.assertGreater(largest, 10)


if __name__ == "__main__":
    unittest.main()
