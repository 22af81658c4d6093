"""One app over fakes for each test."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeServices, client_of


@pytest.fixture
def fakes() -> FakeServices:
    return FakeServices()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def app(fakes: FakeServices, settings: Settings) -> FastAPI:
    return create_app(settings, fakes.open)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client
