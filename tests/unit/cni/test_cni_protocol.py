"""The border: environment and standard input against the specification's codes."""

import json
import re

import pytest

from cni import protocol
from cni.errors import CniError, Code, from_exception, render
from cni.protocol import Attachment, Command
from cni.results import VERSIONS
from netplane.errors import ConfigError, KernelError

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "abc",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/proc/1/ns/net",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "netplane",
    "type": "netplane",
    "ipam": {"ranges": [["10.244.1.0/24"]]},
}
PREVIOUS = {"cniVersion": "1.0.0", "ips": []}


def parse(environment=(), **keys):
    document = {key: value for key, value in {**CONFIG, **keys}.items() if value is not None}
    merged = {**ENVIRONMENT, **dict(environment)}
    return protocol.parse({k: v for k, v in merged.items() if v is not None}, json.dumps(document).encode())


def refused(environment=(), **keys):
    with pytest.raises(CniError) as caught:
        parse(environment, **keys)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("version", VERSIONS)
def test_add_is_parsed_in_every_version(version):
    request = parse(cniVersion=version)
    assert (request.command, request.version) == (Command.ADD, version)
    assert request.attachment == Attachment("netplane", "abc", "eth0")
    assert str(request.config.pools[0].ranges[0]) == "10.244.1.0/24"


def test_a_missing_version_is_0_1_0():
    assert parse(cniVersion=None).version == "0.1.0"


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("version", ["0.2.1", "2.0.0", "1.1", "x", 1, ["1.0.0"]])
def test_an_unsupported_version_is_1_for_every_verb(command, version):
    code, message = refused({"CNI_COMMAND": command}, cniVersion=version)
    assert code == 1
    assert repr(version) in message
    assert "1.1.0" in message


@pytest.mark.parametrize(
    ("command", "versions"),
    [("CHECK", ("0.1.0", "0.3.1")), ("GC", ("0.4.0", "1.0.0")), ("STATUS", ("0.3.1", "1.0.0"))],
)
def test_a_verb_younger_than_the_version_is_1(command, versions):
    for version in versions:
        code, message = refused({"CNI_COMMAND": command}, cniVersion=version, prevResult=PREVIOUS)
        assert code == 1
        assert command in message


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"CNI_COMMAND": None}, ["CNI_COMMAND", "missing"]),
        ({"CNI_COMMAND": "FROB"}, ["CNI_COMMAND", "FROB"]),
        ({"CNI_CONTAINERID": None}, ["CNI_CONTAINERID"]),
        ({"CNI_CONTAINERID": ""}, ["CNI_CONTAINERID"]),
        ({"CNI_CONTAINERID": ".abc"}, ["CNI_CONTAINERID", ".abc"]),
        ({"CNI_CONTAINERID": "a/b"}, ["CNI_CONTAINERID"]),
        ({"CNI_CONTAINERID": "a\n"}, ["CNI_CONTAINERID"]),
        ({"CNI_NETNS": None}, ["CNI_NETNS"]),
        ({"CNI_PATH": None}, ["CNI_PATH"]),
        ({"CNI_NETNS": None, "CNI_IFNAME": None}, ["CNI_NETNS", "CNI_IFNAME"]),
        ({"CNI_IFNAME": "."}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": ".."}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": "sixteen-bytes-xx"}, ["CNI_IFNAME", "15"]),
        ({"CNI_IFNAME": "a/b"}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": "a:b"}, ["CNI_IFNAME"]),
        ({"CNI_IFNAME": "a b"}, ["CNI_IFNAME"]),
        ({"CNI_NETNS": "/proc/\udcff/ns"}, ["CNI_NETNS", "printable"]),
        ({"CNI_ARGS": "K8S_POD_NAME=\n"}, ["CNI_ARGS", "printable"]),
        ({"CNI_ARGS": "A"}, ["CNI_ARGS", "'A'"]),
        ({"CNI_ARGS": "=x"}, ["CNI_ARGS"]),
        ({"CNI_ARGS": "FOO=1;K8S_POD_NAME=x"}, ["CNI_ARGS", "FOO"]),
        ({"CNI_ARGS": "FOO=1;IgnoreUnknown=0"}, ["CNI_ARGS", "FOO"]),
    ],
)
def test_a_wrong_environment_is_4_and_names_each_variable(environment, named):
    code, message = refused(environment)
    assert code == 4
    for name in named:
        assert name in message


@pytest.mark.parametrize(
    "args", ["", "IgnoreUnknown=1;FOO=2", "K8S_POD_NAME=x;K8S_POD_UID=y;", "FOO=;IgnoreUnknown=true"]
)
def test_cni_args_that_runtimes_send_pass(args):
    assert parse({"CNI_ARGS": args}).command is Command.ADD


@pytest.mark.parametrize(
    ("environment", "keys", "mac", "ips"),
    [
        ("IP=10.244.1.9;MAC=06-00-00-00-00-0A", {}, "06:00:00:00:00:0a", ["10.244.1.9"]),
        ("IP=10.244.1.9", {"args": {"cni": {"ips": ["10.244.1.8/24"]}}}, None, ["10.244.1.8"]),
        (
            "MAC=06:00:00:00:00:01",
            {
                "args": {"cni": {"mac": "06:00:00:00:00:02", "ips": ["10.244.1.8"]}},
                "runtimeConfig": {"mac": "06:00:00:00:00:03", "ips": ["10.244.1.7"]},
            },
            "06:00:00:00:00:03",
            ["10.244.1.7"],
        ),
        ("", {"runtimeConfig": {"ips": [], "mac": ""}}, None, []),
    ],
)
def test_wishes_have_an_order(environment, keys, mac, ips):
    config = parse({"CNI_ARGS": environment}, **keys).config
    assert (config.mac, [str(address) for address in config.ips]) == (mac, ips)


