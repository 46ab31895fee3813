"""Ties between ranks, in one process: what threads say to each other over real connections."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from rekindle.errors import RunError
from rekindle.parallel import ties as module
from rekindle.parallel.ranks import Ranks
from rekindle.parallel.ties import Ties


class Crew:
    """Ties of several ranks in one process; nothing of it ends the process."""

    def __init__(self, count: int) -> None:
        store = HashStore()
        self.said: list[str] = []
        self.steps = [0] * count
        self.ties = [Ties(Ranks(rank, count, address="127.0.0.1"), 20, self.said.append) for rank in range(count)]
        for rank, one in enumerate(self.ties):
            one.position = lambda rank=rank: self.steps[rank]
            one._give_up = lambda: None
        self.each(lambda rank: self.ties[rank].open(store))

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.ties)) as pool:
            return list(pool.map(work, range(len(self.ties)), timeout=30))


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    monkeypatch.setattr(module.sys, "excepthook", module.sys.excepthook)
    monkeypatch.setattr(module, "_destroy_group", lambda _: None)
    found = Crew(4)
    yield found
    for one in found.ties:
        one.lost = one.lost or "the test is over"
        one.end()


def test_a_gather_gives_every_rank_the_values_of_all(crew):
    for number in range(20):
        assert (
            crew.each(lambda rank, n=number: crew.ties[rank].gather("x", [rank, n]))
            == [[[rank, number] for rank in range(4)]] * 4
        )


@pytest.mark.parametrize("seed", range(6))
def test_all_ranks_stop_at_one_step_wherever_each_of_them_is(crew, seed):
    """Ranks run freely, as far apart as they like, until one asks; each stops at the first boundary it may not pass."""

    def train(rank: int) -> int:
        while True:
            crew.steps[rank] += 1
            if rank == seed % 4 and crew.steps[rank] == 40:
                crew.ties[rank].ask("leave", 15)
            if crew.steps[rank] % (rank + 2) == 0:
                time.sleep(0.0002 * rank * seed)
            if crew.steps[rank] >= crew.ties[rank].hold_at:
                decided = crew.ties[rank].settle(crew.steps[rank])
                if decided:
                    assert (decided[0].kind, decided[0].detail) == ("leave", 15)
                    return crew.steps[rank]
            if rank != seed % 4 and crew.steps[rank] > 200_000:
                return -1

    stopped = crew.each(train)
    assert len(set(stopped)) == 1
    assert stopped[0] >= 40
    assert all(one.hold_at == math.inf for one in crew.ties)


def test_a_second_question_does_not_make_a_rank_that_is_behind_forget_what_the_first_one_decided(crew):
    """As with a clock that asks for a save again before the slowest rank came to where the first one is made."""
    crew.steps[:] = [5, 5, 5, 5]
    crew.ties[0].ask("save")
    until_held(crew, 6)
    crew.steps[:3] = [6, 6, 6]
    assert [decision.step for decision in crew.ties[0].settle(6)] == [6]
    crew.ties[0].ask("save")
    until = time.monotonic() + 10
    while crew.ties[0].hold_at != 7:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.1)  # and all others have heard of it
    crew.steps[3] = 6
    assert [[decision.step for decision in crew.ties[rank].settle(6)] for rank in (1, 2, 3)] == [[6]] * 3
    crew.steps[:] = [7, 7, 7, 7]
    assert [[decision.step for decision in crew.ties[rank].settle(7)] for rank in range(4)] == [[7]] * 4


def until_held(crew: Crew, step: int) -> None:
    until = time.monotonic() + 10
    while any(one.hold_at != step for one in crew.ties):
        assert time.monotonic() < until, [one.hold_at for one in crew.ties]
        time.sleep(0.01)


def test_a_rank_whose_run_is_over_leaves_nothing_to_agree_on(crew):
    crew.ties[2].position = lambda: None
    crew.ties[0].ask("leave", 15)
    until = time.monotonic() + 10
    while any(one.hold_at != math.inf for one in crew.ties) and time.monotonic() < until:
        time.sleep(0.01)
    assert crew.each(lambda rank: crew.ties[rank].settle(10**6)) == [[]] * 4


def test_a_connection_that_breaks_off_is_a_loss_that_all_hear_of(crew):
    crew.each(lambda rank: crew.ties[rank].gather("x", 0))
    waiting = ThreadPoolExecutor(3)
    others = [waiting.submit(crew.ties[rank].gather, "y", 0) for rank in (0, 1, 3)]
    crew.ties[2]._sockets[0].shutdown(2)
    for each in others:
        with pytest.raises(RunError, match="rank 2 of 4 is gone: it ended without a word"):
            each.result(10)
    assert sum("rank 2 of 4 is gone" in line for line in crew.said) == 1
    waiting.shutdown()


def test_a_farewell_is_no_loss_but_nobody_waits_for_that_rank_any_more(crew):
    crew.ties[3]._ending = True
    crew.ties[3]._send(["bye"])
    crew.ties[3]._thread.join(5)
    time.sleep(0.1)
    assert crew.ties[0].lost is None
    with pytest.raises(RunError, match="y: rank 3 ended before it was called there"):
        crew.ties[0].gather("y", 0, timeout_s=10)


def test_an_error_is_told_with_its_words_and_consequences_only_where_there_is_no_cause(crew):
    crew.ties[1].fail("RuntimeError: Connection closed by peer [127.0.0.1]:9")
    crew.ties[2].fail("ValueError: the cause")
    until = time.monotonic() + 10
    while any(one.lost is None for one in crew.ties if one.ranks.rank != 2) and time.monotonic() < until:
        time.sleep(0.01)
    assert {one.lost for one in crew.ties if one.ranks.rank != 2} == {"rank 2 of 4 is gone: ValueError: the cause"}


def test_an_error_of_rank_0_is_told_before_its_connections_end(crew, monkeypatch):
    monkeypatch.setattr(module, "_last_words", lambda: "ValueError: the cause")
    crew.ties[0].end()
    until_lost(crew, 1, 2, 3)
    assert {crew.ties[rank].lost for rank in (1, 2, 3)} == {"rank 0 of 4 is gone: ValueError: the cause"}


@pytest.mark.parametrize(
    ("code", "words"), [(1, "ValueError: invalid literal for int() with base 10: 'the cause'"), (75, None), (0, None)]
)
def test_an_error_that_spawn_puts_away_before_it_leaves_is_what_is_told(code, words):
    told = []

    def as_spawn_does() -> None:
        try:
            int("the cause")
        except ValueError:
            sys.exit(code)
        finally:
            told.append(module._last_words())

    with pytest.raises(SystemExit):
        as_spawn_does()
    assert told == [words]


WAITED = "RuntimeError: [unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation to complete"
CLOSED = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:9"


@pytest.mark.parametrize("culprit", range(4))
def test_a_rank_for_which_the_others_waited_in_vain_is_named_with_its_place(crew, culprit):
    others = [rank for rank in range(4) if rank != culprit]
    crew.steps[:] = [11, 11, 11, 11]
    for rank, text in zip(others, (WAITED, CLOSED, CLOSED), strict=True):
        crew.ties[rank].fail(text)
    until_lost(crew, *range(4))  # the culprit too, so that it ends
    assert {each.lost for each in crew.ties} == {crew.ties[0].lost}
    assert crew.ties[0].lost.startswith(f"rank {culprit} of 4 hangs in ")
    assert crew.ties[0].lost.endswith(", after step 11")
    assert ".py, line " in crew.ties[0].lost


def test_of_several_that_did_not_come_the_one_that_did_least_is_named_and_a_silent_one_before_it(crew):
    crew.steps[:] = [11, 11, 10, 11]
    for rank in (0, 1):
        crew.ties[rank].fail(WAITED)
    until_lost(crew, 3)
    assert crew.ties[3].lost.startswith("rank 2 of 4 hangs in ")


def test_a_process_that_is_stopped_does_not_answer_and_is_named(crew, monkeypatch):
    told = Ties._told
    stopped = crew.ties[3]
    monkeypatch.setattr(Ties, "_told", lambda self, word: None if self is stopped else told(self, word))
    for rank in range(3):
        crew.ties[rank].fail(WAITED)
    crew.steps[3] = 12
    until = time.monotonic() + 10
    while not crew.said and time.monotonic() < until:
        time.sleep(0.01)
    assert crew.said[0].startswith("rank 3 of 4 does not answer: stopped, or its machine is gone; the other ranks end")


def test_an_error_of_ones_own_is_the_cause_although_it_is_about_time(crew):
    crew.ties[1].fail("ReadTimeout: the bucket timed out")
    crew.ties[2].fail(WAITED)
    until_lost(crew, 0, 2, 3)
    assert crew.ties[0].lost == "rank 1 of 4 is gone: ReadTimeout: the bucket timed out"


def until_lost(crew: Crew, *ranks: int) -> None:
    until = time.monotonic() + 10
    while any(crew.ties[rank].lost is None for rank in ranks):
        assert time.monotonic() < until, [each.lost for each in crew.ties]
        time.sleep(0.01)


def test_a_gather_that_is_called_on_one_rank_only_ends_with_words(crew):
    with pytest.raises(RunError) as caught:
        crew.ties[1].gather("run.log", 0, timeout_s=0.2)
    assert caught.value.do == "call run.log on every rank, not only on one"


def test_a_stranger_is_not_welcomed():
    import socket

    store = HashStore()
    ranks = [Ties(Ranks(rank, 2, address="127.0.0.1"), 10, print) for rank in range(2)]
    opening = threading.Thread(target=ranks[0]._listen, args=(store,))
    opening.start()
    import json

    store.wait(["rekindle/ties"])
    port = json.loads(store.get("rekindle/ties"))[0]
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b'["guess", 1]\n')
        stranger.settimeout(5)
        assert stranger.recv(1) == b""
    ranks[1]._connect(store)
    opening.join(10)
    assert list(ranks[0]._sockets) == [1]
    for one in ranks:
        one._close()
