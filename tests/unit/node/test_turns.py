"""Whoever is alone is alone, in any order of coming, and nobody waits for ever."""

import asyncio

import pytest

from netplane.node.turns import Turns


@pytest.mark.parametrize("order", ["babab", "aabb", "bbba", "abba", "a", "bb"])
async def test_alone_means_alone_and_all_have_their_turn(order):
    turns, inside, ended = Turns(), [], []

    async def take(kind):
        async with turns.alone() if kind == "a" else turns.beside_others():
            inside.append(kind)
            for _ in range(3):
                await asyncio.sleep(0)
                assert "a" not in inside or inside == ["a"]
            inside.remove(kind)
        ended.append(kind)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for kind in order:
            tasks.create_task(take(kind))
    assert sorted(ended) == sorted(order)


async def test_one_that_stops_waiting_holds_nobody_up():
    turns = Turns()
    async with turns.beside_others():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), turns.alone():
                pass
        async with asyncio.timeout(1), turns.beside_others():
            pass
