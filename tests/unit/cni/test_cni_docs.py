"""docs/cni.md has every key that is read, with its default; and every key it has is read."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from cni import netconf, protocol, wishes
from cni.daemon import Settings
from cni.errors import CniError, Code
from cni.results import VERSIONS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/cni.md").read_text()
READERS = {"get": 0, "_object": 1, "_list": 1, "_address": 1}  # function → which argument is a key
OF_THE_RUNTIME = {
    "prevResult",
    "args",
    "cni",
    "containerID",
    "ifname",
    "nameservers",
    "search",
}  # no configuration


def table(heading: str) -> dict[str, list[str]]:
    """A table of the page by the words in its first column: the other columns of each."""
    after = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    found = {}
    for line in after:
        first, *others = [cell.strip() for cell in line.strip("|").split(" | ")]
        for key in re.findall(r"`([^`]+)`", first):
            found[key] = others
    return found


def read_by(module: str) -> set[str]:
    """Keys that a module asks a mapping for."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"cni/{module}.py").read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = READERS.get(name)
        if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
            found.add(node.args[place].value)
    return {key for key in found if isinstance(key, str) and not key.startswith("CNI_")}


def test_every_key_that_is_read_is_on_the_page():
    keys = read_by("netconf") | read_by("wishes") | read_by("ports") | read_by("protocol")
    keys |= set(wishes._SPELLED.values()) | set(netconf._REFUSED)
    assert {"mtu", "masquerade", "hostPort", "ipMasq"} <= keys, "the keys are found"
    keys -= OF_THE_RUNTIME | set(protocol._KNOWN_ARGUMENTS)
    named = {part for words in re.findall(r"`([^`\s]+)`", PAGE) for part in words.split(".")}
    assert keys - named == set()


WRONG = {"nobody": "wants this"}
AT = {  # where the page's keys are, with a value that each must refuse and name
    "ipam.ranges": {"ipam": {"ranges": WRONG}},
    "ipam.ranges[][]": {"ipam": {"ranges": [[7]]}},
    ".subnet": {"ipam": {"ranges": [[{"subnet": "x"}]]}},
    **{
        f".{key}": {"ipam": {"ranges": [[{"subnet": "10.0.0.0/24", key: "x"}]]}}
        for key in ("rangeStart", "rangeEnd", "gateway")
    },
    "ipam.type": {"ipam": {"type": "dhcp", "ranges": [["10.0.0.0/24"]]}},
    "masquerade": {"masquerade": [7]},
    "masquerade.exclude": {"masquerade": {"exclude": ["x"]}},
    "mtu": {"mtu": "x"},
    "dns": {"dns": [7]},
    "name": {"name": "/"},
    "cniVersion": {"cniVersion": "9"},
    "ipMasq": {"ipMasq": True},
}


def refusal(**keys) -> CniError:
    document = {"name": "net", "cniVersion": "1.0.0", "ipam": {"ranges": [["10.0.0.0/24"]]}, **keys}
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    with pytest.raises(CniError) as caught:
        protocol.parse({**environment, "CNI_NETNS": "/x"}, netconf.orjson.dumps(document))
    return caught.value


def test_every_key_on_the_page_is_read_and_named_where_it_is_wrong():
    assert set(table("key | default")) == set(AT)
    for key, wrong in AT.items():
        assert key.lstrip(".").partition("[")[0].rpartition(".")[2] in str(refusal(**wrong)), key


@pytest.mark.parametrize("name", sorted(table("capability (`runtimeConfig`)")))
def test_every_capability_on_the_page_is_read(name):
    wrong = {"portMappings": [7], "mac": "x", "ips": ["x"], "ipRanges": [7]}.get(name, [7])
    refused = refusal(runtimeConfig={name: wrong})
    assert (name if name != "ipRanges" else "ranges") in str(refused)
    assert (refused.code is Code.UNSUPPORTED_FIELD) is (name in netconf._REFUSED)


def test_the_page_says_the_defaults():
    keys = table("key | default")
    assert keys["cniVersion"][0] == f"`{VERSIONS[0]}`"
    for key in ("ipam.ranges", ".subnet", "name"):
        assert keys[key][0].startswith("required")
    settings = table("setting | default")
    fields = dataclasses.fields(Settings)
    assert set(settings) == {field.name for field in fields}
    for field in fields:
        if field.default is not None:
            assert f"`{field.default}`" in settings[field.name][0], field.name
