"""Work that is done together: everyone gets its own answer, nobody waits for ever, failures are each one's own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni.bursts import Bursts


def test_alone_is_at_once_and_in_the_callers_thread():
    threads = []

    def work(items):
        threads.append(threading.current_thread())
        return [item * 2 for item in items]

    assert Bursts(work)(21) == 42
    assert threads == [threading.current_thread()]


def test_who_comes_meanwhile_is_done_together():
    began, go, sizes = threading.Event(), threading.Event(), []

    def work(items):
        sizes.append(len(items))
        began.set()
        go.wait(10)
        return [-item for item in items]

    bursts = Bursts(work)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(bursts, 0)
        began.wait(10)
        rest = [pool.submit(bursts, number) for number in range(1, 20)]
        while len(bursts._waiting) < 19:
            threading.Event().wait(0.001)
        go.set()
        assert [first.result(10), *(one.result(10) for one in rest)] == [-number for number in range(20)]
    assert sizes == [1, 19]


def test_a_failure_is_its_items_own_and_a_crash_everybodys():
    def work(items):
        if 13 in items:
            raise KeyError("crash")
        return [ValueError(item) if item % 2 else item for item in items]

    bursts = Bursts(work)
    assert bursts(2) == 2
    with pytest.raises(ValueError, match="3"):
        bursts(3)
    with pytest.raises(KeyError):
        bursts(13)
    assert bursts(4) == 4, "and the next works"


def test_many_threads_for_long_enough_all_get_their_own_answer():
    bursts = Bursts(lambda items: [item + 1 for item in items])
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(bursts, range(2000))) == list(range(1, 2001))
