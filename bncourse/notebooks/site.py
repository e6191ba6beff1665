"""What the built pages load: nothing from other hosts, or the book needs a network; and nothing that is not there."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that make a browser fetch something at once, by element.
_FETCHING = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
}
#: Relations of <link> that fetch nothing.
_MENTIONS = {"canonical", "alternate", "next", "prev", "author", "license", "index", "search"}
_REMOTE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_CSS_FETCH = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


class _Fetches(HTMLParser):
    """Collect what a page fetches: `found` on other hosts, `local` beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.local: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.found += _CSS_FETCH.findall(values.get("style", ""))
        names = _FETCHING.get(tag, ())
        if tag == "link" and not set(values.get("rel", "").lower().split()) & _MENTIONS:
            names = ("href",)
        for address in filter(None, (values.get(name) for name in names)):
            if _REMOTE.match(address):
                self.found.append(address)
            elif not address.startswith(("data:", "#")):
                self.local.append(unquote(urlsplit(address).path))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _CSS_FETCH.findall(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "style":
            self._in_style = False


def foreign_requests(site: Path) -> dict[str, list[str]]:
    """Return what each page and style sheet below `site` loads from other hosts.

    Links that a reader may follow do not count.

    Parameters
    ----------
    site : Path
        Folder of the built book.

    Returns
    -------
    dict
        Addresses by file, without the files that load nothing.

    Raises
    ------
    FileNotFoundError
        If `site` holds no built book.
    """
    found = {path: _read(path).found for path in _pages(site)}
    for path in sorted(site.rglob("*.css")):
        found[path] = _CSS_FETCH.findall(path.read_text(encoding="utf-8", errors="replace"))
    return {path.relative_to(site).as_posix(): addresses for path, addresses in found.items() if addresses}


def missing_files(site: Path) -> dict[str, list[str]]:
    """Return the scripts, style sheets and pictures that pages below `site` ask for and that are not there.

    Parameters, result and errors are those of `foreign_requests`.
    """
    missing = {}
    for page in _pages(site):
        gone = [address for address in _read(page).local if not (page.parent / address).is_file()]
        if gone:
            missing[page.relative_to(site).as_posix()] = gone
    return missing


def _pages(site: Path) -> list[Path]:
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"{site} holds no built book (no index.html): run `make book` first")
    # The theme leaves unfilled templates among its static files.
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def _read(page: Path) -> _Fetches:
    parser = _Fetches()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser
