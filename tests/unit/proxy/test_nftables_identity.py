"""Numbers of Service ports: everybody's own, whatever their hashes are, and the same in the next process."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.nftables.identity import Numbers

NAMES = st.lists(st.text(max_size=3), unique=True, max_size=8)


@given(names=NAMES, taken=st.lists(st.integers(0, 3), max_size=4), later=NAMES)
def test_no_two_names_share_a_number(names: list[str], taken: list[int], later: list[str]) -> None:
    numbers = Numbers()
    numbers.adopt((f"known-{index}", number.to_bytes(4, "little")) for index, number in enumerate(taken))
    given_out = {name: numbers.of(name) for name in (*names, *(f"known-{i}" for i in range(len(taken))))}
    assert len(set(given_out.values())) == len(given_out)
    assert b"\0\0\0\0" not in given_out.values()
    successor = Numbers()
    successor.adopt(given_out.items())
    assert {name: successor.of(name) for name in reversed([*given_out, *later])}.items() >= given_out.items()


def test_a_name_whose_hash_is_taken_gets_another_number() -> None:
    numbers, others = Numbers(), Numbers()
    others.adopt([("somebody", numbers.of("web"))])
    assert others.of("web") != numbers.of("web")
