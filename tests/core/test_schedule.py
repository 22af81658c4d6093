"""What the scheduler chooses: who goes first, what goes together, how calls are cut."""

from collections import Counter

import pytest

from service.core.schedule import Call, Limits, Pair, Scheduler

LIMITS = Limits(
    max_prompts_per_call=8, max_tokens_per_call=800, window_tokens=3200, max_calls=32, quantum_tokens=200
)  # fmt: skip


def scheduler(limits: Limits = LIMITS, replicas: tuple[str, ...] = ("a",)) -> Scheduler:
    made = Scheduler(limits)
    made.set_replicas(replicas)
    return made


def pairs(name: str, count: int, *, num_tokens: int = 100, group: str | None = None) -> list[Pair]:
    return [Pair(f"{name}{n}", group or f"passage of {name}{n}", num_tokens) for n in range(count)]


def keys(call: Call) -> list[str]:
    return [pair.key for pair in call.pairs]


def served(made: Scheduler, *, num_tokens: int) -> Counter[str]:
    """Tokens by request name, as the one replica works off what it holds, oldest call first."""
    done: Counter[str] = Counter()
    running: list[Call] = []
    while sum(done.values()) < num_tokens:
        running += made.schedule(0.0).calls
        call = running.pop(0)
        made.finish(call.id)
        for pair in call.pairs:
            done[pair.key.rstrip("0123456789")] += pair.num_tokens
    return done


def test_an_idle_replica_gets_a_small_request_whole_and_at_once() -> None:
    made = scheduler()
    made.add(1, pairs("x", 8), priority=1, deadline_s=9.0)
    (call,) = made.schedule(0.0).calls
    assert keys(call) == [f"x{n}" for n in range(8)]


def test_a_large_request_is_cut_so_that_the_next_call_waits_at_the_replica() -> None:
    made = scheduler(Limits(100, 10_000, 1600, quantum_tokens=200))
    made.add(1, pairs("x", 50), priority=1, deadline_s=9.0)
    assert [call.num_tokens for call in made.schedule(0.0).calls] == [400, 400, 400]
    assert made.num_waiting_pairs == 38


def test_what_waits_goes_as_soon_as_a_call_ends() -> None:
    made = scheduler()
    made.add(1, pairs("x", 40), priority=1, deadline_s=9.0)
    first, *_ = made.schedule(0.0).calls
    assert made.schedule(0.0).calls == ()
    made.finish(first.id)
    assert [call.num_tokens for call in made.schedule(0.0).calls] == [first.num_tokens]


