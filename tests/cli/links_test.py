"""Every relative link and anchor in README.md and docs/**/*.md exists. Needs no network."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages():
    found = [os.path.join(ROOT, name) for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
    for folder, _, names in os.walk(os.path.join(ROOT, "docs")):
        found += [os.path.join(folder, name) for name in names if name.endswith(".md")]
    return sorted(found)


def prose(path):
    """The page without fenced blocks and code."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return re.sub(r"`[^`\n]*`", lambda code: code.group().replace("(", " ").replace("[", " "),
                  re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(path):
    titles = re.findall(r"^#+ +(.+?) *$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"`", "", title).lower()).replace(" ", "-") for title in titles}


class LinksTest(unittest.TestCase):
    def test_relative_links_and_anchors_exist(self):
        wrong, seen = [], 0
        for page in pages():
            for link in LINK.findall(prose(page)):
                if re.match(r"[a-z]+:", link):
                    continue
                seen += 1
                path, _, anchor = link.partition("#")
                target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
                if not os.path.exists(target):
                    wrong.append(f"{os.path.relpath(page, ROOT)}: {link} does not exist")
                elif anchor and target.endswith(".md") and anchor not in anchors(target):
                    wrong.append(f"{os.path.relpath(page, ROOT)}: {link} has no such heading")
        self.assertEqual(wrong, [])
        self.assertGreater(seen, 50)

    def test_a_blank_line_is_before_each_list(self):
        # MkDocs reads a list directly below text as text.
        wrong = []
        for page in pages():
            before, in_list = "", False
            for number, line in enumerate(prose(page).splitlines(), 1):
                is_item = bool(re.match(r"([-*]|\d+\.) ", line))
                if is_item and not in_list and before.strip() and before[0] not in "#<|":
                    wrong.append(f"{os.path.relpath(page, ROOT)}: {line[:60]}")
                in_list = is_item or in_list and line.startswith(" ")
                before = line
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    unittest.main()
