"""How many pods each ReplicaSet of a Deployment should have next: the arithmetic of rolling updates.

Laws, whatever the interleaving with ReplicaSets and pods: active pods never exceed replicas + maxSurge, and no
step takes available pods below replicas - maxUnavailable. Sizes may be stale; they are read so that staleness
can only make a step smaller. Source: Kubernetes ``pkg/controller/deployment/{rolling,sync}.go``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, slots=True)
class Size:
    """One ReplicaSet, oldest first where a sequence is asked for.

    ``wanted``: spec.replicas; ``replicas`` and ``available``: from its status; ``settled``: whether that status
    is about the present spec; ``annotated_max``: replicas + maxSurge when it was last scaled, 0 if unknown.
    """

    name: str
    wanted: int
    replicas: int
    available: int
    settled: bool = True
    annotated_max: int = 0

    @property
    def surely_available(self) -> int:
        """Pods that are available now and stay so after its controller has caught up."""
        return min(self.available, self.wanted)

    @property
    def possibly_active(self) -> int:
        """Pods that may exist until its controller has caught up."""
        return max(self.replicas, self.wanted)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The Deployment's size and how far a rollout may stray from it."""

    replicas: int
    max_surge: int
    max_unavailable: int

    @property
    def most(self) -> int:
        """The most active pods; none at all for a Deployment of size 0."""
        return self.replicas + self.max_surge if self.replicas > 0 else 0

    @property
    def least_available(self) -> int:
        """The fewest available pods."""
        return self.replicas - self.max_unavailable


def bounds(replicas: int, max_surge: object, max_unavailable: object) -> Bounds:
    """Resolve ``"25%"`` or numbers: surge rounds up, unavailable down, and never are both 0."""
    surge = _scaled(max_surge, replicas, ceil)
    unavailable = _scaled(max_unavailable, replicas, floor)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Bounds(replicas, surge, min(unavailable, replicas))


def _scaled(value: object, total: int, rounding: object) -> int:
    text = str(value)
    if not text.endswith("%"):
        return int(text)
    exact = int(text[:-1]) * total / 100
    return ceil(exact) if rounding is ceil else floor(exact)


def rolling(limits: Bounds, new: Size, old: Sequence[Size]) -> Mapping[str, int]:
    """The next ``spec.replicas`` by name, for those that change."""
    grown = _grow(limits, new, old)
    shrunk = _shrink(limits, new, old)
    return {**shrunk, **grown}


def _grow(limits: Bounds, new: Size, old: Sequence[Size]) -> dict[str, int]:
    if new.wanted > limits.replicas:
        return {new.name: limits.replicas}
    everything = [new, *old]
    # Pods of a set whose controller has not caught up cannot be counted, so nothing is added to them.
    if new.wanted == limits.replicas or not all(size.settled for size in everything):
        return {}
    room = limits.most - sum(size.possibly_active for size in everything)
    step = min(room, limits.replicas - new.wanted)
    return {new.name: new.wanted + step} if step > 0 else {}


def _shrink(limits: Bounds, new: Size, old: Sequence[Size]) -> dict[str, int]:
    everything = [new, *old]
    new_unavailable = new.wanted - new.surely_available
    spare = sum(size.wanted for size in everything) - limits.least_available - new_unavailable
    if spare <= 0:
        return {}
    sizes = {size.name: size.wanted for size in old}
    for size in old:  # what does not work anyway goes first
        step = max(0, min(spare, size.wanted - size.surely_available))
        sizes[size.name] -= step
        spare -= step
    available = new.surely_available + sum(min(s.available, sizes[s.name]) for s in old)
    excess = available - limits.least_available
    for size in old:
        step = max(0, min(excess, sizes[size.name]))
        sizes[size.name] -= step
        excess -= step
    return {size.name: sizes[size.name] for size in old if sizes[size.name] != size.wanted}


def recreate(limits: Bounds, new: Size | None, old: Sequence[Size], old_pods: int) -> Mapping[str, int]:
    """Stop everything old; start the new only when no old pod is left, not even a terminating one."""
    stopped = {size.name: 0 for size in old if size.wanted > 0}
    if stopped or old_pods or new is None or new.wanted == limits.replicas:
        return stopped
    return {new.name: limits.replicas}


def resize(limits: Bounds, new: Size | None, old: Sequence[Size], *, is_rolling: bool) -> Mapping[str, int]:
    """The Deployment's own size changed, or it is paused: share the size among what runs, and roll nothing."""
    running = [size for size in (*old, *([new] if new else [])) if size.wanted > 0]
    if len(running) <= 1:
        only = running[0] if running else new
        return {only.name: limits.replicas} if only and only.wanted != limits.replicas else {}
    if new and new.wanted == new.available == limits.replicas:
        return {size.name: 0 for size in old if size.wanted > 0}
    return _in_proportion(limits, running) if is_rolling else {}


def _in_proportion(limits: Bounds, running: Sequence[Size]) -> Mapping[str, int]:
    """Every set keeps its share; the rounding's rest goes to the largest, as far as it has pods to give."""
    total = sum(size.wanted for size in running)
    left = limits.most - total
    growing = left > 0
    age = {size.name: index for index, size in enumerate(running)}
    ordered = sorted(running, key=lambda s: (-s.wanted, -age[s.name] if growing else age[s.name]))
    sizes: dict[str, int] = {}
    for size in ordered:
        share = _share(limits, size, total)
        step = min(share, left) if growing else max(share, left)
        sizes[size.name] = size.wanted + step
        left -= step
    for size in ordered:
        step = max(left, -sizes[size.name])
        sizes[size.name] += step
        left -= step
    return {size.name: sizes[size.name] for size in running if sizes[size.name] != size.wanted}


def _share(limits: Bounds, size: Size, total: int) -> int:
    if limits.replicas == 0:
        return -size.wanted
    before = size.annotated_max or total
    return floor(size.wanted * limits.most / before + 0.5) - size.wanted
