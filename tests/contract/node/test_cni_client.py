"""Any configuration list is executed as the CNI specification says; the plugins here are scripts of a few lines."""

import asyncio
import json

import pytest

from netplane.errors import ConfigError, PeerError
from netplane.node.cni_client import Attachment, CniClient, CniError, addresses
from netplane.node.cni_config import candidates, choose_version, first_usable, parse
from tests.unit.node_fakes import GIVES_ADDRESS, calls, write_plugin

CID = "aa11"
TWO = {
    "cniVersion": "1.0.0",
    "name": "net",
    "plugins": [{"type": "one", "key": 1}, {"type": "two", "capabilities": {"portMappings": True}}],
}


@pytest.fixture
def bin_dir(tmp_path):
    for name in ("one", "two"):
        write_plugin(tmp_path / "bin", name)
    return tmp_path / "bin"


@pytest.fixture
def client(tmp_path, bin_dir):
    return CniClient([bin_dir], tmp_path / "cache", plugin_seconds=5)


def attachment(**more):
    return Attachment(CID, "/proc/1/ns/net", "eth0", {"IgnoreUnknown": "1", "K8S_POD_NAME": "p"}, more)


def network(document=TWO, **changes):
    return parse({**document, **changes}, "test")


async def test_the_chain_and_what_each_plugin_is_given(client, bin_dir):
    result = await client.add(network(), attachment(portMappings=[{"hostPort": 80}], bandwidth={"x": 1}))
    first, second = calls(bin_dir)
    assert [first["plugin"], second["plugin"]] == ["one", "two"]
    assert first["conf"] == {"type": "one", "key": 1, "name": "net", "cniVersion": "1.0.0"}
    assert second["conf"]["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert len(second["conf"]["prevResult"]["ips"]) == 1
    assert "capabilities" not in second["conf"]
    assert first["env"] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": CID,
        "CNI_NETNS": "/proc/1/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p",
        "CNI_PATH": str(bin_dir),
    }
    assert len(addresses(result)) == 2


async def test_del_in_reverse_with_the_result_of_add_and_its_configuration(client, bin_dir):
    added = await client.add(network(), attachment())
    (cached,) = client.attachments()
    assert cached.result == added
    await client.delete(cached, netns="")
    undone = calls(bin_dir)[2:]
    assert [(c["plugin"], c["verb"]) for c in undone] == [("two", "DEL"), ("one", "DEL")]
    assert all(c["conf"]["prevResult"] == added for c in undone)
    assert undone[1]["conf"]["key"] == 1
    assert undone[0]["env"]["CNI_NETNS"] == ""
    assert client.attachments() == []


async def test_before_0_4_0_del_has_no_previous_result_and_there_is_no_check(client, bin_dir):
    await client.add(network(cniVersion="0.3.1"), attachment())
    (cached,) = client.attachments()
    await client.check(cached)
    await client.delete(cached)
    assert all("prevResult" not in c["conf"] for c in calls(bin_dir)[2:])
    assert [c["verb"] for c in calls(bin_dir)] == ["ADD", "ADD", "DEL", "DEL"]


async def test_check_has_the_result_and_may_be_disabled(client, bin_dir):
    await client.add(network(), attachment())
    (cached,) = client.attachments()
    await client.check(cached)
    assert [c["verb"] for c in calls(bin_dir)[2:]] == ["CHECK", "CHECK"]
    assert calls(bin_dir)[2]["conf"]["prevResult"] == cached.result
    await client.delete(cached)
    await client.add(network(disableCheck=True), attachment())
    before = len(calls(bin_dir))
    await client.check(client.attachments()[0])
    assert len(calls(bin_dir)) == before


FAILS = 'if verb == "ADD":\n    print(json.dumps({"code": 7, "msg": "bad subnet", "details": "x"}))\n    sys.exit(1)'


async def test_a_failed_add_is_undone_and_its_error_read(client, bin_dir):
    write_plugin(bin_dir, "two", FAILS)
    with pytest.raises(CniError, match=r"cannot ADD by the CNI plugin two: bad subnet \(x\)") as caught:
        await client.add(network(), attachment())
    assert caught.value.code == 7
    assert [c["verb"] for c in calls(bin_dir)] == ["ADD", "ADD", "DEL", "DEL"]
    assert client.attachments() == []


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ('print("no json"); sys.exit(3)', CniError, "exit status 3: no json"),
        ('sys.stderr.write("Traceback"); sys.exit(1)', CniError, "exit status 1: Traceback"),
        ("os.kill(os.getpid(), 9)", CniError, "exit status -9"),
        ('print("[]")', PeerError, "its result is not a JSON object"),
        ('print("{")', PeerError, "its result is not a JSON object"),
    ],
)
async def test_plugins_that_misbehave(client, bin_dir, body, error, text):
    write_plugin(bin_dir, "one", f'if verb == "ADD":\n    {body}')
    with pytest.raises(error, match=text):
        await client.add(network(), attachment())


