"""The help of each tool fits a screen of 80 columns and ends with examples of the tool."""

import os
import subprocess
import sys
import unittest

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "tools")


class ToolsHelpTest(unittest.TestCase):
    def test_help(self):
        for tool, most in (("sweep", 24), ("compare", 36), ("plot", 36), ("report", 24), ("track", 24), ("follow", 24),
                           ("get_data", 24), ("pack_images", 24), ("get_model", 24), ("tokenize", 30)):
            with self.subTest(tool):
                done = subprocess.run([sys.executable, os.path.join(TOOLS, tool + ".py"), "--help"], text=True, capture_output=True,
                                      encoding="utf-8", env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"})
                self.assertEqual(done.returncode, 0, done.stderr)
                lines = done.stdout.rstrip().splitlines()
                self.assertLessEqual(len(lines), most)
                self.assertLessEqual(max(map(len, lines)), 80, max(lines, key=len))
                examples = lines[lines.index("examples:") + 1:]
                self.assertGreaterEqual(sum(line.startswith(f"  tools/{tool}.py ") for line in examples), 2)
                self.assertTrue(all(line.startswith("  ") for line in examples))

    def test_a_tool_does_not_hide_a_module_of_python(self):
        found = "import inspect, tokenize; print(tokenize.__file__, len(list(tokenize.generate_tokens(iter(['a = 1']).__next__))))"
        for folder in TOOLS, os.path.dirname(TOOLS):
            done = subprocess.run([sys.executable, "-c", found], text=True, capture_output=True, cwd=folder)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn(TOOLS, done.stdout)
            self.assertIn(" 5", done.stdout)


if __name__ == "__main__":
    unittest.main()
