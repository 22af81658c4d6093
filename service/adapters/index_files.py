"""The files of an index while it is in use: whole when it is opened, and not written to afterwards.

Passages and token ids are read from mapped files, so whoever writes into them changes what questions find, and whoever
cuts one short kills the process that reads it. A new index takes the old one's place by renaming, which leaves the
mapped files as they were.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.errors import ConfigError, IndexUnavailableError

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S = 1.0


def file_digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 by name. About a second for each GB."""
    return {name: _digest(directory / name) for name in names}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digests(directory: Path, digests: Mapping[str, str]) -> None:
    """Raises ConfigError for the first file that is missing or not as it was written."""
    for name, digest in digests.items():
        try:
            found = _digest(directory / name)
        except OSError as exc:
            raise ConfigError(f"{directory / name} can't be read: {exc.strerror}", field="index.path") from exc
        if found != digest:
            raise ConfigError(
                f"{directory / name} is not what was written when the index was built: it is damaged, or a part of "
                "another index; build the index again",
                field="index.path",
            )


@dataclass(frozen=True, slots=True)
class _State:
    """Which file has a name, and what changes when it is written to."""

    device: int
    inode: int
    size: int
    written_ns: int

    def is_same_file(self, other: "_State") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


class IndexFiles:
    """Mapped files, by name. One that another took the name of is out of everybody's reach, and as it was.

    `digests` tell whether one that was written to is whole again; without them it stays out until a restart.
    """

    def __init__(self, directory: Path, names: Iterable[str], digests: Mapping[str, str] | None) -> None:
        """Raises ConfigError where one is missing."""
        self._directory = directory.resolve()
        self._digests = digests or {}
        self._whole: dict[str, _State] = {}
        for name in names:
            state = self._state(name)
            if state is None:
                raise ConfigError(f"{directory / name} can't be read: there is no such file", field="index.path")
            self._whole[name] = state

    def changed(self) -> list[str]:
        """Those that were written to since they were last known to be whole. Costs microseconds."""
        return [name for name in self._whole if self._is_changed(name)]

    def require(self) -> None:
        """Raises IndexUnavailableError while one is changed."""
        if names := self.changed():
            raise IndexUnavailableError(f"the index was written to while in use: {', '.join(names)}")

    def verify(self) -> None:
        """Read those that are changed, and take them back if they are as they were built. About a second a GB."""
        for name in self.changed():
            state = self._state(name)
            if state is not None and name in self._digests and self._is_as_built(name):
                self._whole[name] = state
                log.info("index_file_whole_again", file=name)

    async def watch(self, *, interval_s: float = CHECK_INTERVAL_S) -> None:
        """Follow the files for ever: say when one is changed, and find out when it is whole again."""
        told: list[str] = []
        while True:
            await asyncio.sleep(interval_s)
            changed = self.changed()
            if changed and changed != told:
                log.error("index_changed_in_use", files=changed)
            told = changed
            if changed:
                await asyncio.to_thread(self.verify)

    def _is_changed(self, name: str) -> bool:
        state = self._state(name)
        return state is not None and state.is_same_file(self._whole[name]) and state != self._whole[name]

    def _is_as_built(self, name: str) -> bool:
        try:
            return _digest(self._directory / name) == self._digests[name]
        except OSError:  # it has just gone; what is mapped stays
            return False

    def _state(self, name: str) -> _State | None:
        try:
            found = (self._directory / name).stat()
        except OSError:
            return None
        return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
