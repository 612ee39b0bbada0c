"""The statistics that every published figure goes through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.bench.statistics import summarize


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_figures_are_ordered_and_from_the_sample(sample: list[float]) -> None:
    summary = summarize(sample)
    assert summary.low <= summary.median <= summary.high <= summary.largest
    assert summary.median <= summary.p90 <= summary.p99 <= summary.largest
    assert {summary.median, summary.p90, summary.p99} <= set(sample)
    assert summarize(sample) == summary


def test_nothing_measured_is_said() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([])
