"""Hook of MkDocs: turns the formulas of a page, $…$ and $$…$$ in LaTeX, into MathML, which browsers draw without a script.

mkdocs.yml names this file. It needs the package latex2mathml, which tools/docs.sh installs.
"""

import re

from latex2mathml.converter import convert

# Fenced code and code in a line come first, because a $ in them is no formula.
PARTS = re.compile(r"(?P<code>^```.*?^```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$|\$(?P<line>[^\s$](?:[^$]*?[^\s$])?)\$", re.M | re.S)
formulas = []


def on_page_markdown(markdown, **_):
    """Puts a mark in place of each formula, so that Markdown does not read `_` and `*` in it."""
    formulas.clear()

    def mark(found):
        if found["code"]:
            return found["code"]
        is_block = found["block"] is not None
        formulas.append(convert(" ".join((found["block"] or found["line"]).split()), display="block" if is_block else "inline"))
        return f"formula{len(formulas) - 1}mark"

    return PARTS.sub(mark, markdown)


def on_page_content(html, **_):
    """Puts the MathML in place of the marks."""
    return re.sub(r"formula(\d+)mark", lambda found: formulas[int(found[1])], html)
