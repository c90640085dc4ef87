"""What the documents and the site of them link to.

links.py named SRC    files and directories of the project that pages below SRC name and that are not there, one a line
links.py list DIR     writes DIR/index.html, a list of what is in DIR
links.py check BOOK   fails if a link of a page below BOOK leads nowhere, and names it
"""

from __future__ import annotations

import html
import html.parser
import pathlib
import re
import sys
import urllib.parse

ELSEWHERE = ("http://", "https://", "mailto:", "javascript:", "data:")


def named(src: pathlib.Path) -> None:
    found = set()
    for page in src.rglob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith((*ELSEWHERE, "#")):
                continue
            there = (page.parent / link.partition("#")[0]).resolve()
            if not there.exists():
                found.add(str(there.relative_to(src.resolve())))
    print("\n".join(sorted(found)))


def listed(directory: pathlib.Path) -> None:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in directory.iterdir() if entry.name != "index.html")
    for below in (entry for entry in directory.iterdir() if entry.is_dir()):
        listed(below)
    items = "".join(f'<li><a href="{html.escape(urllib.parse.quote(name))}">{html.escape(name)}</a></li>\n' for name in names)
    words = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(directory.name)}</title>\n<ul>\n{items}</ul>\n</html>\n'
    (directory / "index.html").write_text(words)


class Page(html.parser.HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def check(book: pathlib.Path) -> None:
    pages = {path.resolve(): Page(path) for path in book.rglob("*.html")}
    broken, links = [], 0
    for path, page in pages.items():
        if path.name in ("404.html", "print.html", "toc.html"):
            # Made for another place than theirs, or out of all others.
            continue
        for link in page.links:
            if link.startswith(ELSEWHERE):
                continue
            links += 1
            where, _, anchor = urllib.parse.unquote(link).partition("#")
            there = (path.parent / where).resolve() if where else path
            if there.is_dir():
                there /= "index.html"
            if not there.exists():
                broken.append(f"{path.relative_to(book.resolve())}: {link} leads nowhere")
            elif anchor and there in pages and anchor not in pages[there].anchors:
                broken.append(f"{path.relative_to(book.resolve())}: {link}: nothing there has that name")
    print("\n".join(broken), file=sys.stderr)
    if broken or links == 0:
        sys.exit(f"{len(broken)} of {links} links are broken")
    print(f"{len(pages)} pages, {links} links")


if __name__ == "__main__":
    {"named": named, "list": listed, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