async def test_a_plugin_that_hangs_is_killed_with_all_it_started(tmp_path, bin_dir):
    client = CniClient([bin_dir], tmp_path / "cache", plugin_seconds=0.5)
    body = 'if verb == "ADD":\n    import subprocess\n    subprocess.run(["sleep", "3596"])'
    write_plugin(bin_dir, "one", body)
    with pytest.raises(CniError, match=r"did not answer within 0\.5 s"):
        await client.add(network(), attachment())
    process = await asyncio.create_subprocess_exec("pgrep", "-f", "sleep 3596", stdout=-3)
    assert await process.wait() == 1


async def test_a_missing_plugin_is_named(client):
    with pytest.raises(CniError, match=r"cannot find the CNI plugin nope in .*bin"):
        await client.add(network(plugins=[{"type": "nope"}]), attachment())


WAITS = """
import time
while verb == "ADD" and not os.path.exists({gate!r}):
    time.sleep(0.01)
"""


async def test_garbage_is_not_collected_beside_an_add(client, bin_dir, tmp_path):
    """A pod that is being attached is on no list of valid attachments yet: GC would free its address."""
    gate = tmp_path / "gate"
    write_plugin(bin_dir, "one", WAITS.format(gate=str(gate)) + GIVES_ADDRESS)
    net = network(cniVersion="1.1.0", plugins=[{"type": "one"}])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.add(net, attachment()))
        async with asyncio.timeout(5):
            while not calls(bin_dir):
                await asyncio.sleep(0.01)
        tasks.create_task(client.collect_garbage(net))
        tasks.create_task(client.add(net, Attachment("bb22", "/proc/1/ns/net")))
        await asyncio.sleep(0.05)  # time enough to do it wrong
        gate.touch()
    assert [(c["verb"], c["env"].get("CNI_CONTAINERID")) for c in calls(bin_dir)] == [
        ("ADD", CID),
        ("GC", None),
        ("ADD", "bb22"),
    ]
    valid = calls(bin_dir)[1]["conf"]["cni.dev/valid-attachments"]
    assert valid == [{"containerID": CID, "ifname": "eth0"}]


async def test_status_and_gc_only_from_1_1_0(client, bin_dir):
    await client.status(network())
    assert calls(bin_dir) == []
    new = network(cniVersion="1.1.0")
    await client.status(new)
    await client.add(new, attachment())
    await client.collect_garbage(new)
    gc = calls(bin_dir)[-1]
    assert gc["verb"] == "GC"
    assert gc["conf"]["cni.dev/valid-attachments"] == [{"containerID": CID, "ifname": "eth0"}]
    body = 'if verb == "STATUS":\n    print(json.dumps({"code": 50, "msg": "no"}))\n    sys.exit(1)'
    write_plugin(bin_dir, "two", body)
    with pytest.raises(CniError) as caught:
        await client.status(new)
    assert caught.value.code == 50


async def test_a_broken_cache_file_harms_no_other(client, tmp_path, bin_dir):
    await client.add(network(), attachment())
    (tmp_path / "cache" / "a-broken.json").write_text("{")
    assert len(client.attachments()) == 1


@pytest.mark.parametrize(
    ("stated", "offered", "chosen"),
    [("0.3.1", [], "0.3.1"), ("1.0.0", ["0.4.0", "1.1.0", "9.0.0"], "1.1.0"), ("2.0.0", ["1.0.0"], "1.0.0")],
)
def test_version_negotiation(stated, offered, chosen):
    assert choose_version(stated, offered) == chosen


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "it is not an object"),
        ({"cniVersion": "1.0.0", "plugins": [{"type": "a"}]}, "name is missing"),
        ({"cniVersion": "1.0.0", "name": "n", "plugins": []}, "plugins must be a list"),
        ({"cniVersion": "1.0.0", "name": "n", "plugins": [{}]}, r"plugins\[0\].type must be"),
        ({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../x"}]}, r"plugins\[0\].type must be"),
        ({"cniVersion": "9.0.0", "name": "n", "type": "a"}, "cniVersion 9.0.0 is not supported"),
        ({"name": "n", "type": "a"}, "cniVersion 0.1.0 is not supported"),
    ],
)
def test_configurations_that_cannot_be_used(document, text):
    with pytest.raises(ConfigError, match=text):
        parse(document, "x.conflist")


def test_the_first_usable_file_in_name_order(tmp_path):
    (tmp_path / "05-broken.conflist").write_text("{")
    (tmp_path / "20-b.conf").write_text(json.dumps({"cniVersion": "1.0.0", "name": "b", "type": "x"}))
    (tmp_path / "10-a.conflist").write_text(json.dumps({**TWO, "name": "a"}))
    (tmp_path / "00-notes.txt").write_text("x")
    assert first_usable(candidates(tmp_path)).name == "a"
    assert first_usable([]) is None
    with pytest.raises(ConfigError, match="05-broken"):
        first_usable([tmp_path / "05-broken.conflist"])


def test_the_fake_gives_addresses():
    assert "ips" in GIVES_ADDRESS
