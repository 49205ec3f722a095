"""Hook of MkDocs: the site's menu has the pages in the order of docs/index.md, under the headings of that page.

mkdocs.yml names this file. So a page that index.md links has its place in the menu, and there is no second list to keep.
"""

import os
import re


def menu(text):
    """Returns MkDocs' `nav` of an index page: the page itself, then {heading: [paths]}. The first link to a page counts."""
    nav, seen = ["index.md"], set()
    for section in re.split(r"^## +", text, flags=re.M)[1:]:
        heading, _, body = section.partition("\n")
        paths = [path for path in dict.fromkeys(re.findall(r"\]\(([\w/.-]+\.md)(?:#[\w-]+)?\)", body)) if path not in seen]
        seen.update(paths)
        if paths:
            nav.append({heading: paths})
    return nav


def on_config(config, **_):
    with open(os.path.join(config["docs_dir"], "index.md"), encoding="utf-8") as file:
        config["nav"] = menu(file.read())
    return config
