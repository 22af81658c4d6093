"""Examples have no deadline of their own: a busy machine is no failure (pytest-timeout bounds whole tests).

Apps that tests make are open and on one port, unless a test says otherwise.
"""

import os

import structlog
from hypothesis import settings

from service.local_stack import LOCAL_ENVIRONMENT

os.environ.update(LOCAL_ENVIRONMENT)

settings.register_profile("rankrag", deadline=None)
settings.load_profile("rankrag")

# structlog's own default shows a traceback with all its variables, which takes seconds.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
