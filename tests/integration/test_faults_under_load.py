"""The short form of `make chaos`: one part after another breaks while requests keep coming."""

import random
from pathlib import Path

import pytest

from tests.chaos.asks import demo_pool
from tests.chaos.faults import SHORT
from tests.chaos.run import PROBE, Plan, break_things, show
from tests.chaos.stack import open_stack
from tests.integration.conftest import CHECKPOINT, INDEX, ROOT, Vllm

PLAN = Plan(rate=8.0, quiet_s=1.0, num_requests=400, lasts=0.5)


@pytest.mark.timeout(400)
async def test_every_promise_is_kept_while_things_break(vllm: Vllm, tmp_path: Path) -> None:
    pool = demo_pool(ROOT, random.Random(PLAN.seed))
    probe = pool.ask(PROBE, next(iter(pool.documents)))
    async with open_stack(vllm, INDEX, CHECKPOINT, tmp_path, probe) as stack:
        outcomes = await break_things(stack, pool, SHORT, PLAN)
    show(outcomes)
    assert outcomes.failures == []
    assert outcomes.num_requests >= PLAN.num_requests
    assert outcomes.totals["ok"] > outcomes.num_requests / 2
