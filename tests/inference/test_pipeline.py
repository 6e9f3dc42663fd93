import threading
import time

import pytest

from segc.inference.pipeline import Line


def numbers(until, made=None):
    for number in range(until):
        if made is not None:
            made.append(number)
        yield number


def test_stages_keep_the_order_and_run_in_threads_of_their_own():
    with Line() as line:
        squares = line.stage(number * number for number in line.stage(numbers(50)))
        assert list(squares) == [number * number for number in range(50)]


def test_a_stage_is_only_as_far_ahead_as_there_is_room():
    made = []
    with Line() as line:
        stage = line.stage(numbers(100, made), room=3)
        assert next(stage) == 0
        time.sleep(0.05)
        # Three wait, one is in the hand of the stage.
        assert len(made) <= 5


def test_without_waiting_the_oldest_is_dropped_and_counted():
    made, dropped = [], []
    with Line() as line:
        stage = line.stage(numbers(10, made), room=1, dropped=lambda: dropped.append(1))
        while len(made) < 10:
            time.sleep(0.001)
        time.sleep(0.02)
        assert list(stage) == [9]
        assert len(dropped) == 9


def test_an_error_comes_out_in_its_place():
    def broken():
        yield 1
        raise ValueError("here")

    with Line() as line:
        stage = line.stage(broken())
        assert next(stage) == 1
        with pytest.raises(ValueError, match="here"):
            next(stage)


@pytest.mark.parametrize("workers", [1, 4])
def test_work_that_is_spread_comes_back_in_order(workers):
    def slow(number):
        time.sleep(0.002 * (number % 3))
        return number, threading.current_thread() is threading.main_thread()

    with Line() as line:
        found = list(line.spread(slow, numbers(30), workers))
    assert [number for number, _ in found] == list(range(30))
    assert {in_main for _, in_main in found} == {workers == 1}


def test_an_error_of_spread_work_comes_out_in_its_place():
    def invert(number):
        return 1 / (3 - number)

    with Line() as line:
        spread = line.spread(invert, numbers(9), 2)
        assert [next(spread) for _ in range(3)] == [1 / 3, 1 / 2, 1]
        with pytest.raises(ZeroDivisionError):
            next(spread)


def test_leaving_the_block_ends_all_stages_and_closes_what_they_read():
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread() is not threading.main_thread())

    before = set(threading.enumerate())
    with Line() as line:
        stage = line.stage(line.stage(endless()))
        assert next(stage) == 1
    assert closed == [True]
    assert set(threading.enumerate()) <= before
    assert list(stage) == []
