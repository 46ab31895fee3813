"""Ties between ranks, in one process: what threads say to each other over real connections."""

from __future__ import annotations

import math
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
