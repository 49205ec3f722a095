"""docs/options.md is the page that tools/docs_options.py writes from the program."""

import os
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "tools", "docs_options.py")
ESPALIER = os.environ["ESPALIER"]


class DocsOptionsTest(unittest.TestCase):
    def test_the_page_is_that_of_the_program(self):
        done = subprocess.run([sys.executable, SCRIPT, ESPALIER], text=True, capture_output=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(ROOT, "docs", "options.md"), encoding="utf-8") as file:
            page = file.read()
        self.maxDiff = None
        self.assertEqual(page.splitlines(), done.stdout.splitlines(),
                         "write it again: tools/docs_options.py build/espalier -o docs/options.md")
        listed = subprocess.run([ESPALIER, "list", "options"], text=True, capture_output=True, check=True).stdout
        for line in listed.splitlines():  # independent of the script: every key has one row
            self.assertEqual(page.count(f"| `{line.split()[0]}` |"), 1, line)

    def test_bad_requests_get_one_sentence(self):
        for words, status in ((("absent/espalier",), 3), ((ESPALIER, "-o", "absent/folder/page.md"), 3), ((), 2)):
            done = subprocess.run([sys.executable, SCRIPT, *words], text=True, capture_output=True, check=False)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
