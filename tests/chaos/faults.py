"""What goes wrong: how each fault begins, how it ends, and what callers may see of it."""

import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.stack import Stack

Begin = Callable[[Stack], Awaitable[None]]
End = Callable[[Stack], Awaitable[float]]

# An engine that can't be reached, is slow or was just told to do more than it can.
ENGINE_ERRORS = frozenset({"engine_unavailable", "engine_overloaded", "overloaded", "deadline_exceeded"})
NO_ERRORS: frozenset[str] = frozenset()
CONFIG_EXIT = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """`end` returns the moment at which nothing was wrong any more; recovery counts from there. What was ended and
    has to be started again, be it vLLM, Redis or the service, is wrong until it answers.

    Callers may see the errors in `codes` and nothing else; with `may_degrade` declared degradations too.
    """

    name: str
    begin: Begin
    end: End
    codes: frozenset[str] = NO_ERRORS
    may_degrade: bool = False
    lasts_s: float = 6.0


# --- vLLM ---


async def _kill_vllm(stack: Stack) -> None:
    await asyncio.to_thread(stack.vllm.kill)


async def _restart_vllm(stack: Stack) -> float:
    """Which takes half a minute."""
    await asyncio.to_thread(stack.vllm.restart)
    return time.monotonic()


async def _stop_vllm(stack: Stack) -> None:
    stack.vllm.signal_all(signal.SIGSTOP)


async def _continue_vllm(stack: Stack) -> float:
    stack.vllm.signal_all(signal.SIGCONT)
    return time.monotonic()


async def _slow_vllm(stack: Stack) -> None:
    stack.vllm_proxy.slow(0.3)


async def _silence_vllm(stack: Stack) -> None:
    stack.vllm_proxy.silence()


async def _cut_vllm(stack: Stack) -> None:
    await stack.vllm_proxy.cut()


async def _heal_vllm(stack: Stack) -> float:
    await stack.vllm_proxy.heal()
    return time.monotonic()


# --- Redis ---


async def _kill_redis(stack: Stack) -> None:
    await stack.kill_redis()


async def _restart_redis(stack: Stack) -> float:
    return await stack.start_redis()


async def _fill_redis(stack: Stack) -> None:
    """Full before the next write: every one is refused, reads go on."""
    await stack.configure_redis(maxmemory_policy="noeviction", maxmemory="1")


async def _empty_redis(stack: Stack) -> float:
    await stack.configure_redis(maxmemory="0")
    return time.monotonic()


async def _slow_redis(stack: Stack) -> None:
    stack.redis_proxy.slow(0.5)


async def _silence_redis(stack: Stack) -> None:
    stack.redis_proxy.silence()


async def _heal_redis(stack: Stack) -> float:
    await stack.redis_proxy.heal()
    return time.monotonic()


# --- the index ---

_MAPPED = ("passages.arrow", "tokens.npy", "token_offsets.npy")


