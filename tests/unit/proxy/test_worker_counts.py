"""Counters of several workers: they arrive as they were, and their sum never falls."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Protocol, ServicePort
from proxy.userspace.traffic import Traffic
from proxy.userspace.workers import counts

KEY = (ServicePort("default", "web", "http"), Protocol.TCP)
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
    found = counts.decode_traffic(counts.encode_traffic({KEY: traffic}))
    if traffic.used:
        assert list(found) == [KEY]
        assert values(found[KEY]) == values(traffic)
    else:
        assert found == {}, "nobody came: nothing is said"


@given(TRAFFIC, TRAFFIC)
def test_what_a_dead_worker_counted_stays_and_what_it_had_open_does_not(dead: Traffic, live: Traffic) -> None:
    total: counts.Counts = {}
    counts.add(total, {KEY: dead}, gone=True)
    counts.add(total, {KEY: live})
    assert total[KEY].active == live.active
    assert total[KEY].connections == dead.connections + live.connections
    assert sum(total[KEY].buckets) == 2
    assert total[KEY].rejected.get("a", 0) == dead.rejected.get("a", 0) + live.rejected.get("a", 0)
