"""Tools for the book's notebooks: figures for the prose (`glue`), execution, and hygiene."""

from bncourse.notebooks.glueing import glue

__all__ = ["glue"]
