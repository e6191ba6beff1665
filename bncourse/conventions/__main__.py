"""``python -m bncourse.conventions``."""

from bncourse.conventions.commands import app

app(prog_name="python -m bncourse.conventions")
