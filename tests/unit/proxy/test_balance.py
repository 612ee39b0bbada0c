"""Who is tried first: by open connections, by chance, and past endpoints that have failed."""

from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.balance import EJECT_SECONDS, FAILURES, Ejections, lightest
from proxy.model import Balance, Endpoint
from proxy.userspace.listeners import Choice

WHERE = [(f"10.244.1.{n}", 8080) for n in range(2, 6)]


def ejected(*indexes: int, now: float = 0.0) -> Ejections:
    made = Ejections()
    for index in indexes:
        for _ in range(FAILURES):
            made.fail(WHERE[index], now)
    return made


def test_the_first_turn_is_anybodys() -> None:
    """Else the first endpoint has a long connection of each of many nodes, and of each worker after each restart."""
    endpoints = [Endpoint(ip_address(address), port) for address, port in WHERE]
    first = Counter(Choice().turns.next(endpoints) for _ in range(4000))
    assert all(800 < first[index] < 1200 for index in range(4)), first


def test_least_connections_and_equals_take_turns() -> None:
    load = {WHERE[0]: 3, WHERE[1]: 1, WHERE[2]: 1, WHERE[3]: 2}
    assert [lightest(Balance.LEAST, load, WHERE, turn) for turn in range(4)] == [1, 1, 2, 1]
    assert [lightest(Balance.LEAST, {}, WHERE, turn) for turn in range(4)] == [0, 1, 2, 3]


def test_p2c_avoids_the_busiest_and_random_does_not() -> None:
    load = {WHERE[0]: 100}
    assert 0 not in {lightest(Balance.P2C, load, WHERE, 0) for _ in range(200)}
    assert {lightest(Balance.RANDOM, load, WHERE, 0) for _ in range(500)} == {0, 1, 2, 3}
    assert lightest(Balance.P2C, load, WHERE[:1], 0) == 0


def test_p2c_evens_out() -> None:
    load: Counter[tuple[str, int]] = Counter()
    for _ in range(1000):
        load[WHERE[lightest(Balance.P2C, load, WHERE, 0)]] += 1
    assert max(load.values()) - min(load.values()) < 30


def test_one_failure_is_nothing_two_are_passed_over() -> None:
    made = Ejections()
    made.fail(WHERE[0], 0)
    assert made.pass_over(WHERE, 0, 0.1) == 0
    made.fail(WHERE[0], 0.1)
    assert made.pass_over(WHERE, 0, 0.2) == 1
    assert made.out(0.2) == [WHERE[0]]


def test_one_client_tries_again_and_success_forgives() -> None:
    made = ejected(0)
    later = EJECT_SECONDS + 0.1
    assert made.pass_over(WHERE, 0, later) == 0, "it is let in again"
    assert made.pass_over(WHERE, 0, later) == 1, "by one client at a time"
    made.succeed(WHERE[0])
    assert made.pass_over(WHERE, 0, later) == 0
    assert not made


def test_failing_again_stays_away_longer() -> None:
    made = ejected(0)
    made.fail(WHERE[0], 10.0)
    assert made.out(10.0 + EJECT_SECONDS * 2 - 0.1) == [WHERE[0]]
    assert made.out(10.0 + EJECT_SECONDS * 2 + 0.1) == []


def test_panic_floor() -> None:
    """Where more than half of a pool fails, nobody is passed over: the fault is hardly theirs."""
    assert ejected(0, 1).pass_over(WHERE, 0, 0.1) == 2
    assert ejected(0, 1, 2).pass_over(WHERE, 0, 0.1) == 0
    assert ejected(0).pass_over(WHERE[:1], 0, 0.1) == 0


def test_endpoints_that_are_gone_are_forgotten() -> None:
    made = ejected(0, 1)
    made.keep(iter(WHERE[1:2]))
    assert made.out(0.1) == [WHERE[1]]


@given(st.sets(st.integers(0, 3)), st.integers(0, 3), st.floats(0, 100))
def test_somebody_is_always_chosen(out: set[int], first: int, now: float) -> None:
    chosen = ejected(*out).pass_over(WHERE, first, now)
    assert 0 <= chosen < len(WHERE)
    if len(out) <= 2 and now < EJECT_SECONDS:
        assert chosen not in out


@pytest.mark.parametrize("balance", Balance)
def test_one_endpoint_is_one_choice(balance: Balance) -> None:
    assert lightest(balance, {}, WHERE[:1], 0) == 0
