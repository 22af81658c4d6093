"""Files that are mapped while in use: every way to change them shows, and putting them right does, too."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.adapters.index_files import IndexFiles, check_digests, file_digests
from service.errors import ConfigError, IndexUnavailableError

NAME, CONTENT = "passages.arrow", b"Mont Blanc rises to 4,806 metres."


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / NAME).write_bytes(CONTENT)
    return tmp_path


def opened(directory: Path) -> IndexFiles:
    return IndexFiles(directory, [NAME], file_digests(directory, [NAME]))


def test_untouched_files_may_be_used(directory: Path) -> None:
    files = opened(directory)
    files.require()
    assert files.changed() == []


@pytest.mark.parametrize("content", [CONTENT[:5], CONTENT.swapcase(), b""])
def test_a_file_that_is_written_to_is_out(directory: Path, content: bytes) -> None:
    files = opened(directory)
    (directory / NAME).write_bytes(content)
    with pytest.raises(IndexUnavailableError, match=NAME):
        files.require()
    files.verify()
    assert files.changed() == [NAME]


def test_a_file_that_is_whole_again_is_back(directory: Path) -> None:
    files = opened(directory)
    (directory / NAME).write_bytes(b"nonsense")
    (directory / NAME).write_bytes(CONTENT)
    assert files.changed() == [NAME]
    files.verify()
    files.require()


def test_without_digests_nobody_knows_and_it_stays_out(directory: Path) -> None:
    files = IndexFiles(directory, [NAME], None)
    (directory / NAME).write_bytes(CONTENT)
    files.verify()
    assert files.changed() == [NAME]


def test_another_file_in_its_place_changes_nothing_that_is_mapped(directory: Path) -> None:
    files = opened(directory)
    (directory / "new").write_bytes(b"another index")
    (directory / "new").rename(directory / NAME)
    files.require()
    (directory / NAME).unlink()
    files.require()


def test_a_file_that_is_missing_is_a_config_error(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens\.npy"):
        IndexFiles(directory, ["tokens.npy"], None)


def test_digests_name_the_file_that_is_not_as_it_was_written(directory: Path) -> None:
    digests = file_digests(directory, [NAME])
    check_digests(directory, digests)
    (directory / NAME).write_bytes(CONTENT.replace(b"4,806", b"4,807"))
    with pytest.raises(ConfigError, match=f"{NAME} is not what was written"):
        check_digests(directory, digests)
    (directory / NAME).unlink()
    with pytest.raises(ConfigError, match=f"{NAME} can't be read"):
        check_digests(directory, digests)


async def test_the_watch_says_so_once_and_takes_the_file_back(directory: Path) -> None:
    files = opened(directory)
    (directory / NAME).write_bytes(b"nonsense")
    with capture_logs() as logs:
        watch = asyncio.create_task(files.watch(interval_s=0.001))
        await asyncio.sleep(0.1)
        (directory / NAME).write_bytes(CONTENT)
        async with asyncio.timeout(5):
            while files.changed():  # noqa: ASYNC110 (what is waited for sets no event)
                await asyncio.sleep(0.001)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    assert [entry["event"] for entry in logs] == ["index_changed_in_use", "index_file_whole_again"]
