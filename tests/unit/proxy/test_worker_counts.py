"""Counters of several workers: they arrive as they were, and their sum never falls."""

from ipaddress import ip_address

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Endpoint, Frontend, Pool, Protocol, ServicePort, Target
from proxy.userspace.traffic import Accounts, Traffic, TrafficKey
from proxy.userspace.workers import counts
from proxy.userspace.workers.leavers import LINGER, Leavers

WEB = ServicePort("default", "web", "http")
KEY = TrafficKey(WEB, Protocol.TCP)
FRONTEND = Frontend(ip_address("10.96.0.10"), 80, Protocol.TCP)
AT_ENDPOINT = TrafficKey(WEB, Protocol.TCP, "[fd00::2]:8080")
NUMBERS = st.integers(0, 1 << 50)


def made(connections: int, active: int, received: int, reasons: dict[str, int]) -> Traffic:
    traffic = Traffic()
    traffic.connections, traffic.active, traffic.received, traffic.rejected = (
        connections,
        active,
        received,
        reasons,
    )
    traffic.connected(0.002)
    return traffic


TRAFFIC = st.builds(made, NUMBERS, NUMBERS, NUMBERS, st.dictionaries(st.sampled_from("ab"), NUMBERS))


def values(traffic: Traffic) -> list[object]:
    return [traffic.active, *(getattr(traffic, name) for name in counts.COUNTED)]


@given(TRAFFIC)
def test_counters_arrive_as_they_were(traffic: Traffic) -> None:
    sent = {KEY: traffic, AT_ENDPOINT: Traffic(), TrafficKey(WEB, Protocol.UDP): traffic}
    found = counts.decode_traffic(orjson.loads(orjson.dumps(counts.encode_traffic(sent))))
    assert list(found) == [KEY, TrafficKey(WEB, Protocol.UDP)], "where nobody came nothing is said"
    assert values(found[KEY]) == values(traffic)


@pytest.mark.parametrize("what", ["connections", "active", "received", "sent", "retries", "connect_seconds"])
def test_whatever_was_counted_is_said(what: str) -> None:
    """An endpoint may have been tried, and failed, without ever having had a client of its own."""
    traffic = Traffic()
    setattr(traffic, what, 1)
    assert list(counts.decode_traffic(counts.encode_traffic({AT_ENDPOINT: traffic}))) == [AT_ENDPOINT]


@given(TRAFFIC, TRAFFIC)
def test_what_a_dead_worker_counted_stays_and_what_it_had_open_does_not(dead: Traffic, live: Traffic) -> None:
    total: counts.Counts = {}
    counts.add(total, {KEY: dead}, gone=True)
    counts.add(total, {KEY: live})
    assert total[KEY].active == live.active
    assert total[KEY].connections == dead.connections + live.connections
    assert sum(total[KEY].buckets) == 2
    assert total[KEY].rejected.get("a", 0) == dead.rejected.get("a", 0) + live.rejected.get("a", 0)


def leads_to(*endpoints: str) -> Target:
    pool = Pool(tuple(Endpoint(ip_address(address), 80) for address in endpoints))
    return Target(WEB, pool, pool)


def at(address: str) -> TrafficKey:
    return TrafficKey(WEB, Protocol.TCP, f"{address}:80")


@pytest.mark.parametrize("visited", [True, False])
def test_a_year_of_rollouts_fills_no_memory(visited: bool) -> None:
    """One endpoint after another, each for an hour, with clients or without; a look every minute."""
    leavers, before, kept = Leavers(), leads_to("10.244.0.1"), {at("10.244.0.1"): Traffic()}
    for hour in range(24 * 365):
        now, comes = hour * 3600.0, f"10.244.{hour % 200 + 1}.{hour // 200 + 2}"
        after = leads_to("10.244.0.1", comes)
        leavers.note(FRONTEND, before, after, now)
        kept.setdefault(at(comes), Traffic())  # as the workers have it as soon as a frontend leads there
        for key in (at("10.244.0.1"), at(comes)) if visited else ():
            kept[key].connections += 1
        for minute in (1, 2, 6, 7):
            counted = {key: traffic for key, traffic in kept.items() if traffic.used}
            for key in leavers.over(counted, [(FRONTEND, after)], now + minute * 60):
                del kept[key]
        assert set(kept) == {at("10.244.0.1"), at(comes)}
        before = after
    assert kept[at("10.244.0.1")].connections == (24 * 365 if visited else 0)


@given(st.lists(st.tuples(st.floats(0, 200), st.booleans(), st.booleans()), min_size=1))
def test_counters_end_after_a_time_in_which_nobody_could_add_to_them(
    story: list[tuple[float, bool, bool]],
) -> None:
    """Each step: seconds that pass, whether a frontend leads to the endpoint, whether it has an open flow."""
    leavers, now = Leavers(), 0.0
    idle_since: float | None = None
    traffic = Traffic()
    traffic.connections = 1
    for seconds, served, busy in story:
        now += seconds
        traffic.active = int(busy)
        target = leads_to("10.244.0.1") if served else leads_to()
        over = leavers.over({at("10.244.0.1"): traffic}, [(FRONTEND, target)], now)
        if served or busy:
            idle_since = None
        elif idle_since is None:
            idle_since = now
        ended = idle_since is not None and now - idle_since >= LINGER
        assert over == ([at("10.244.0.1")] if ended else [])
        if ended:
            return


def test_counters_that_ended_begin_anew_when_they_are_wanted_again() -> None:
    accounts = Accounts(by_endpoint=True)
    endpoint = Endpoint(ip_address("fd00::2"), 8080)
    traffic = accounts.open(WEB, Protocol.TCP, endpoint)
    traffic.active = 1
    assert accounts.end([AT_ENDPOINT]) == [], "not before its last flow"
    assert accounts.open(WEB, Protocol.TCP, endpoint) is traffic
    traffic.active = 0
    assert accounts.end([]) == [], "it has come again"
    assert accounts.end([AT_ENDPOINT]) == [AT_ENDPOINT]
    assert accounts.traffic == {}
