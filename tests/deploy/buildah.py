"""Images with buildah where there is no container engine: built for real, run in a chroot.

The registry's base image is replaced by one of the same name, made by debootstrap with Debian's own Python 3.11 at the
places where the real one has it. What pip is configured with on this machine, it is configured with in the build.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

PACKAGES = ("python3", "python3-venv", "ca-certificates")
SUITE = "bookworm"


@dataclass(frozen=True, slots=True)
class Buildah:
    """Commands on one storage, which belongs to nobody else."""

    storage: Path

    def __call__(self, *arguments: str, timeout_s: float = 1800) -> str:
        command = [*self.command, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            raise AssertionError(
                f"{shlex.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
            )
        return done.stdout.strip()

    @property
    def command(self) -> tuple[str, ...]:
        roots = ("--root", str(self.storage / "root"), "--runroot", str(self.storage / "run"))
        return ("buildah", "--storage-driver", "vfs", *roots)

    def has(self, image: str) -> bool:
        return image in self("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def config(self, image: str) -> dict[str, Any]:
        """The image's configuration, as Docker writes it."""
        inspected = json.loads(self("inspect", "--type", "image", image))
        found: dict[str, Any] = inspected["Docker"]["config"]
        return found

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        name = self("from", "--pull-never", image)
        try:
            yield name
        finally:
            self("rm", name)

    def make_base(self, image: str, work: Path) -> None:
        """A stand-in for the official Python image, under its name."""
        root = work / "base"
        if not (root / "usr/local/bin/python3").exists():
            debootstrap = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
            subprocess.run(debootstrap, check=True, stdout=subprocess.DEVNULL, timeout=900)
            for name in ("python", "python3", "python3.11"):
                (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
        container = self("from", "scratch")
        self("add", "--quiet", container, str(root), "/")
        self("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", container)
        self("commit", "--quiet", "--rm", container, image)

    def build(self, context: Path, target: str, tag: str, work: Path, arguments: Sequence[str] = ()) -> None:
        configuration, mounts = pip_configuration()
        file = work / "pip.conf"
        file.write_text(configuration, encoding="utf-8")
        volumes = [part for path in mounts for part in ("--volume", f"{path}:{path}:ro")]
        self(
            "build", "--isolation", "chroot", "--format", "docker", "--pull-never", "--target", target, "--tag", tag,
            "--secret", f"id=pip.conf,src={file}", *volumes, *arguments, str(context),
        )  # fmt: skip


def pip_configuration() -> tuple[str, list[Path]]:
    """What pip goes by here, as a configuration file, and the places on this machine that it names."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values: dict[str, str] = {}
    for line in listed.splitlines():  # the environment comes last, and goes before the files
        name, _, value = line.partition("=")
        values[name.split(".")[-1]] = value.strip("'").replace("\\n", " ")
    options = "\n".join(f"{name} = {value}" for name, value in values.items())
    places = {place for value in values.values() for word in value.split() if (place := _place(word))}
    return f"[global]\n{options}\n", sorted(places)


def _place(word: str) -> Path | None:
    """What a value of pip's configuration names; of an index its parent, since files may lie beside it."""
    url = urlparse(word)
    path = Path(url.path).parent if url.scheme == "file" else Path(word)
    return path if url.scheme in ("", "file") and path.is_absolute() and path.exists() else None
