"""``python -m bncourse`` is the command ``bncourse``."""

from bncourse.cli import app

app()
