"""What goes to vLLM and to the service: the same prompts on every way."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.traffic import Request
from loadtest.wire import PrefixCounters, Wire, read_kv_cache, read_prefix_counters, rerank_call
from service.adapters.prompt_files import read_prompts
from service.adapters.tokenizer import PromptTokenizer, open_tokenizer
from service.errors import EngineError
from service.types import Passage

CHECKPOINT = Path(__file__).parents[2] / "models" / "demo"
PASSAGES = (Passage("0", "Mont Blanc rises to 4,806 metres.", "Mont Blanc"), Passage("1", "The Rhine is a river."))
REQUESTS = [Request("How high is Mont Blanc?", PASSAGES), Request("What is the Rhine?", PASSAGES)]
METRICS = """\
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 500.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 300.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",num_gpu_blocks="3072"} 1.0
"""


@pytest.fixture(scope="module")
def wire() -> Wire:
    tokenizer = PromptTokenizer(open_tokenizer(CHECKPOINT), read_prompts("rankrag-v1").prompts)
    return Wire("m", 2047, tokenizer.labels(), tokenizer)


def test_every_way_sends_the_same_prompts(wire: Wire) -> None:
    prompts = wire.prompts(REQUESTS)
    assert len(prompts) == 4
    lists = wire.list_calls(REQUESTS, 3)
    assert [call.num_pairs for call in lists] == [3, 1]
    assert [prompt for call in lists for prompt in call.body["prompt"]] == prompts
    assert [call.body["prompt"][0] for call in wire.list_calls(REQUESTS, 1)] == prompts
    generative = wire.generative_calls(REQUESTS)
    assert [call.num_pairs for call in generative] == [2, 2]
    assert [prompt for call in generative for prompt in call.body["items"]] == prompts


def test_ours_gets_texts_and_titles_where_there_are_any() -> None:
    call = rerank_call(REQUESTS[0], use_cache=False, deadline_s=1.5)
    assert call.body["documents"] == [
        {"text": "Mont Blanc rises to 4,806 metres.", "title": "Mont Blanc"},
        "The Rhine is a river.",
    ]
    assert (call.num_pairs, call.body["cache"], call.body["deadline_ms"]) == (2, False, 1500)
    assert rerank_call(replace(REQUESTS[0], passages=PASSAGES[:1]), use_cache=True).num_pairs == 1


def test_prefix_counters_are_summed_and_compared() -> None:
    counters = read_prefix_counters(METRICS)
    assert counters == PrefixCounters(1500, 300)
    assert counters.hit_rate_since(PrefixCounters(500, 100)) == 0.2
    assert counters.hit_rate_since(counters) == 0
    assert counters + PrefixCounters(1, 1) == PrefixCounters(1501, 301)


def test_the_kv_cache_is_as_vllm_tells() -> None:
    cache = read_kv_cache(METRICS)
    assert (cache.num_blocks, cache.block_size) == (3072, 32)
    with pytest.raises(EngineError):
        read_kv_cache("")