async def _damage_index(stack: Stack) -> None:
    """As a copy over a live index does that is cut off: some files half, one with other bytes, all in place."""
    for name in _MAPPED:
        path = stack.index / name
        content = path.read_bytes()
        shutil.copyfile(path, stack.directory / name)
        path.write_bytes(content[: len(content) // 2] if name != "tokens.npy" else content[:128] + content[128:][::-1])


async def _mend_index(stack: Stack) -> float:
    for name in _MAPPED:
        (stack.index / name).write_bytes((stack.directory / name).read_bytes())
    return time.monotonic()


async def _start_over_damage(stack: Stack) -> None:
    """One wrong byte in the vectors: another replica refuses to start, and says which file."""
    damaged = stack.directory / "damaged"
    shutil.copytree(stack.index, damaged)
    content = bytearray((damaged / "vectors.faiss").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "vectors.faiss").write_bytes(content)
    code, said = await stack.start_beside(damaged)
    assert code == CONFIG_EXIT, f"exit code {code}: {said[-1000:]}"
    assert "vectors.faiss is not what was written" in said, said[-1000:]


async def _nothing_to_mend(stack: Stack) -> float:
    shutil.rmtree(stack.directory / "damaged")
    return time.monotonic()


async def _swap_index(stack: Stack) -> None:
    """Another index in its place, as `rankrag index build` puts it there; the service keeps the one that it opened."""
    _rename_over(stack.index, stack.directory / "other-index", stack.directory / "first-index")


async def _restart_with_the_other(stack: Stack) -> float:
    await stack.terminate_service()
    return await stack.start_service()


def _rename_over(place: Path, new: Path, old: Path) -> None:
    place.rename(old)
    new.rename(place)


async def _swap_back(stack: Stack) -> None:
    _rename_over(stack.index, stack.directory / "first-index", stack.directory / "other-index")


# --- the service ---


async def _terminate_service(stack: Stack) -> None:
    await stack.terminate_service()


async def _kill_service(stack: Stack) -> None:
    await stack.kill_service()


async def _start_service(stack: Stack) -> float:
    return await stack.start_service()


async def _start_two_workers(stack: Stack) -> float:
    return await stack.start_service(workers=2)


ALL = (
    Fault("vLLM hangs (SIGSTOP)", _stop_vllm, _continue_vllm, ENGINE_ERRORS, may_degrade=True, lasts_s=10),
    Fault("connections to vLLM are slow", _slow_vllm, _heal_vllm, ENGINE_ERRORS, may_degrade=True, lasts_s=15),
    Fault("connections to vLLM are cut", _cut_vllm, _heal_vllm, ENGINE_ERRORS, may_degrade=True, lasts_s=10),
    Fault("connections to vLLM go silent", _silence_vllm, _heal_vllm, ENGINE_ERRORS, may_degrade=True, lasts_s=10),
    Fault("Redis is killed", _kill_redis, _restart_redis, lasts_s=10),
    Fault("Redis is full (noeviction)", _fill_redis, _empty_redis, lasts_s=10),
    Fault("Redis is slow", _slow_redis, _heal_redis, lasts_s=15),
    Fault("Redis goes silent", _silence_redis, _heal_redis, lasts_s=10),
    Fault("the index is written to in use", _damage_index, _mend_index, frozenset({"index_unavailable"}), lasts_s=10),
    Fault("a replica starts over a damaged index", _start_over_damage, _nothing_to_mend, lasts_s=0),
    Fault(
        "the index is swapped, then a restart",
        _swap_index,
        _restart_with_the_other,
        ENGINE_ERRORS,
        may_degrade=True,
        lasts_s=10,
    ),
    Fault("the index is swapped back", _swap_back, _restart_with_the_other, ENGINE_ERRORS, may_degrade=True, lasts_s=3),
    Fault("SIGTERM, then a start", _terminate_service, _start_service, ENGINE_ERRORS, may_degrade=True, lasts_s=0),
    Fault("the service is killed (SIGKILL)", _kill_service, _start_service, ENGINE_ERRORS, may_degrade=True, lasts_s=0),
    Fault(
        "SIGTERM, then two workers", _terminate_service, _start_two_workers, ENGINE_ERRORS, may_degrade=True, lasts_s=0
    ),
    Fault(
        "SIGTERM to two workers, then a start",
        _terminate_service,
        _start_service,
        ENGINE_ERRORS,
        may_degrade=True,
        lasts_s=0,
    ),
    Fault("vLLM is killed", _kill_vllm, _restart_vllm, ENGINE_ERRORS, may_degrade=True, lasts_s=4),
)

# For every `make test`: what costs no start of vLLM, which the other tests do.
SHORT = tuple(
    fault
    for fault in ALL
    if fault.name
    in {
        "vLLM hangs (SIGSTOP)", "connections to vLLM are cut", "connections to vLLM go silent", "Redis is killed",
        "Redis is full (noeviction)", "Redis is slow", "the index is written to in use",
        "SIGTERM, then a start", "the service is killed (SIGKILL)",
    }
)  # fmt: skip
