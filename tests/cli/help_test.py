"""Help that is generated from commands, flags and options: --help, shell completion, the man page."""

import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from support import ESPALIER, ProgramTest  # noqa: E402


class Help(ProgramTest):
    def printed(self, *words):
        done = self.espalier(*words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_help_fits_a_screen_and_ends_with_examples(self):
        lines = self.printed("--help").splitlines()
        self.assertLessEqual(len(lines), 40)
        self.assertLessEqual(max(map(len, lines)), 110)
        self.assertEqual(lines[-4], "Examples:")
        # The first example is a real command, up to its input.
        self.assertIn("inputs/quickstart.ini", lines[-3])

    def test_a_full_disk_is_told(self):
        """A script that keeps a page or a list must not take a part of it for the whole."""
        for words in (["--help"], ["--version"], ["list", "options"], ["explain", "fedavg"], ["man"]):
            with self.subTest(words), open("/dev/full", "w") as full:
                done = subprocess.run([ESPALIER, *words], stdout=full, stderr=subprocess.PIPE, text=True)
                self.assertEqual((done.returncode, done.stderr), (4, "error: the output cannot be written; is its disk full?\n"))

    def completions(self, *words):
        """What bash offers for the last of `words`."""
        line = " ".join(f'"{word}"' for word in words)
        script = (f"source <({ESPALIER} completion bash)\ncompopt() {{ :; }}\n"
                  f"COMP_WORDS=({line})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_espalier\n"
                  'printf "%s\\n" "${COMPREPLY[@]}"\n')
        done = subprocess.run(["bash", "-c", script], cwd=self.folder.name, text=True, capture_output=True)
        self.assertEqual(done.stderr, "")
        return set(done.stdout.split())

    def test_bash_completes_commands_options_and_values(self):
        self.assertEqual(self.completions("espalier", "exp"), {"explain", "export"})
        self.assertIn("--train.lr=", self.completions("espalier", "run", "--train.l"))
        self.assertEqual(self.completions("espalier", "run", "--resume"), {"--resume"})
        self.assertEqual(self.completions("espalier", "run", "--train.optimizer", "=", "ada"),
                         {"adam", "adamw", "adan"})
        self.assertEqual(self.completions("espalier", "run", "--clock.kind", "="), {"virtual", "paced", "measured"})
        self.assertIn("fedavg", self.completions("espalier", "run", "--method.name", "=", "feda"))
        self.assertIn("small.ini", self.completions("espalier", "run", "sm"))
        self.assertIn("cos2p", self.completions("espalier", "explain", "cos"))
        # Every declared option is offered.
        listed = {line.split()[0] for line in self.printed("list", "options").splitlines()}
        offered = {word.strip("-=") for word in self.completions("espalier", "run", "--")}
        self.assertEqual({key for key in listed if "*" not in key} - offered, set())

    def test_the_script_for_zsh_is_the_same(self):
        self.assertTrue(self.printed("completion", "zsh").endswith(self.printed("completion", "bash")))
        self.assert_refused(2, "completion bash, or zsh", "completion", "fish")

    def test_the_man_page_has_every_option(self):
        page = self.printed("man")
        for line in self.printed("list", "options").splitlines():
            key = line.split()[0].replace("-", "\\-")
            self.assertIn(f"\n.B {key}\n", page)
        if shutil.which("groff") is None:
            self.skipTest("groff is not installed, so the page's form is not checked")
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, text=True, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
