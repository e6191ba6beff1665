"""``python -m bncourse.notebooks``, for a copy of the course that is not installed."""

from bncourse.notebooks.commands import app

app(prog_name="python -m bncourse.notebooks")
