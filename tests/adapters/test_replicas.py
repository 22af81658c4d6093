"""Which vLLM servers there are, and which of them get work."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from service.adapters.prompt_files import read_golden
from service.adapters.replicas import Replicas, resolve_host
from service.adapters.vllm_client import VllmClient
from service.errors import CheckpointError, EngineError
from service.settings import VllmSettings
from tests.fake_vllm import FakeVllm, by_shared_words, fake_replicas, prompt_tokenizer, running, until
from tests.fakes import Clock


def ranking_backwards(prompt: str) -> tuple[float, float]:
    true, false = by_shared_words(prompt)
    return false, true


def unreachable(_: httpx.Request) -> httpx.Response | None:
    raise httpx.ConnectError("connection refused")


def healthy(_: httpx.Request) -> httpx.Response | None:
    return None


def names_of(replicas: Replicas) -> list[str]:
    return list(replicas.ready())


@dataclass
class Dns:
    """Hosts and their addresses, and one vLLM at each address."""

    addresses: dict[str, Sequence[str]] = field(default_factory=dict)
    vllms: dict[str, FakeVllm] = field(default_factory=dict)
    clients: dict[str, VllmClient] = field(default_factory=dict)
    is_down: bool = False
    num_lookups: int = 0

    async def resolve(self, host: str) -> Sequence[str]:
        self.num_lookups += 1
        if self.is_down or host not in self.addresses:
            raise OSError(f"temporary failure in name resolution of {host}")
        return self.addresses[host]

    def open_client(self, _: VllmSettings, url: str) -> VllmClient:
        vllm = self.vllms.setdefault(httpx.URL(url).host, FakeVllm())
        self.clients[url] = VllmClient(vllm.http(url))
        return self.clients[url]

    @asynccontextmanager
    async def replicas(self, url: str = "http://vllm:8000") -> AsyncIterator[Replicas]:
        settings = VllmSettings(url=url, resolve=True, resolve_interval_s=0.001, health_interval_s=0.001)
        replicas = Replicas(
            settings, prompt_tokenizer(), read_golden(), resolve=self.resolve, open_client=self.open_client
        )
        async with aclosing(replicas):
            await replicas.check()
            async with running(replicas.run):
                yield replicas

    async def looked_up_again(self) -> None:
        before = self.num_lookups
        await until(lambda: self.num_lookups >= before + 2)  # the first may have begun before


# A list of URLs


async def test_all_that_are_up_are_ready_in_the_order_of_the_setting() -> None:
    vllms = FakeVllm(delay_s=0.01), FakeVllm()
    async with fake_replicas(*vllms, is_checked=False) as replicas:
        assert names_of(replicas) == []
        await replicas.check()
        assert names_of(replicas) == ["http://vllm-0", "http://vllm-1"]
        assert replicas.num_known == 2
    assert all(vllm.paths == ["/v1/models", "/tokenize", "/v1/completions"] for vllm in vllms)


async def test_url_that_is_listed_twice_is_one_replica() -> None:
    async with fake_replicas(FakeVllm(), url="http://vllm-0, http://vllm-0/") as replicas:
        assert names_of(replicas) == ["http://vllm-0"]


async def test_first_checks_are_made_at_the_same_time() -> None:
    vllms = [FakeVllm(delay_s=60) for _ in range(3)]
    async with fake_replicas(*vllms, is_checked=False, health_timeout_s=0.1) as replicas:
        async with asyncio.timeout(0.25):
            await replicas.check()
        assert names_of(replicas) == []


async def test_each_has_connections_of_its_own() -> None:
    async with fake_replicas(FakeVllm(), FakeVllm()) as replicas:
        clients = [engine.client for engine in replicas.ready().values()]
        await clients[0].aclose()
        with pytest.raises(EngineError):
            await clients[0].tokenize("fake", "text", timeout_s=5)
        assert await clients[1].tokenize("fake", "text", timeout_s=5)
    assert [client.url for client in clients] == ["http://vllm-0", "http://vllm-1"]


async def test_one_that_is_down_is_left_out_and_comes_back_by_itself() -> None:
    down = FakeVllm(instead=unreachable)
    async with fake_replicas(FakeVllm(), down, is_watched=True) as replicas:
        assert names_of(replicas) == ["http://vllm-0"]
        down.instead = healthy
        await until(lambda: names_of(replicas) == ["http://vllm-0", "http://vllm-1"])
        down.instead = unreachable
        await until(lambda: names_of(replicas) == ["http://vllm-0"])


async def test_hung_one_is_taken_out_though_it_accepts_calls() -> None:
    hung = FakeVllm()
    async with fake_replicas(FakeVllm(), hung, is_watched=True, health_timeout_s=0.05) as replicas:
        assert len(names_of(replicas)) == 2
        hung.delay_s = 60
        await until(lambda: names_of(replicas) == ["http://vllm-0"])
        assert "no canary score within 0.05 s" in replicas.reasons()["http://vllm-1"]


async def test_hung_one_does_not_slow_the_watch_over_the_others() -> None:
    vllm, hung = FakeVllm(), FakeVllm()
    async with fake_replicas(vllm, hung, is_watched=True):
        hung.delay_s = 60
        await until(lambda: hung.num_under_way)
        num_before = len(vllm.completions)
        await until(lambda: len(vllm.completions) > num_before + 3)
        assert hung.num_under_way == 1


async def test_smallest_context_of_the_ready_ones_counts() -> None:
    small = FakeVllm(max_model_len=300)
    async with fake_replicas(FakeVllm(max_model_len=512), small, is_watched=True) as replicas:
        assert replicas.max_model_len() == 300
        small.instead = unreachable
        await until(lambda: len(replicas.ready()) == 1)
        assert replicas.max_model_len() == 512


async def test_none_that_is_ready_is_an_engine_error_with_every_reason_and_no_address() -> None:
    hung = FakeVllm(delay_s=60)
    vllms = FakeVllm(instead=unreachable), hung, FakeVllm(instead=unreachable)
    async with fake_replicas(*vllms, health_timeout_s=0.02) as replicas:
        for ask in (replicas.require, replicas.max_model_len):
            with pytest.raises(EngineError, match="none of 3") as caught:
                ask()
            assert caught.value.message.count("connection refused") == 1
            assert "no canary score" in caught.value.message
            assert "http://" not in caught.value.message


async def test_many_reasons_are_told_in_short() -> None:
    def refusing(number: int) -> FakeVllm:
        return FakeVllm(instead=lambda _: httpx.Response(500, text=f"error {number}"))

    async with fake_replicas(*(refusing(number) for number in range(5))) as replicas:
        with pytest.raises(EngineError, match=r"error 0; .*error 2 and 2 more$"):
            replicas.require()


async def test_single_one_that_is_not_ready_is_told_as_its_reason() -> None:
    async with fake_replicas(FakeVllm(), is_checked=False) as replicas:
        with pytest.raises(EngineError, match=r"^the checkpoint has not been verified yet$"):
            replicas.require()


async def test_require_is_content_with_one() -> None:
    async with fake_replicas(FakeVllm(instead=unreachable), FakeVllm()) as replicas:
        replicas.require()


# Who is told


async def test_every_change_of_the_ready_ones_is_told_and_nothing_else() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, FakeVllm(), is_checked=False) as replicas:
        seen: list[list[str]] = []
        replicas.follow(lambda: seen.append(names_of(replicas)))
        await replicas.check()
        assert seen == [["http://vllm-0"], ["http://vllm-0", "http://vllm-1"]]
        async with running(replicas.run):
            await until(lambda: len(vllm.completions) > 3)
            assert len(seen) == 2
            vllm.instead = unreachable
            await until(lambda: len(seen) == 3)
        assert seen[2] == ["http://vllm-1"]


async def test_mapping_of_ready_ones_does_not_change_under_who_holds_it() -> None:
    async with fake_replicas(FakeVllm(), FakeVllm()) as replicas:
        held = replicas.ready()
        replicas.suspect("http://vllm-0")
        assert list(held) == ["http://vllm-0", "http://vllm-1"]
        assert names_of(replicas) == ["http://vllm-1"]


async def test_numbers_of_ready_and_known_are_observed() -> None:
    seen: list[tuple[int, int]] = []
    vllms = {"http://a": FakeVllm(), "http://b": FakeVllm()}
    replicas = Replicas(
        VllmSettings(url="http://a,http://b"), prompt_tokenizer(), read_golden(),
        observe=lambda *numbers: seen.append(numbers), open_client=lambda _, url: VllmClient(vllms[url].http(url)),
    )  # fmt: skip
    async with aclosing(replicas):
        await replicas.check()
        replicas.suspect("http://b")
    assert seen == [(0, 2), (1, 2), (2, 2), (1, 2)]


async def test_summary_names_what_is_served_where_and_what_is_wrong() -> None:
    down = FakeVllm(instead=unreachable)
    async with fake_replicas(FakeVllm(), down) as replicas:
        summary = replicas.summary()
        assert summary.startswith("1 of 2 ready: serving fake at http://vllm-0; http://vllm-1: vLLM can't be reached")
    async with fake_replicas(FakeVllm(), FakeVllm()) as replicas:
        assert replicas.summary() == "serving fake at http://vllm-0, fake at http://vllm-1"
    async with fake_replicas(down) as replicas:
        assert replicas.summary().startswith("0 of 1 ready; http://vllm-0: vLLM can't be reached")


# Suspicion


async def test_suspect_is_out_at_once_and_back_after_a_successful_trial() -> None:
    clock, vllm = Clock(), FakeVllm()
    async with fake_replicas(vllm, FakeVllm(), is_watched=True, clock=clock, health_interval_s=60) as replicas:
        clock.advance(60)
        replicas.suspect("http://vllm-0", "connection reset")
        assert names_of(replicas) == ["http://vllm-1"]
        assert replicas.reasons() == {"http://vllm-0": "connection reset"}
        await until(lambda: len(replicas.ready()) == 2)  # long before the interval is over
    assert vllm.paths == ["/v1/models", "/tokenize", "/v1/completions"]


async def test_suspect_whose_trial_fails_stays_out() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, FakeVllm(), is_watched=True) as replicas:
        vllm.instead = unreachable
        replicas.suspect("http://vllm-0")
        await until(lambda: len(vllm.calls) > 2)
        assert names_of(replicas) == ["http://vllm-1"]


async def test_suspect_again_soon_after_its_trial_waits_for_the_next_check_where_others_can_work() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, FakeVllm(), is_watched=True, health_interval_s=60) as replicas:
        replicas.suspect("http://vllm-0")  # it was verified only now
        await asyncio.sleep(0.05)
        assert names_of(replicas) == ["http://vllm-1"]
        assert vllm.calls == []


async def test_only_one_that_is_suspect_again_is_tried_at_once() -> None:
    async with fake_replicas(FakeVllm(), is_watched=True, health_interval_s=60) as replicas:
        for _ in range(3):
            replicas.suspect("http://vllm-0")
            assert names_of(replicas) == []
            await until(lambda: replicas.ready())


async def test_suspicion_of_one_that_is_out_or_unknown_changes_nothing() -> None:
    async with fake_replicas(FakeVllm(instead=unreachable), FakeVllm()) as replicas:
        before = replicas.reasons()
        replicas.suspect("http://vllm-0", "another reason")
        replicas.suspect("http://vllm-9")
        assert replicas.reasons() == before
        assert names_of(replicas) == ["http://vllm-1"]


# Wrong checkpoints


async def test_wrong_checkpoint_as_the_only_answer_stops_the_start() -> None:
    vllms = FakeVllm(logprobs=ranking_backwards), FakeVllm(instead=unreachable)
    async with fake_replicas(*vllms, is_checked=False) as replicas:
        with pytest.raises(CheckpointError, match="golden"):
            await replicas.check()


async def test_wrong_checkpoint_beside_a_right_one_is_kept_out_until_it_is_right() -> None:
    wrong = FakeVllm(logprobs=ranking_backwards)
    async with fake_replicas(wrong, FakeVllm(), is_watched=True) as replicas:
        await until(lambda: len(wrong.completions) > 2)
        assert names_of(replicas) == ["http://vllm-1"]
        assert "golden" in replicas.summary()
        wrong.logprobs = by_shared_words
        await until(lambda: len(replicas.ready()) == 2)


async def test_watch_dies_of_a_first_checkpoint_that_is_wrong() -> None:
    vllm = FakeVllm(instead=unreachable)
    async with fake_replicas(vllm, FakeVllm(instead=unreachable)) as replicas:
        vllm.instead, vllm.logprobs = healthy, ranking_backwards
        with pytest.raises(CheckpointError):
            await asyncio.wait_for(replicas.run(), 5)


async def test_watch_outlives_a_later_checkpoint_that_is_wrong() -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, is_watched=True) as replicas:
        vllm.instead = unreachable
        await until(lambda: not replicas.ready())
        vllm.instead, vllm.logprobs = healthy, ranking_backwards
        await until(lambda: "golden" in replicas.summary())
        with pytest.raises(EngineError, match="golden"):
            replicas.require()
        vllm.logprobs = by_shared_words
        await until(replicas.ready)


# A host name


async def test_every_address_of_the_host_is_a_replica() -> None:
    dns = Dns({"vllm": ["10.0.0.1", "10.0.0.2"]})
    async with dns.replicas() as replicas:
        assert names_of(replicas) == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]


async def test_path_of_the_url_is_that_of_every_address() -> None:
    dns = Dns({"vllm": ["10.0.0.1"]}, {"10.0.0.1": FakeVllm(instead=unreachable)})
    async with dns.replicas("http://vllm/base/") as replicas:
        assert list(replicas.reasons()) == ["http://10.0.0.1/base"]


async def test_addresses_of_ipv6_are_written_in_brackets() -> None:
    dns = Dns({"vllm": ["fd00::1"]})
    async with dns.replicas() as replicas:
        assert names_of(replicas) == ["http://[fd00::1]:8000"]


async def test_several_hosts_may_share_addresses() -> None:
    dns = Dns({"a": ["10.0.0.1", "10.0.0.2"], "b": ["10.0.0.2", "10.0.0.3"]})
    async with dns.replicas("http://a,http://b") as replicas:
        assert names_of(replicas) == ["http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3"]


async def test_new_address_is_verified_before_it_gets_work() -> None:
    dns = Dns({"vllm": ["10.0.0.1"]})
    dns.vllms["10.0.0.2"] = new = FakeVllm(instead=unreachable)
    async with dns.replicas("http://vllm") as replicas:
        dns.addresses["vllm"] = ["10.0.0.1", "10.0.0.2"]
        await until(lambda: new.calls)
        assert (names_of(replicas), replicas.num_known) == (["http://10.0.0.1"], 2)
        new.instead = healthy
        await until(lambda: names_of(replicas) == ["http://10.0.0.1", "http://10.0.0.2"])


async def test_new_address_is_checked_at_once_and_not_after_an_interval() -> None:
    dns = Dns({"vllm": ["10.0.0.1"]})
    settings = VllmSettings(url="http://vllm", resolve=True, resolve_interval_s=0.001, health_interval_s=60)
    replicas = Replicas(settings, prompt_tokenizer(), read_golden(), resolve=dns.resolve, open_client=dns.open_client)
    async with aclosing(replicas):
        await replicas.check()
        async with running(replicas.run):
            dns.addresses["vllm"] = ["10.0.0.2"]
            await until(lambda: names_of(replicas) == ["http://10.0.0.2"])


async def test_address_that_vanishes_is_out_at_once_and_no_longer_watched() -> None:
    dns = Dns({"vllm": ["10.0.0.1", "10.0.0.2"]})
    async with dns.replicas("http://vllm") as replicas:
        gone = replicas.ready()["http://10.0.0.1"]
        dns.addresses["vllm"] = ["10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.2"])
        assert replicas.num_known == 1
        with pytest.raises(EngineError, match="no longer one of the host's"):
            gone.model()
        await dns.looked_up_again()
        num_calls = len(dns.vllms["10.0.0.1"].calls)
        await dns.looked_up_again()
        assert len(dns.vllms["10.0.0.1"].calls) == num_calls
        assert replicas.reasons() == {}


async def test_address_that_vanishes_finishes_what_it_has_begun_and_takes_no_more() -> None:
    dns = Dns({"vllm": ["10.0.0.1", "10.0.0.2"]})
    async with dns.replicas("http://vllm") as replicas:
        client = replicas.ready()["http://10.0.0.1"].client
        dns.vllms["10.0.0.1"].delay_s = 0.1
        call = asyncio.create_task(client.tokenize("fake", "text", timeout_s=5))
        await asyncio.sleep(0)
        dns.addresses["vllm"] = ["10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.2"])
        assert await call
        await dns.looked_up_again()
        with pytest.raises(EngineError, match="no longer in use"):
            await client.tokenize("fake", "text", timeout_s=5)


async def test_address_that_comes_back_is_a_replica_again() -> None:
    dns = Dns({"vllm": ["10.0.0.1", "10.0.0.2"]})
    async with dns.replicas("http://vllm") as replicas:
        dns.addresses["vllm"] = ["10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.2"])
        dns.addresses["vllm"] = ["10.0.0.1", "10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.1", "http://10.0.0.2"])
        assert await replicas.ready()["http://10.0.0.1"].client.tokenize("fake", "text", timeout_s=5)


@pytest.mark.parametrize("has_answer", [False, True])
async def test_resolver_without_an_answer_takes_nothing_away(has_answer: bool) -> None:
    dns = Dns({"vllm": ["10.0.0.1"]})
    async with dns.replicas("http://vllm") as replicas:
        before = replicas.ready()
        dns.is_down = not has_answer
        dns.addresses["vllm"] = []
        await dns.looked_up_again()
        assert dict(replicas.ready()) == dict(before)
        assert "vllm" in replicas.summary()
        dns.is_down, dns.addresses["vllm"] = False, ["10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.2"])
        assert replicas.reasons() == {}


async def test_one_host_that_can_not_be_resolved_leaves_the_others_alone() -> None:
    dns = Dns({"a": ["10.0.0.1"]})
    async with dns.replicas("http://a,http://b") as replicas:
        assert names_of(replicas) == ["http://10.0.0.1"]
        dns.addresses["b"] = ["10.0.0.2"]
        await until(lambda: names_of(replicas) == ["http://10.0.0.1", "http://10.0.0.2"])


async def test_host_without_addresses_at_start_is_an_engine_error_until_it_has_some() -> None:
    dns = Dns()
    async with dns.replicas("http://vllm") as replicas:
        with pytest.raises(EngineError, match="vllm can't be resolved: temporary failure"):
            replicas.require()
        dns.addresses["vllm"] = ["10.0.0.1"]
        await until(replicas.ready)
        replicas.require()


async def test_failing_resolver_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    dns = Dns({"vllm": ["10.0.0.1"]})
    async with dns.replicas("http://vllm"):
        dns.is_down = True
        await dns.looked_up_again()
        await dns.looked_up_again()
    assert capsys.readouterr().out.count("host_not_resolved") == 1


async def test_addresses_come_from_the_system() -> None:
    assert await resolve_host("127.0.0.1") == ["127.0.0.1"]
    assert await resolve_host("::1") == ["::1"]
    with pytest.raises(OSError, match=r".+"):
        await resolve_host("no-such-host.invalid")


# Priorities


@pytest.mark.parametrize(("is_on", "checks", "answers"), [(True, -2, -1), (False, None, None)])
async def test_checks_are_the_most_urgent_and_answers_come_before_scores(
    is_on: bool, checks: int | None, answers: int | None
) -> None:
    vllm = FakeVllm()
    async with fake_replicas(vllm, is_checked=False, priority_scheduling=is_on) as replicas:
        await replicas.check()
        assert replicas.generation_priority == answers
    assert [body.get("priority") for body in vllm.completions] == [checks]
    assert ("priority" in vllm.completions[0]) is is_on
