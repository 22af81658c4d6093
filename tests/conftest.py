"""Examples have no deadline of their own: a busy machine is no failure (pytest-timeout bounds whole tests)."""

import structlog
from hypothesis import settings

settings.register_profile("rankrag", deadline=None)
settings.load_profile("rankrag")

# structlog's own default shows a traceback with all its variables, which takes seconds.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
