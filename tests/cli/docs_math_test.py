"""tools/docs_math.py: every formula of the manual becomes MathML, and a $ in code stays."""

import importlib.util
import os
import sys
import unittest
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))


@unittest.skipUnless(importlib.util.find_spec("latex2mathml"), "the package latex2mathml is not installed")
class DocsMathTest(unittest.TestCase):
    def rendered(self, text):
        import docs_math
        marked = docs_math.on_page_markdown(text)
        return marked, docs_math.on_page_content(marked)

    def test_formulas_and_code(self):
        text = "In `$DIR` of $a_b*c*d$ and\n\n$$x^2\n+ 1$$\n\n```\necho $A $B\n```\nor 5 $ and 6 $."
        marked, page = self.rendered(text)
        self.assertNotIn("a_b", marked)  # Markdown would read the signs
        self.assertEqual(page.count("<math"), 2)
        self.assertEqual(page.count('display="block"'), 1)
        for kept in ("`$DIR`", "echo $A $B", "5 $ and 6 $."):
            self.assertIn(kept, page)

    def test_every_page(self):
        count = 0
        for folder, _, names in os.walk(os.path.join(ROOT, "docs")):
            for name in (name for name in names if name.endswith(".md")):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    _, page = self.rendered(file.read())
                self.assertNotIn("$$", page, name)
                for part in page.split("<math")[1:]:
                    formula = "<math" + part.split("</math>")[0] + "</math>"
                    self.assertNotIn("\\", "".join(xml.etree.ElementTree.fromstring(formula).itertext()), name)
                    count += 1
        self.assertGreater(count, 30)


if __name__ == "__main__":
    unittest.main()
