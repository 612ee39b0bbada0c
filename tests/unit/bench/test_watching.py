"""What the watchers of `netplane bench api` count, however their reads fall."""

import itertools
import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from netplane.bench.api import _merged, _percentile
from netplane.bench.watching import BUCKET, MARK, Watchers, _count, mark

EVENT = '{{"type":"MODIFIED","object":{{"metadata":{{"annotations":{{"{}":"{}"}}}}}}}}\n'


@given(count=st.integers(0, 5), cuts=st.lists(st.integers(0, 600), max_size=6))
def test_each_event_is_counted_once_however_the_reads_fall(count, cuts) -> None:
    stream = "".join(EVENT.format(MARK, mark()) for _ in range(count)).encode()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    ages, rest = {}, b""
    for start, end in itertools.pairwise(edges):
        buffer = bytearray(rest + stream[start:end])
        rest = _count(buffer, len(buffer), ages)
    assert sum(map(Counter.total, ages.values())) == count


def test_an_age_is_counted_in_the_second_of_its_writing() -> None:
    sent = time.monotonic_ns() - 250_000_000
    ages = {}
    event = EVENT.format(MARK, f"{sent:020}").encode()
    _count(bytearray(event), len(event), ages)
    ((second, counted),) = ages.items()
    assert second == sent // 1_000_000_000
    (age,) = counted
    assert age * BUCKET >= 250_000_000


def test_what_several_processes_counted_is_one_sample() -> None:
    merged = _merged([{"ages": {"7": {"3": 2}}}, {"ages": {"7": {"3": 1, "9": 1}, "8": {"0": 5}}}])
    assert merged == {7: Counter({3: 3, 9: 1}), 8: Counter({0: 5})}


def test_percentiles_of_what_was_counted() -> None:
    counted = Counter({9: 98, 99: 1, 999: 1})
    assert [_percentile(counted, share) for share in (0.5, 0.99, 1.0)] == [1.0, 10.0, 100.0]


def test_each_kubelet_asks_for_its_own_node() -> None:
    asked = Watchers(2, "/api/v1/pods", {"fieldSelector": "spec.nodeName=node-{number}"}).requests()
    assert [b"spec.nodeName%3Dnode-0" in asked[0], b"spec.nodeName%3Dnode-1" in asked[1]] == [True, True]
