"""The page at `/` that shows what the service does; it asks /answer as any other caller."""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from service.core.access import PLAYGROUND

FILES = Path(str(files("service.playground")))


def add_playground(app: FastAPI) -> None:
    """The page and what it loads, neither of them in the OpenAPI document: they are for people."""
    app.add_api_route("/", _page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount(PLAYGROUND, StaticFiles(directory=FILES))


def _page() -> FileResponse:
    return FileResponse(FILES / "index.html", media_type="text/html")
