"""Numbers that code produced and prose quotes."""

from __future__ import annotations

from ast import literal_eval
from typing import Any

_MIME = "application/papermill.record/"


def glue(name: str, value: Any) -> None:
    """Store a value in the notebook under a name, so that the text can quote it with ``{glue:text}`name```.

    The format is that of ``myst_nb.glue`` (https://myst-nb.readthedocs.io/en/latest/render/glue.html); this copy
    needs no Sphinx, so that chapters also run where the book cannot be built.

    Parameters
    ----------
    name : str
        Key, unique over the whole book.
    value : Any
        A number or a text. NumPy scalars become plain numbers, so that format specifications work on them.
    """
    from IPython.display import display

    plain = value.item() if hasattr(value, "item") else value
    text = _kept(plain) if isinstance(plain, str) else repr(plain)
    metadata = {"scrapbook": {"name": name, "mime_prefix": _MIME}}
    display({f"{_MIME}text/plain": text}, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]


def _kept(text: str) -> str:
    """Return a text in the form in which the book shows it as it is.

    Sphinx evaluates what it is given: "2,144" would become (2, 144), and "0.030" would lose its last digit.
    """
    try:
        changed = str(literal_eval(text)) != text
    except (ValueError, SyntaxError):
        return text
    return repr(text) if changed else text
