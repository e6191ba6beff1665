"""The built book must load nothing from other hosts, and the check must see it if it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncourse.notebooks.site import foreign_requests, missing_files

FETCHES = [
    '<script src="https://cdn.example.org/mathjax.js"></script>',
    '<script src="//cdn.example.org/mathjax.js"></script>',
    '<link rel="stylesheet" href="https://cdn.example.org/a.css">',
    '<link rel="preload" href="HTTPS://cdn.example.org/font.woff2">',
    '<img src="https://cdn.example.org/badge.svg">',
    '<iframe src="https://cdn.example.org/"></iframe>',
    "<style>@import 'https://cdn.example.org/a.css';</style>",
    '<p style="background: url(https://cdn.example.org/a.png)">',
]
MENTIONS = [
    '<a href="https://example.org">read</a>',
    '<link rel="canonical" href="https://example.org/page.html">',
    '<script src="_static/local.js"></script>',
    '<img src="../_images/figure.png">',
    "<p>src=https://example.org</p>",
]


@pytest.mark.parametrize("html", FETCHES)
def test_a_fetch_is_found(tmp_path: Path, html: str) -> None:
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    (addresses,) = foreign_requests(tmp_path).values()
    assert "cdn.example.org" in addresses[0]


@pytest.mark.parametrize("html", MENTIONS)
def test_a_mention_is_none(tmp_path: Path, html: str) -> None:
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    assert foreign_requests(tmp_path) == {}


def test_style_sheets_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "index.html").touch()
    (tmp_path / "a.css").write_text('@font-face {src: url("https://fonts.example.org/x.woff")}', encoding="utf-8")
    assert foreign_requests(tmp_path) == {"a.css": ["https://fonts.example.org/x.woff"]}


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "here.js").touch()
    html = '<script src="here.js?v=1"></script><img src="gone.png"><img src="data:image/png;base64,xx">'
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    assert missing_files(tmp_path) == {"index.html": ["gone.png"]}


def test_a_folder_without_a_book_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no built book"):
        foreign_requests(tmp_path)