def test_a_newcomer_finds_room_where_a_large_request_has_taken_all_it_may() -> None:
    made = scheduler()
    made.add(1, pairs("large", 40), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    made.add(2, pairs("small", 2), priority=1, deadline_s=9.0)
    assert [keys(call) for call in made.schedule(0.0).calls] == [["small0", "small1"]]


def test_an_oversized_pair_goes_alone_when_the_replica_is_idle() -> None:
    made = scheduler()
    made.add(1, [*pairs("x", 2), Pair("huge", "g", 5_000), *pairs("y", 2)], priority=1, deadline_s=9.0)
    (first,) = made.schedule(0.0).calls
    assert keys(first) == ["x0", "x1"]
    made.finish(first.id)
    (second,) = made.schedule(0.0).calls
    assert keys(second) == ["huge"]
    made.finish(second.id)
    (third,) = made.schedule(0.0).calls
    assert keys(third) == ["y0", "y1"]


@pytest.mark.parametrize("sizes", [(100, 100), (100, 30), (40, 170)])
def test_two_that_both_wait_get_equal_shares_whatever_their_size(sizes: tuple[int, int]) -> None:
    made = scheduler()
    made.add(1, pairs("big", 1000, num_tokens=sizes[0]), priority=1, deadline_s=9.0)
    made.add(2, pairs("other", 1000, num_tokens=sizes[1]), priority=1, deadline_s=9.0)
    done = served(made, num_tokens=20_000)
    assert abs(done["big"] - done["other"]) <= LIMITS.quantum_tokens + LIMITS.max_tokens_per_call


def test_what_a_request_adds_later_is_on_the_same_account() -> None:
    made = scheduler()
    more = pairs("x", 60)
    made.add(1, more[:20], priority=1, deadline_s=9.0)
    made.add(2, pairs("y", 60), priority=1, deadline_s=9.0)
    first = served(made, num_tokens=2000)
    assert made.add(1, more[20:], priority=1, deadline_s=9.0) == 0
    done = first + served(made, num_tokens=4000)
    assert abs(done["x"] - done["y"]) <= LIMITS.quantum_tokens + LIMITS.max_tokens_per_call


def test_a_request_waits_once_for_what_it_adds_twice() -> None:
    made = scheduler()
    made.add(1, pairs("x", 3), priority=1, deadline_s=9.0)
    assert made.add(1, pairs("x", 4), priority=1, deadline_s=9.0) == 0
    (call,) = made.schedule(0.0).calls
    assert keys(call) == ["x0", "x1", "x2", "x3"]
    assert made.finish(call.id) == dict.fromkeys(keys(call), (1,))


def test_a_newcomer_does_not_wait_for_those_who_came_first() -> None:
    made = scheduler()
    made.add(1, pairs("big", 1000), priority=1, deadline_s=9.0)
    running = list(made.schedule(0.0).calls)
    made.add(2, pairs("small", 5), priority=1, deadline_s=9.0)
    made.finish(running.pop(0).id)
    call, *_ = made.schedule(0.0).calls
    assert keys(call) == [f"small{n}" for n in range(5)]
    assert call.priority <= running[0].priority  # and an engine that orders by it takes it first


def test_a_newcomer_owes_nothing_and_is_owed_nothing_for_the_time_before_it_came() -> None:
    made = scheduler()
    made.add(1, pairs("old", 2000), priority=1, deadline_s=9.0)
    served(made, num_tokens=50_000)
    made.add(2, pairs("new", 2000), priority=1, deadline_s=9.0)
    done = served(made, num_tokens=20_000)
    assert abs(done["old"] - done["new"]) <= LIMITS.quantum_tokens + LIMITS.window_tokens


def test_small_requests_without_end_leave_a_large_one_its_share() -> None:
    made, running, done, number = scheduler(), list[Call](), Counter[int](), 0
    made.add(number, pairs("large", 5000), priority=1, deadline_s=9.0)
    for _ in range(400):
        while sum(done[small] < 5 for small in range(1, number + 1)) < 4:  # always four small ones
            number += 1
            made.add(number, pairs(f"small{number}-", 5), priority=1, deadline_s=9.0)
        running += made.schedule(0.0).calls
        for requests in made.finish(running.pop(0).id).values():
            done.update(requests)
    assert 0.1 < done[0] / done.total() < 0.5  # a fifth, and what room the small ones leave


def test_a_class_goes_before_the_next() -> None:
    made = scheduler(Limits(1, 800, 100))
    for number, priority in ((1, 2), (2, 1), (3, 0)):
        made.add(number, pairs(f"class{priority}-", 3), priority=priority, deadline_s=9.0)
    order = []
    for _ in range(9):
        (call,) = made.schedule(0.0).calls
        order.append(keys(call)[0].split("-")[0])
        made.finish(call.id)
    assert order == ["class0"] * 3 + ["class1"] * 3 + ["class2"] * 3


def test_priorities_that_are_passed_on_order_classes_first() -> None:
    made = scheduler(replicas=("a", "b"))
    made.add(1, pairs("old", 200), priority=0, deadline_s=9.0)
    served(made, num_tokens=15_000)
    made.add(2, pairs("bulk", 1), priority=2, deadline_s=9.0)
    made.add(3, pairs("urgent", 1), priority=0, deadline_s=9.0)
    priorities: dict[str, int] = {}
    while made.num_waiting_pairs:
        for call in made.schedule(0.0).calls:
            priorities |= dict.fromkeys(keys(call), call.priority)
            made.finish(call.id)
    assert priorities["urgent0"] < priorities["bulk0"]
    assert max(value for key, value in priorities.items() if key != "bulk0") < priorities["bulk0"]


def test_a_pair_that_an_urgent_request_joins_becomes_urgent() -> None:
    made = scheduler(Limits(1, 800, 100))
    made.add(1, pairs("x", 5), priority=2, deadline_s=9.0)
    made.add(2, pairs("x", 5)[4:], priority=0, deadline_s=9.0)
    (call,) = made.schedule(0.0).calls
    assert keys(call) == ["x4"]
    assert made.finish(call.id) == {"x4": (1, 2)}


def test_questions_about_the_same_passage_go_together() -> None:
    made = scheduler()
    for number in range(4):
        rest = pairs(f"other{number}-", 20)
        made.add(number, [*rest, Pair(f"q{number}", "hot passage", 100)], priority=1, deadline_s=9.0)
    running, holders = list(made.schedule(0.0).calls), []
    while running:
        call = running.pop(0)
        held = {key for key in keys(call) if key.startswith("q")}
        holders += [held] if held else []
        made.finish(call.id)
        running += made.schedule(0.0).calls
    assert holders == [{"q0", "q1", "q2", "q3"}]


def test_at_most_so_many_calls_run_at_once() -> None:
    made = scheduler(Limits(1, 800, 100_000, max_calls=3))
    made.add(1, pairs("x", 10), priority=1, deadline_s=9.0)
    assert len(made.schedule(0.0).calls) == 3


def test_work_is_spread_over_the_replicas() -> None:
    made = scheduler(replicas=("a", "b"))
    made.add(1, pairs("x", 30), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    assert made.outstanding("a") > 0
    assert made.outstanding("b") > 0
    assert set(made.load()) == {"a", "b"}


def test_without_a_replica_everything_waits() -> None:
    made = scheduler(replicas=())
    made.add(1, pairs("x", 3), priority=1, deadline_s=9.0)
    plan = made.schedule(0.0)
    assert (plan.calls, plan.wake_at_s) == ((), 9.0)
    made.set_replicas(("a",))
    assert len(made.schedule(0.0).calls) == 1


def test_what_is_over_is_never_begun() -> None:
    made = scheduler()
    made.add(1, pairs("late", 3), priority=1, deadline_s=1.0)
    made.add(2, pairs("late", 1), priority=1, deadline_s=9.0)
    plan = made.schedule(1.0)
    assert plan.expired == (1,)
    assert [keys(call) for call in plan.calls] == [["late0"]]
    assert made.finish(plan.calls[0].id) == {"late0": (2,)}


def test_a_running_call_whose_last_waiter_is_out_of_time_is_aborted() -> None:
    made = scheduler()
    made.add(1, pairs("x", 3), priority=1, deadline_s=1.0)
    (call,) = made.schedule(0.0).calls
    assert made.schedule(2.0).aborted == (call.id,)
    assert made.outstanding_tokens == 0
    assert made.finish(call.id) == {}


def test_tokens_ahead_are_what_runs_and_what_waits_in_no_later_class() -> None:
    made = scheduler(Limits(1, 800, 100))
    made.add(1, pairs("x", 3), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    made.add(2, pairs("y", 5), priority=2, deadline_s=9.0)
    assert [made.tokens_ahead(priority, 10_000) for priority in (0, 1, 2)] == [100, 300, 800]


def test_nobody_of_its_own_class_gets_more_than_a_newcomer_before_it_is_done() -> None:
    made = scheduler(Limits(1, 800, 100))
    made.add(1, pairs("x", 50), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    assert made.tokens_ahead(1, 300) == 100 + 300


def test_a_small_request_does_not_wait_for_a_part_of_a_large_one_in_its_call() -> None:
    made = scheduler(Limits(8, 10_000, 10_000))
    made.add(1, pairs("small", 3), priority=1, deadline_s=9.0)
    made.add(2, pairs("large", 50), priority=1, deadline_s=9.0)
    made.add(3, pairs("little", 2), priority=1, deadline_s=9.0)
    together = [{key.rstrip("0123456789") for key in keys(call)} for call in made.schedule(0.0).calls]
    assert {"small"} in together or {"small", "little"} in together


def test_a_thousand_requests_fill_every_call() -> None:
    made = scheduler()
    for number in range(1000):
        made.add(number, pairs(f"r{number}-", 20), priority=1, deadline_s=9.0)
    num_calls, running = 0, list(made.schedule(0.0).calls)
    while running:
        made.finish(running.pop(0).id)
        num_calls += 1
        running += made.schedule(0.0).calls
    assert num_calls == 1000 * 20 / LIMITS.max_prompts_per_call
    assert made.num_waiting_pairs == 0


def test_pairs_that_others_already_want_are_told_to_be_joined() -> None:
    made = scheduler()
    assert made.add(1, pairs("x", 4), priority=1, deadline_s=9.0) == 0
    made.schedule(0.0)  # they run now
    assert made.add(2, [*pairs("x", 2), *pairs("y", 3)], priority=1, deadline_s=9.0) == 2
    assert made.add(3, [*pairs("y", 3), *pairs("z", 1), *pairs("z", 1)], priority=1, deadline_s=9.0) == 3


def test_call_names_the_requests_that_wait_for_it_and_those_that_join_are_known_later() -> None:
    made = scheduler()
    made.add(1, pairs("x", 2), priority=1, deadline_s=9.0)
    made.add(2, pairs("x", 1), priority=1, deadline_s=9.0)
    (call,) = made.schedule(0.0).calls
    made.add(3, pairs("x", 2), priority=1, deadline_s=9.0)
    made.add(4, pairs("y", 2), priority=1, deadline_s=9.0)
    assert call.requests == {1, 2}
    assert made.waiting_for(call.id) == {1, 2, 3}
    made.finish(call.id)
    assert made.waiting_for(call.id) == frozenset()


def test_the_longest_waiting_is_the_oldest_of_its_class_that_still_has_a_pair_to_be_sent() -> None:
    made = scheduler()
    assert made.longest_waiting() == {}
    made.add(1, pairs("sent", 2), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    assert made.longest_waiting() == {}  # it runs: it doesn't wait for room
    made.set_replicas(())
    made.add(2, pairs("bulk", 2), priority=2, deadline_s=9.0)
    made.add(3, pairs("x", 2), priority=1, deadline_s=9.0)
    made.add(4, pairs("y", 2), priority=1, deadline_s=9.0)
    assert made.longest_waiting() == {1: 3, 2: 2}
    made.discard(3)
    assert made.longest_waiting() == {1: 4, 2: 2}
    made.set_replicas(("a",))
    made.schedule(0.0)
    assert made.longest_waiting() == {}


def test_who_is_sent_only_in_part_waits_with_the_rest() -> None:
    made = scheduler()
    made.add(1, pairs("x", 80), priority=1, deadline_s=9.0)
    made.schedule(0.0)
    assert made.num_waiting_pairs > 0
    assert made.longest_waiting() == {1: 1}
