"""tools/docs.sh: the built site in a real browser. Formulas are drawn, pages need no network and fit a narrow window, every
page is in the menu, and links lead to files."""

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from browser import CHROMIUM, Browser  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FONT = "/usr/share/fonts/opentype/stix-word/STIXMath-Regular.otf"


@unittest.skipUnless(CHROMIUM, "there is no Chromium")
@unittest.skipUnless(importlib.util.find_spec("material") and importlib.util.find_spec("latex2mathml") and os.path.exists(FONT),
                     "MkDocs, latex2mathml or the site's font is not installed (tools/setup.sh --tests)")
class DocsSiteTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        for name in ("docs", "tools"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(folder.name, name))
        mkdocs = os.path.join(folder.name, "mkdocs")
        with open(mkdocs, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec "{sys.executable}" -m mkdocs "$@"\n')
        os.chmod(mkdocs, 0o755)
        for path in glob.glob(os.path.join(ROOT, "*.md")) + [os.path.join(ROOT, "mkdocs.yml")]:
            shutil.copy(path, folder.name)
        done = subprocess.run([os.path.join(folder.name, "tools", "docs.sh")], env={**os.environ, "ESPALIER_MKDOCS": mkdocs}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0 and done.stdout == "site/index.html\n", done.stdout
        cls.site = os.path.join(folder.name, "site")
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def open(self, page, width):
        self.browser.open(os.path.join(self.site, page + ".html"), width)
        self.assertEqual(self.browser.errors, [], page)
        self.assertEqual([url[:80] for url in self.browser.requests if not url.startswith(("file:", "data:"))], [], page)
        self.assertEqual(self.browser.value("document.documentElement.scrollWidth"), width, f"{page} at {width}")

    def test_formulas_are_drawn(self):
        count = 0
        for path in sorted(glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True)):
            with open(path, encoding="utf-8") as file:
                if "$" not in file.read():
                    continue
            page = os.path.relpath(path, os.path.join(ROOT, "docs"))[:-3]
            self.open(page, 400)
            self.browser.value("document.fonts.ready.then(() => true)")
            sizes = self.browser.value("[...document.querySelectorAll('math')].map(m => [m.textContent, m.getBoundingClientRect().height])")
            for formula, height in sizes:
                self.assertGreater(height, 5, f"{page}: {formula}")
                self.assertNotIn("\\", formula, page)
            # A subscript ends lower than what it belongs to; without a font for formulas many end at the same height.
            lowered = self.browser.value("""[...document.querySelectorAll('msub')]
                .map(m => [m.textContent, m.children[1].getBoundingClientRect().bottom - m.children[0].getBoundingClientRect().bottom])""")
            for what, below in lowered:
                self.assertGreater(below, 0.5, f"{page}: {what}")
            count += len(lowered)
        self.assertGreater(count, 100)

    def test_pages_fit_a_narrow_and_a_wide_window(self):
        for page in ("index", "about", "getting-started", "methods/comparison", "files/rounds", "options"):
            for width in (400, 1300):
                self.open(page, width)

    def test_every_page_is_in_the_menu_and_links_lead_to_files(self):
        self.open("index", 1300)
        links = self.browser.value("[...document.querySelectorAll('.md-nav--primary a.md-nav__link')].map(a => a.href.split('#')[0])")
        pages = glob.glob(os.path.join(self.site, "**", "*.html"), recursive=True)
        missing = {f"file://{page}" for page in pages if not page.endswith("404.html")} - set(links)
        self.assertEqual(missing, set(), "docs/index.md has no link to these")
        order = [links.index(f"file://{self.site}/{name}.html") for name in ("about", "getting-started", "concepts", "changelog", "models/mlp")]
        self.assertEqual(order, sorted(order))  # that of docs/index.md
        for link in self.browser.value("[...document.querySelectorAll('a[href]')].map(a => a.href.split('#')[0])"):
            self.assertTrue(not link.startswith("file:") or os.path.isfile(link[len("file://"):]), link)


if __name__ == "__main__":
    unittest.main()
