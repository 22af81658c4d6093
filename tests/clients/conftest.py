"""Where the services are that `python -m tests.clients.run` has started, and which clients this environment has."""

import os
from importlib import import_module
from pathlib import Path

import pytest

from tests.clients.contract import Place


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """OpenAI's SDK is in one environment only."""
    return True if collection_path.name == "test_openai.py" and os.environ["CLIENTS_MODULE"] != "current" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "client" in metafunc.fixturenames:
        clients = import_module(f"tests.clients.{os.environ['CLIENTS_MODULE']}").CLIENTS
        metafunc.parametrize("client", clients, ids=[client.name for client in clients])


@pytest.fixture
def service() -> Place:
    return Place(os.environ["CLIENTS_SERVICE_URL"], os.environ["CLIENTS_KEY"])


@pytest.fixture
def busy_service() -> Place:
    """One that has no room for anything."""
    return Place(os.environ["CLIENTS_BUSY_URL"], os.environ["CLIENTS_KEY"])
