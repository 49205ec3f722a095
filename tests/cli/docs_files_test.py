"""docs/files/ says what run files and checkpoints hold. Its pages are equal to those that the program and its files
give now, and they have every column and every entry of a run."""

import os
import re
import subprocess
import sys
import unittest

import h5py

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PAGES = os.path.join(ROOT, "docs", "files")

sys.path[:0] = [os.path.dirname(__file__), os.path.join(ROOT, "tools")]
import docs_files  # noqa: E402
from support import ESPALIER, ProgramTest  # noqa: E402


def text_of(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def rows_of(page):
    """Returns the first cells of all rows of the tables on a page, by heading."""
    rows = {}
    for line in text_of(PAGES, page).splitlines():
        if line.startswith("#"):
            heading = line.strip("# `")
        elif cell := re.match(r"\| `([^`]+)` \|", line):
            rows.setdefault(heading, []).append(cell[1])
    return rows


class DocsFiles(ProgramTest):
    def test_the_pages_are_those_of_the_program(self):
        pages = self.path("pages")
        done = subprocess.run([sys.executable, docs_files.__file__, "--program", ESPALIER, "--to", pages], text=True,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(PAGES)), sorted(os.listdir(pages)))
        for name in os.listdir(PAGES):
            self.assertEqual(text_of(PAGES, name), text_of(pages, name),
                             f"docs/files/{name} is stale; run tools/docs_files.py")

    def test_missing_idle_and_wrong_sentences_are_refused(self):
        one, three = docs_files.Found("int64", 1), docs_files.Found("int64", 3)
        entries = {"a": [docs_files.Found("group", None)], "a/flag": [one], "a/12": [one, three]}
        sentences = [("a", "", "a group"), ("a/CLIENT", "varies", "some numbers"), ("a/flag", docs_files.ONE, "a flag")]
        rows = docs_files.describe(entries, sentences)
        self.assertEqual([row[:2] for row in rows], [("a", "group"), ("a/CLIENT", "int64"), ("a/flag", "int64")])
        docs_files.check_idle(sentences, rows, "no such file")

        def refused(words, *replaced):
            with self.assertRaisesRegex(docs_files.Stale, words):
                docs_files.check_idle(replaced, docs_files.describe(entries, replaced), "no such file")

        a, numbers, flag = sentences
        refused("no sentence .* for a/flag", a, numbers)
        refused("no sentence .* for a/12", a, flag, ("a/1", "varies", "one client"))
        refused("no such file has a/flags", *sentences, ("a/flags", docs_files.ONE, "more flags"))
        refused("a/CLIENT does not always have one value", a, flag, ("a/CLIENT", docs_files.ONE, "a number"))
        refused("a/flag is a int64", a, numbers, ("a/flag", "", "a group"))

    def test_every_column_and_entry_of_a_run_is_on_its_page(self):
        run = self.run_ok("a", "--method.name=fedavg", "--train.optimizer_state=keep", "--train.optimizer=adam",
                          "--checkpoint.every=2")
        pages = {page: rows_of(page) for page in ("run.md", "rounds.md")}
        seen = set()
        with h5py.File(os.path.join(run, "run.h5")) as file:
            tables = [name for name in file if name != "method"] + [f"method/{name}" for name in file["method"]]
            for table in tables:
                page = pages["run.md" if table in ("evaluations", "clients") else "rounds.md"]
                self.assertEqual(sorted(page["/" + table]), sorted(file[table]))
                seen.add(table)
        self.assertEqual(seen, {"evaluations", "clients", "rounds", "tasks", "method/fleet"})
        names = set()
        folder = os.path.join(run, "checkpoints")
        for name in os.listdir(folder):
            with h5py.File(os.path.join(folder, name)) as file:
                file.visit(names.add)
        described = set(pages["rounds.md"]["Checkpoint"])
        self.assertIn("server/states/6", names)
        for name in names:
            if name.startswith("model/"):
                name = "model/NAME"
            name = re.sub(r"(?<=states/)\d+$", "CLIENT", name)
            name = re.sub(r"(?<=payloads/)\d+$", "NUMBER", name)
            name = re.sub(r"(?<=evaluations/model_)\d+$", "VERSION", name)
            self.assertIn(name, described)


if __name__ == "__main__":
    unittest.main()
