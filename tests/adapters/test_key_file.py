"""The key file: what it may hold, and what happens when it changes."""

import asyncio
import json
import os
from pathlib import Path

import pytest
import structlog

from service.adapters.key_file import KeyFile, entry_text, parse_keys
from service.core.access import key_digest
from service.errors import ConfigError

KEY = b"rrk_one"
HASH = f"sha256:{key_digest(KEY).hex()}"
OTHER = b"rrk_two"
ENTRY = entry_text("shop", key_digest(KEY), ["answer", "rerank"], None)
OTHER_ENTRY = entry_text("search", key_digest(OTHER), ["rerank"], "5/minute")


class Reloads:
    """How often a change was taken over, and how often it was refused."""

    def __init__(self) -> None:
        self.results: list[bool] = []

    def __call__(self, is_taken_over: bool) -> None:
        self.results.append(is_taken_over)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(ENTRY)
    return path


@pytest.fixture
def reloads() -> Reloads:
    return Reloads()


@pytest.fixture
def keys(path: Path, reloads: Reloads) -> KeyFile:
    return KeyFile(path, interval_s=0.001, count_reload=reloads)


def test_entries_of_several_keys_are_a_file() -> None:
    keyring = parse_keys((ENTRY + OTHER_ENTRY).encode(), "keys")
    shop, search = keyring.find(KEY), keyring.find(OTHER)
    assert shop is not None
    assert search is not None
    assert (shop.name, shop.scopes, shop.rate_limit) == ("shop", frozenset({"answer", "rerank"}), None)
    assert (search.name, search.scopes, search.rate_limit) == ("search", frozenset({"rerank"}), "5/minute")


def test_json_will_do() -> None:
    text = json.dumps([{"name": "shop", "hash": HASH, "scopes": ["answer"]}])
    assert parse_keys(text.encode(), "keys").find(KEY) is not None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least 1"),
        ({}, "list"),
        ([{"name": "a", "hash": "secret", "scopes": ["answer"]}], "0.hash"),
        ([{"name": "a", "hash": HASH, "scopes": ["root"]}], "0.scopes.0"),
        ([{"name": "a", "hash": HASH, "scopes": []}], "0.scopes"),
        ([{"name": "a b\n", "hash": HASH, "scopes": ["answer"]}], "0.name"),
        ([{"name": "a", "hash": HASH, "scopes": ["answer"], "key": "k"}], "0.key"),
        ([{"name": "a", "hash": HASH, "scopes": ["answer"], "rate_limit": "many"}], "0.rate_limit"),
        ([{"name": n, "hash": HASH, "scopes": ["answer"]} for n in "ab"], "two entries have the hash"),
        (
            [{"name": "a", "hash": f"sha256:{n:064}", "scopes": ["answer"]} for n in range(2)],
            "two entries have the name a",
        ),
    ],
)
def test_what_is_wrong_is_named(rows: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(json.dumps(rows).encode(), "keys.yaml")
    assert "keys.yaml" in caught.value.message
    assert message in caught.value.message
    assert caught.value.field == "auth.key_file"


def test_every_mistake_is_named_and_no_value_shown() -> None:
    rows = [
        {"name": "a", "hash": "swordfish", "scopes": ["answer"]},
        {"name": "b", "hash": HASH, "scopes": "swordfish"},
    ]
    with pytest.raises(ConfigError) as caught:
        parse_keys(json.dumps(rows).encode(), "keys.yaml")
    assert "0.hash" in caught.value.message
    assert "1.scopes" in caught.value.message
    assert "swordfish" not in caught.value.message


@pytest.mark.parametrize("text", [b"- {", b"\xff\xfe\x00", b"!!python/object/apply:os.system ['true']"])
def test_what_is_no_yaml_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        parse_keys(text, "keys.yaml")


def test_no_file_no_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        KeyFile(tmp_path / "none.yaml", interval_s=1)


def test_an_entry_that_the_file_would_not_take_is_not_made() -> None:
    with pytest.raises(ConfigError, match=r"0\.scopes\.0"):
        entry_text("shop", key_digest(KEY), ["root"], None)


@pytest.mark.threat("T06")
async def test_a_changed_file_is_taken_over(keys: KeyFile, path: Path, reloads: Reloads) -> None:
    path.write_text(OTHER_ENTRY)
    await keys.refresh()
    assert keys.keyring().find(KEY) is None
    assert keys.keyring().find(OTHER) is not None
    await keys.refresh()
    assert reloads.results == [True]


@pytest.mark.threat("T06")
async def test_a_swapped_symlink_is_a_change(tmp_path: Path, reloads: Reloads) -> None:
    """As Kubernetes does it for what is mounted: `keys.yaml` → `..data/keys.yaml`, `..data` → a new directory."""
    for name, text in (("one", ENTRY), ("two", OTHER_ENTRY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.yaml").write_text(text)
        os.utime(tmp_path / name / "keys.yaml", (1, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "keys.yaml").symlink_to("..data/keys.yaml")
    keys = KeyFile(tmp_path / "keys.yaml", interval_s=1, count_reload=reloads)
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await keys.refresh()
    assert keys.keyring().find(OTHER) is not None
    assert reloads.results == [True]


@pytest.mark.parametrize("text", ["- {", "[]", None])
@pytest.mark.threat("T06")
async def test_a_broken_file_keeps_the_old_keys_and_is_told_once(
    keys: KeyFile, path: Path, reloads: Reloads, text: str | None
) -> None:
    path.unlink() if text is None else path.write_text(text)
    with structlog.testing.capture_logs() as logged:
        await keys.refresh()
        await keys.refresh()
    assert keys.keyring().find(KEY) is not None
    assert reloads.results == [False]
    assert [line["event"] for line in logged] == ["keys_not_reloaded"]
    path.write_text(OTHER_ENTRY)
    await keys.refresh()
    assert keys.keyring().find(OTHER) is not None
    assert reloads.results == [False, True]


async def test_a_broken_file_that_is_put_right_again_is_no_news(keys: KeyFile, path: Path, reloads: Reloads) -> None:
    path.write_text("- {")
    await keys.refresh()
    path.write_text(ENTRY)
    await keys.refresh()
    assert keys.keyring().find(KEY) is not None
    assert reloads.results == [False, True]


async def test_the_loop_looks_for_itself(keys: KeyFile, path: Path) -> None:
    task = asyncio.create_task(keys.run())
    path.write_text(OTHER_ENTRY)
    async with asyncio.timeout(5):
        while keys.keyring().find(OTHER) is None:  # noqa: ASYNC110 (the loop sets no event)
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
