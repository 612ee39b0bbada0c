"""A request whose every packet scapy built, answered by a pod, seen at both ends."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from netplane.debug import capture, explain
from netplane.errors import ConfigError
from netplane.kube.client import Client
from netplane.linux import nft
from netplane.linux.namespaces import entered_netns

if TYPE_CHECKING:
    from tests.netns.debug.conftest import World
else:
    World = Any

pytestmark = pytest.mark.netns


def view(world: World, target: str, source: str = "default/client", **options: Any) -> capture.View:
    run = capture.request_view(source, target, client=cast("Client", world), spawn=world.spawn(), **options)
    return asyncio.run(run)


def test_a_request_through_the_proxy_is_seen_on_both_sides(world: World) -> None:
    world.start_proxy()
    found = view(world, "svc/hello:80")
    text = found.render()
    assert (found.exit_code, found.reply.status) == (0, 200), text
    assert found.said["client"] == "10.244.1.3"
    client = [row for row in found.rows if row.side == "client"]
    endpoint = [row for row in found.rows if row.side == "endpoint"]
    assert [row.flags for row in client[:3]] == ["SYN", "SYN,ACK", "ACK"], text
    assert client[0].source == ("10.244.1.3", found.reply.port)
    assert client[0].destination == ("10.96.0.20", 80)
    # The relay's acknowledgement waits for the request, where that is there already.
    assert [row.flags for row in endpoint[:2]] == ["SYN", "SYN,ACK"], text
    assert endpoint[2].flags in ("ACK", "PSH,ACK"), text
    assert endpoint[0].source[0] == "10.244.1.3"
    assert endpoint[0].destination[0] in ("10.244.1.7", "10.244.2.9")
    assert not any("RST" in row.flags for row in found.rows), text
    assert f"ANSWER    HTTP 200 from pod default/{found.said['pod']} on {found.said['node']}" in text
    with entered_netns(world.netns["client"]):
        assert nft.listing("inet", f"netplane_probe_{found.reply.port}") is None


def test_straight_to_a_pod_both_sides_are_one_flow(world: World) -> None:
    found = view(world, "default/b:8080", path="/some?x=1")
    assert found.exit_code == 0, found.render()
    assert {(row.side, row.node) for row in found.rows} == {("client", "n1"), ("endpoint", "n2")}
    assert found.said["path"].startswith("/some?x=1&netplane-probe=")


def test_a_refusal_is_seen_as_such(world: World) -> None:
    world.start_proxy()
    found = view(world, "default/b:9999")
    assert (found.exit_code, found.reply.outcome) == (1, "refused"), found.render()
    assert "RST" in found.render()


def test_silence_ends_in_time(world: World) -> None:
    with entered_netns(world.netns["n2"]):
        nft.apply("table inet t { chain f { type filter hook forward priority 0; policy drop; }\n}")
    found = view(world, "default/b:8080", seconds=1.0)
    assert (found.exit_code, found.reply.outcome) == (1, "silent"), found.render()
    assert [row.flags for row in found.rows if row.node == "n1"][:2] == ["SYN", "SYN"]


def test_a_node_out_of_sight_is_named(world: World) -> None:
    world.start_proxy()
    world.blind.add("n2")
    found = view(world, "svc/hello:80")
    assert found.unseen == ("n2",)
    assert "node n2 cannot be looked into from here" in found.render()


def test_only_a_pod_can_be_the_source(world: World) -> None:
    with pytest.raises(ConfigError, match="it is not a pod"):
        view(world, "svc/hello:80", "node/n1")


def test_explain_with_a_probe_shows_both(world: World) -> None:
    world.start_proxy()
    run = explain.run(
        "default/client", "svc/hello:80", client=cast("Client", world), spawn=world.spawn(), probe=True
    )
    found = asyncio.run(run)
    assert found.exit_code == 0, found.render()
    assert "ANSWER    HTTP 200" in found.render()
    assert found.as_json()["probe"]["status"] == 200
