"""Names that controllers make up, in Kubernetes' own alphabet."""

import random

SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, so no words; no digits that look like letters


def suffix(source: random.Random, length: int = 5) -> str:
    """A random end of a name."""
    return "".join(source.choices(SAFE_LETTERS, k=length))
