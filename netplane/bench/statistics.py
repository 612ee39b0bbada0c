"""The few figures that noisy machines allow: medians and percentiles, with how sure one may be of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample's median with its bootstrap 95 % interval, and its tail; all in the sample's unit."""

    count: int
    median: float
    low: float
    high: float
    p90: float
    p99: float
    largest: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of an ordered, non-empty sample; ``share`` is within 0..1."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def bootstrap(sample: Sequence[float], rounds: int = 1000, seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of the median, by resampling. The same sample gives the same interval."""
    dice = random.Random(seed)
    medians = sorted(percentile(sorted(dice.choices(sample, k=len(sample))), 0.5) for _ in range(rounds))
    return percentile(medians, 0.025), percentile(medians, 0.975)


def summarize(sample: Sequence[float]) -> Summary:
    """All figures of a sample. Raises ValueError on an empty one."""
    if not sample:
        raise ValueError("nothing was measured")
    ordered = sorted(sample)
    low, high = bootstrap(ordered)
    tail = (percentile(ordered, 0.9), percentile(ordered, 0.99))
    return Summary(len(ordered), percentile(ordered, 0.5), low, high, *tail, ordered[-1])


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Ours over theirs, round by round: the median ratio, its 95 % interval; rounds without a figure are left out."""
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True) if other)
    return percentile(ratios, 0.5), *bootstrap(ratios)
