"""Property tests draw the same examples in every run, and a busy machine may be slow."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
