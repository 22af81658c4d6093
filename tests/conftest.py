"""Examples have no deadline of their own: a busy machine is no failure (pytest-timeout bounds whole tests)."""

from hypothesis import settings

settings.register_profile("rankrag", deadline=None)
settings.load_profile("rankrag")
