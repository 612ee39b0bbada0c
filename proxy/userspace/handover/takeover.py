"""What is to be told of flows that have passed from one process to another."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Takeover:
    """How many flows, and for how many seconds one stood still at most: nobody relayed it in between."""

    flows: int = 0
    longest: float = 0.0

    @classmethod
    def of(cls, parts: Iterable["Takeover"]) -> "Takeover":
        """Several at about the same time as one."""
        found = list(parts)
        return cls(sum(one.flows for one in found), max((one.longest for one in found), default=0.0))

    def encode(self) -> list[Any]:
        """As JSON."""
        return [self.flows, self.longest]

    def __str__(self) -> str:
        return f"{self.flows} flows, each after {self.longest * 1000:.0f} ms at most"