@pytest.mark.parametrize(
    ("environment", "keys", "named"),
    [
        ("MAC=01:00:00:00:00:01", {}, ["CNI_ARGS MAC", "01:00"]),
        ("MAC=nonsense", {}, ["CNI_ARGS MAC", "nonsense"]),
        ("IP=nowhere", {}, ["CNI_ARGS IP", "nowhere"]),
        ("", {"args": {"cni": {"ips": "10.244.1.8"}}}, ["args.cni.ips"]),
        ("", {"args": {"cni": []}}, ["args.cni"]),
        ("", {"runtimeConfig": {"ips": ["192.0.2.1"]}}, ["192.0.2.1", "not an address of a range"]),
        ("", {"runtimeConfig": {"ips": ["10.244.1.8", "10.244.1.9"]}}, ["10.244.1.9", "second"]),
        ("", {"runtimeConfig": {"dns": {"servers": "10.0.0.1"}}}, ["runtimeConfig.dns"]),
    ],
)
def test_wishes_that_cannot_be_are_named(environment, keys, named):
    code, message = refused({"CNI_ARGS": environment}, **keys)
    assert code == 7
    for part in named:
        assert part in message


def test_dns_of_the_runtime_goes_over_the_configurations():
    runtime = {"dns": {"servers": ["192.0.2.53"], "searches": ["a.example"], "options": []}}
    config = parse({}, dns={"nameservers": ["10.96.0.10"], "domain": "b"}, runtimeConfig=runtime).config
    assert config.dns == {"nameservers": ["192.0.2.53"], "domain": "b", "search": ["a.example"]}


def test_ranges_of_the_runtime_come_first():
    runtime = {"ipRanges": [[{"subnet": "fd00::/64"}]]}
    assert [str(pool.ranges[0]) for pool in parse({}, runtimeConfig=runtime).config.pools] == [
        "fd00::/64",
        "10.244.1.0/24",
    ]


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_what_is_no_json_object_is_6(stdin):
    with pytest.raises(CniError) as caught:
        protocol.parse(ENVIRONMENT, stdin)
    assert caught.value.code == Code.DECODING_FAILURE


@pytest.mark.parametrize("name", [None, "", "-x", "a b", "a/b", 7])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
def test_a_wrong_network_name_is_7(name, command):
    code, message = refused({"CNI_COMMAND": command}, name=name, prevResult=PREVIOUS)
    assert code == 7
    assert "name" in message


def test_del_needs_no_namespace_and_reads_no_more_than_the_name():
    request = parse({"CNI_COMMAND": "DEL", "CNI_NETNS": None}, ipam={"ranges": "nonsense"}, prevResult=[])
    assert request.attachment == Attachment("netplane", "abc", "eth0")


def test_check_needs_prev_result():
    code, message = refused({"CNI_COMMAND": "CHECK"})
    assert code == 7
    assert "prevResult" in message


def test_gc_lists_what_lives():
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]
    only = {name: None for name in ENVIRONMENT if name != "CNI_PATH"} | {"CNI_COMMAND": "GC"}
    request = parse(only, cniVersion="1.1.0", **{"cni.dev/valid-attachments": listed})
    assert request.valid == {Attachment("netplane", "a", "eth0"), Attachment("netplane", "b", "net1")}
    for wrong in (None, {}, [1], [{"containerID": "a"}], [{"containerID": "a", "ifname": ""}]):
        code, message = refused(only, cniVersion="1.1.0", **{"cni.dev/valid-attachments": wrong})
        assert code == 7
        assert "valid-attachments" in message


@pytest.mark.parametrize(
    ("stdin", "version"),
    [(b"", "1.1.0"), (b'{"cniVersion": "0.4.0"}', "0.4.0"), (b'{"cniVersion": "9.0.0"}', "1.1.0")],
)
def test_version_needs_nothing_but_its_command(stdin, version):
    request = protocol.parse({"CNI_COMMAND": "VERSION"}, stdin)
    answer = json.loads(protocol.render_version(request.version))
    assert answer == {"cniVersion": version, "supportedVersions": list(VERSIONS)}


def test_errors_are_written_in_the_request_s_version():
    assert protocol.version_of(b'{"cniVersion": "0.3.1"}') == "0.3.1"
    for unknown in (b"", b"[]", b'{"cniVersion": []}', b'{"cniVersion": "9"}'):
        assert protocol.version_of(unknown) == "1.1.0"
    error = json.loads(render(CniError(Code.INVALID_CONFIG, "cannot x", "Do y"), "0.4.0"))
    assert error == {"cniVersion": "0.4.0", "code": 7, "msg": "cannot x", "details": "Do y"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("cannot a"), 7),
        (KernelError("cannot b"), 100),
        (KeyError("c"), 199),
        (CniError(Code.EXHAUSTED, "d"), 101),
    ],
)
def test_every_failure_has_a_code(error, code):
    found = from_exception(error)
    assert found.code == code
    assert re.search(r"\w", found.message)
