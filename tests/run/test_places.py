"""Where a run is, for every shape of loop."""

from __future__ import annotations

from rekindle.run.places import Place, Places


class Walker:
    """Stands for the iterator of `run.batches`."""

    def keep_state(self) -> None:
        pass


def opened(places, length=None):
    walker = Walker()
    return places.open(walker, length), walker


def again(place):
    """What a later life makes of a place."""
    return Places(Place.decode(place.encode()))


def test_a_plain_loop_goes_on_after_the_last_batch():
    places = Places()
    loop, _keep = opened(places)
    assert [places.deliver(loop) for _ in range(3)] == [0, 1, 2]
    later = again(places.place(loop))
    assert later.replaying
    loop, _keep = opened(later)
    later.arrive(loop)
    assert not later.replaying
    assert later.deliver(loop) == 3


def test_loops_one_after_the_other_have_places_of_their_own():
    places = Places()
    first, _keep_first = opened(places)
    places.deliver(first)
    first.finished = True
    second, _keep_second = opened(places)
    places.deliver(second)
    assert (first.path, second.path) == ((0,), (1,))
    later = again(places.place(second))
    first, _keep_first = opened(later)
    assert first.finished
    later.arrive(first)
    assert later.replaying
    second, _keep_second = opened(later)
    later.arrive(second)
    assert not later.replaying
    assert second.delivered == 1


def test_loops_walked_together_go_on_together():
    places = Places()
    one, _keep_one = opened(places)
    two, _keep_two = opened(places)
    for _ in range(4):
        places.deliver(one), places.deliver(two)
    assert (one.path, two.path) == ((0,), (1,))
    later = again(places.place(one))
    assert [opened(later)[0].delivered for _ in range(2)] == [4, 4]


def test_the_batch_around_an_inner_loop_is_handed_out_again():
    places = Places()
    outer, _keep_outer = opened(places)
    for number in range(3):
        places.deliver(outer)
        inner, _keep_inner = opened(places)
        assert inner.path == (0, number, 0)
        places.deliver(inner)
        if number < 2:
            inner.finished = True
    later = again(places.place(inner))
    outer, _keep_outer = opened(later)
    assert later.deliver(outer) == 2
    inner, _keep_inner = opened(later)
    assert (inner.path, inner.delivered) == ((0, 2, 0), 1)


def test_after_an_inner_loop_the_outer_one_goes_on():
    places = Places()
    outer, _keep_outer = opened(places)
    places.deliver(outer)
    inner, _keep_inner = opened(places)
    places.deliver(inner)
    inner.finished = True
    later = again(places.place(outer))
    assert opened(later)[0].delivered == 1


def test_a_loop_left_with_break_is_not_around_the_next_one():
    places = Places()
    first, walker = opened(places)
    places.deliver(first)
    del walker
    assert opened(places)[0].path == (1,)


def test_the_next_epoch_starts_all_loops_anew():
    places = Places()
    loop, _keep = opened(places)
    places.deliver(loop)
    later = again(places.place(loop))
    later.begin_epoch(0)
    assert opened(later)[0].delivered == 1
    later.begin_epoch(1)
    assert not later.replaying
    assert opened(later)[0].delivered == 0


def test_batches_of_an_outer_loop_forget_the_inner_loops_of_the_one_before():
    places = Places()
    outer, _keep_outer = opened(places)
    for _ in range(100):
        places.deliver(outer)
        inner, _keep_inner = opened(places)
        places.deliver(inner)
        inner.finished = True
    assert len(places.place(outer).loops) == 2
