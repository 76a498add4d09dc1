# SPDX-License-Identifier: MPL-2.0
"""What the memory guard decides, and what it does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.state.usage import Share, TaskProcess, Usage
from nomad_nvidia_vgpu.tasks.guard import (
    SHORT_PERCENT,
    Excess,
    ExcessWatch,
    Guard,
    Response,
    excess,
    furthest,
    identity,
    victims,
)
from unit.example_gpus import NOON
from unit.manual_clock import DEADLINE_S
from unit.tasks.doomed_processes import (
    STUBBORN,
    TASK,
    Sleepers,
    as_seen,
    same_process,
    share,
    use_of,
)

KILL = MemoryGuardConfig("kill", 30.0, 5)
WARN = MemoryGuardConfig("warn", 30.0, 5)
BUDGET_MIB = 1000


def process(pid: int, mib: int | None = 600, started: int | None = None) -> TaskProcess:
    """Gives a process; the greater its pid, the younger it is."""
    return TaskProcess(pid, pid if started is None else started, mib, "compute")


def seen_at(moment: float, *shares: Share) -> Usage:
    """Gives a pass over lists of that moment."""
    return Usage(NOON, {"GPU-a": use_of(*shares, taken_at=moment)})


def follow(config: MemoryGuardConfig, *passes: tuple[float, Share]) -> list[tuple[float, Response]]:
    """Gives all responses over these passes, each with its moment."""
    watch = ExcessWatch(config)
    return [
        (moment, response)
        for moment, seen in passes
        for response in watch.responses(seen_at(moment, seen))
    ]


def killed(responses: list[tuple[float, Response]]) -> list[tuple[float, list[int]]]:
    """Gives whom the responses end, and when."""
    return [(at, [p.pid for p in v.victims]) for at, v in responses if v.victims]


# Who uses too much


@pytest.mark.parametrize(
    ("used", "tolerance", "too_much"),
    [(1000, 0, False), (1001, 0, True), (1050, 5, False), (1051, 5, True), (0, 0, False)],
)
def test_the_tolerance_is_let_pass(used: int, tolerance: int, *, too_much: bool) -> None:
    """Up to the budget and the tolerance nothing is too much."""
    assert (excess(share(process(1, used)), tolerance) is not None) is too_much


def test_what_is_not_known_is_not_too_much() -> None:
    """Without the memory of a process, as long as the rest is no proof, or without a budget."""
    assert excess(share(process(1, 900), process(2, None)), 0) is None
    assert excess(share(process(1, 9000), budget_mib=None), 0) is None


def test_what_is_known_may_be_proof_enough() -> None:
    """A process whose memory is not told does not hide what another one uses, nor is it ended."""
    found = excess(share(process(1, 20_000), process(2, None), budget_mib=6000), 5)
    assert found is not None
    assert (found.used_mib, found.limit_mib) == (20_000, 6300)
    known = {identity(process(1, 20_000)), identity(process(2, None))}
    assert [victim.pid for victim in victims(found, known)] == [1]


def test_all_processes_of_a_task_count_together() -> None:
    """Each within the budget, together beyond it: what MPS alone does not see."""
    found = excess(share(process(1, 600), process(2, 600)), 5)
    assert found is not None
    assert (found.used_mib, found.budget_mib, found.limit_mib) == (1200, 1000, 1050)


# For how long


def test_nothing_happens_before_the_grace_is_over() -> None:
    """A response comes when the task has used too much for the grace, and not before."""
    held = share(process(1, 2000))
    responses = follow(WARN, *((moment, held) for moment in (100.0, 110.0, 129.9, 130.0)))
    assert [at for at, _ in responses] == [130.0]


def test_who_comes_back_below_begins_anew() -> None:
    """One list within the limit, and the grace begins again."""
    much, fair = share(process(1, 2000)), share(process(1, 1000))
    responses = follow(WARN, (100.0, much), (120.0, fair), (131.0, much), (160.0, much))
    assert responses == []


def test_an_old_list_proves_nothing() -> None:
    """However often one and the same list is looked at, no time passes for the guard."""
    held = share(process(1, 2000))
    watch = ExcessWatch(KILL)
    assert [watch.responses(seen_at(100.0, held)) for _ in range(100)] == [[]] * 100


def test_an_excess_is_told_once() -> None:
    """One warning for each excess, however long it lasts, and another for the next one."""
    much, fair = share(process(1, 2000)), share(process(1, 10))
    moments = [100.0 + 10 * n for n in range(20)]
    responses = follow(WARN, *((moment, much) for moment in moments))
    assert [(at, v.new, v.victims) for at, v in responses] == [(130.0, True, ())]
    again = follow(
        WARN, (0.0, much), (30.0, much), (40.0, fair), (50.0, much), (80.0, much), (90.0, much)
    )
    assert [at for at, _ in again] == [30.0, 80.0]


def test_tasks_are_judged_each_for_itself() -> None:
    """The excess of one task says nothing of another, nor of its share of another GPU."""
    greedy = share(process(1, 2000))
    modest = share(process(2, 500), task=TASK._replace(key="other"))
    watch = ExcessWatch(KILL)
    for moment in (0.0, 20.0, 40.0):
        found = watch.responses(seen_at(moment, greedy, modest))
    assert [v.excess.share.task.key for v in found] == [TASK.key]


def test_switched_off_nothing_is_judged() -> None:
    """With action "off" nobody uses too much."""
    held = share(process(1, 9000))
    assert follow(MemoryGuardConfig("off", 0.0, 0), (0.0, held), (2.0, held)) == []


# Who is ended


def test_the_youngest_go_first_and_no_more_than_needed() -> None:
    """The rest of the task lives on within its limit."""
    held = share(process(1, 400), process(2, 400), process(3, 400), process(4, 300))
    responses = follow(KILL, (0.0, held), (20.0, held), (30.0, held))
    assert killed(responses) == [(30.0, [4, 3])]  # 1500 - 300 is still above 1050


def test_age_is_not_the_order_of_pids() -> None:
    """Pids begin again when they run out: the start time counts."""
    held = share(process(1, 800, started=900), process(2, 800, started=100))
    assert killed(follow(KILL, (0.0, held), (30.0, held))) == [(30.0, [1])]


def test_who_holds_nothing_is_not_ended() -> None:
    """A process without memory on the GPU frees none."""
    held = share(process(1, 2000), process(2, 0))
    assert killed(follow(KILL, (0.0, held), (30.0, held))) == [(30.0, [1])]


def test_those_that_remain_get_the_grace_anew() -> None:
    """A task that grows again is not ended before another grace is over."""
    before = share(process(1, 900), process(2, 900))
    after = share(process(1, 1900))
    responses = follow(
        KILL, (0.0, before), (30.0, before), (32.0, after), (59.0, after), (60.0, after)
    )
    assert killed(responses) == [(30.0, [2]), (60.0, [1])]
    assert [v.new for _, v in responses] == [True, False]


@pytest.mark.parametrize(
    "doubtful", [{"doubt": "odd"}, {"task": TASK._replace(certain=False)}], ids=["budget", "task"]
)
def test_who_is_not_known_beyond_doubt_is_only_told(doubtful: dict[str, Any]) -> None:
    """A task of which anything is in doubt is warned, as often as with "warn", and not ended."""
    held = share(process(1, 9000), **doubtful)
    responses = follow(KILL, (0.0, held), (30.0, held), (60.0, held))
    assert [(at, v.victims) for at, v in responses] == [(30.0, ())]


def test_a_pid_that_was_reused_is_spared() -> None:
    """A process that the list before did not have yet may not be the one that was listed."""
    before = share(process(1, 900), process(2, 900, started=50))
    now = share(process(1, 900), process(2, 900, started=77))
    responses = follow(KILL, (0.0, before), (28.0, before), (30.0, now))
    assert killed(responses) == [(30.0, [1])]


def test_with_no_grace_two_lists_are_needed() -> None:
    """Even at once means after a second list, because the first proves no identity."""
    config = KILL._replace(grace_s=0.0)
    held = share(process(1, 9000))
    assert killed(follow(config, (0.0, held), (2.0, held))) == [(2.0, [1])]


def test_who_is_being_ended_is_not_ended_twice() -> None:
    """What a process on its way out still holds does not cost another one its life."""
    held = share(process(1, 900), process(2, 900))
    too_much = excess(held, 5)
    assert too_much is not None
    known = {identity(p) for p in held.processes}
    assert victims(too_much, known, {identity(process(2))}) == ()
    assert [p.pid for p in victims(too_much, known)] == [2]


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    st.integers(0, 5000),
    st.integers(0, 100),
)
def test_what_is_left_is_within_the_limit_and_no_smaller_choice_would_do(
    memory: list[int], budget: int, tolerance: int
) -> None:
    """Ending the youngest brings the task within its limit, and one process fewer would not."""
    held = share(*(process(n + 1, mib) for n, mib in enumerate(memory)), budget_mib=budget)
    too_much = excess(held, tolerance)
    if too_much is None:
        return
    chosen = victims(too_much, {identity(p) for p in held.processes})
    freed = [p.memory_mib or 0 for p in chosen]
    assert sum(memory) - sum(freed) <= too_much.limit_mib
    assert sum(memory) - sum(freed[:-1]) > too_much.limit_mib
    assert [p.pid for p in chosen] == sorted((p.pid for p in chosen), reverse=True)


# What is done


class Guarded:
    """A guard over real processes."""

    def __init__(self, config: MemoryGuardConfig, kill_grace_s: float = DEADLINE_S) -> None:
        """Nothing was looked at yet."""
        self.sleepers = Sleepers()
        self.guard = Guard(config, same_process, kill_grace_s)
        self._others = set(threading.enumerate())

    def follow(self, *shares: Share, moments: tuple[float, ...] = (0.0, 20.0, 40.0)) -> None:
        """Lets these shares stay as they are, and waits for what is done about it."""
        for moment in moments:
            self.guard.look(seen_at(moment, *shares))
        for thread in set(threading.enumerate()) - self._others:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


@pytest.fixture
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """Gives a guard with the config asked for; ends the processes after the test."""
    made = Guarded(*getattr(request, "param", (KILL,)))
    yield made
    made.sleepers.end()


@pytest.mark.parametrize("guarded", [(WARN,)], indirect=True)
def test_a_warning_says_all_and_ends_nobody(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """Task, allocation, job, pids, use and budget, once, and counted."""
    process = guarded.sleepers.start()
    seen = as_seen(process, 1500)
    named = share(seen, task=TASK._replace(job="j"))
    guarded.follow(named, moments=(0.0, 20.0, 40.0, 60.0, 80.0))
    (line,) = caplog.messages
    fields = caplog.records[0].__dict__["fields"]
    assert (fields["gpu"], fields["job"], fields["used_mib"]) == ("GPU-a", "j", 1500)
    told = "task task of allocation alloc (job j) uses 1500 MiB of GPU-a, its budget is 1000 MiB"
    assert line == f"{told}: pids {seen.pid} (1500 MiB)"
    assert process.poll() is None
    assert guarded.guard.counts == {("warned", "GPU-a"): 1}


def test_the_youngest_is_ended_and_its_neighbours_live(guarded: Guarded) -> None:
    """Of a task in excess the youngest process goes; the others, and other tasks, stay."""
    oldest, youngest, neighbour = (guarded.sleepers.start() for _ in range(3))
    greedy = share(
        as_seen(oldest, 900)._replace(started=as_seen(oldest).started), as_seen(youngest, 900)
    )
    modest = share(as_seen(neighbour, 900), task=TASK._replace(key="other"))
    guarded.follow(greedy, modest)
    assert youngest.wait(DEADLINE_S) == -signal.SIGTERM
    assert oldest.poll() is None
    assert neighbour.poll() is None
    assert guarded.guard.counts == {("warned", "GPU-a"): 1, ("terminated", "GPU-a"): 1}


@pytest.mark.parametrize("guarded", [(KILL, 1 / 64)], indirect=True)
def test_who_does_not_end_is_killed(guarded: Guarded) -> None:
    """After SIGTERM and its grace comes SIGKILL, and both are counted."""
    stubborn = guarded.sleepers.start(STUBBORN)
    guarded.follow(share(as_seen(stubborn, 1500)))
    assert stubborn.wait(DEADLINE_S) == -signal.SIGKILL
    assert guarded.guard.counts["killed", "GPU-a"] == 1


def test_a_process_that_is_another_by_now_is_spared(guarded: Guarded) -> None:
    """Whoever has the pid when the signal is to be sent is checked once more."""
    other = guarded.sleepers.start()
    seen = as_seen(other, 1500)
    guarded.follow(share(seen._replace(started=seen.started - 5)))
    assert other.poll() is None
    assert "terminated" not in {act for act, _ in guarded.guard.counts}


def test_why_nobody_is_ended_is_told(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """With "kill", a task in doubt is warned with the reason why it is spared."""
    process = guarded.sleepers.start()
    guarded.follow(share(as_seen(process, 1500), doubt="it was promised more"))
    assert caplog.messages[0].endswith("; none of them is ended: it was promised more")
    assert process.poll() is None


def test_an_excess_is_what_it_says() -> None:
    """The limit that the log and `top` show is the one that is applied."""
    held = share(process(1, 2000), budget_mib=BUDGET_MIB)
    assert excess(held, 10) == Excess(held, 2000, BUDGET_MIB, 1100)


# Overcommitted memory


def overcommitted(name: str, *processes: TaskProcess, limit_mib: int = 1500) -> Share:
    """Gives a task that was promised 1000 MiB and may use half as much again."""
    task = TASK._replace(key=name)
    return share(*processes, task=task, budget_mib=BUDGET_MIB)._replace(limit_mib=limit_mib)


def full_gpu(moment: float, *shares: Share, memory_mib: int | None = 4000) -> Usage:
    """Gives a pass over a GPU of so much memory."""
    use = use_of(*shares, taken_at=moment)._replace(memory_mib=memory_mib)
    return Usage(NOON, {"GPU-a": use})


MODEST = overcommitted("modest", process(1, 900))
ABOVE = overcommitted("above", process(2, 1200))
FURTHEST = overcommitted("furthest", process(3, 900), process(4, 400))


def test_a_task_may_use_what_it_was_not_promised_while_there_is_room() -> None:
    """Up to its limit and the tolerance."""
    assert excess(ABOVE, 5) is None
    assert furthest(use_of(ABOVE, FURTHEST)._replace(memory_mib=8000), 5) is None
    assert excess(overcommitted("x", process(1, 1576)), 5) is not None


def test_on_a_gpu_that_runs_short_it_is_the_furthest_above_its_promise() -> None:
    """As much of it as makes room again: nobody who keeps to his promise is ever meant."""
    use = use_of(MODEST, ABOVE, FURTHEST)._replace(memory_mib=3500)
    found = furthest(use, 5)
    assert found is not None
    assert (found.share, found.short) == (FURTHEST, True)
    assert found.limit_mib == 1300 - (3500 * SHORT_PERCENT // 100 - 100)
    assert (
        furthest(use_of(MODEST, overcommitted("y", process(9, 1040)))._replace(memory_mib=1941), 5)
        is None
    )


def test_what_is_not_known_makes_no_gpu_short() -> None:
    """Of the GPU, or of a process on it."""
    assert furthest(use_of(FURTHEST)._replace(memory_mib=None), 5) is None
    unknown = use_of(FURTHEST, overcommitted("z", process(5, None)))
    assert furthest(unknown._replace(memory_mib=1300), 5) is None


def test_without_overcommit_a_full_gpu_is_nobodys_fault() -> None:
    """Tasks within the tolerance are left alone."""
    use = use_of(share(process(1, 1040), budget_mib=BUDGET_MIB))._replace(memory_mib=1050)
    assert furthest(use, 5) is None


def test_a_shortage_that_lasts_ends_the_youngest_process_of_the_furthest() -> None:
    """Not before the grace, and only what an earlier list had too."""
    watch = ExcessWatch(KILL)
    found = []
    for moment in (0.0, 10.0, 30.0):
        usage = full_gpu(moment, MODEST, ABOVE, FURTHEST, memory_mib=3500)
        found += [(moment, r) for r in watch.responses(usage)]
    assert killed(found) == [(30.0, [4])]
    assert watch.responses(full_gpu(40.0, MODEST, memory_mib=3500)) == []
