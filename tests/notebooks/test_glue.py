"""Values are stored as plain text that the book can format."""

from __future__ import annotations

from typing import Any

import IPython.display
import numpy as np
import pytest

from bncourse.notebooks import glue


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (np.float64(0.25), "0.25"),
        (np.int64(3), "3"),
        ("about 3", "about 3"),
        ("2,144", "'2,144'"),  # it was shown as (2, 144)
        ("0.030", "'0.030'"),  # it was shown as 0.03
    ],
)
def test_values_become_plain_text(monkeypatch: pytest.MonkeyPatch, value: Any, text: str) -> None:
    shown: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: shown.append((data, options)))
    glue("key", value)
    ((data, options),) = shown
    assert data == {"application/papermill.record/text/plain": text}
    assert options["metadata"]["scrapbook"]["name"] == "key"
