"""Settings: every mistake is named with its file and field."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from netplane.config import CLUSTER_CIDRS, IPAddress, IPNetwork, Paths, load, parse
from netplane.errors import ConfigError


class Mode(StrEnum):
    USERSPACE = "userspace"
    NFTABLES = "nftables"


@dataclass(frozen=True)
class Port:
    name: str
    number: int = 0


@dataclass(frozen=True)
class Sample:
    root: Path = Path("/")
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS
    address: IPAddress | None = None
    mode: Mode = Mode.USERSPACE
    seconds: float = 1.0
    strict: bool = False
    ports: tuple[Port, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise ValueError("seconds must not be below 0")


def test_reads_camel_case_and_types(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "clusterCIDRs: [10.1.0.0/16, 'fd00::/56']\naddress: 10.0.0.1\nmode: nftables\nseconds: 3\n"
        "ports: [{name: a, number: 1}]\nlabels: {a: b}\n"
    )
    sample = load(Sample, file, root=tmp_path)
    assert [str(cidr) for cidr in sample.cluster_cidrs] == ["10.1.0.0/16", "fd00::/56"]
    assert str(sample.address) == "10.0.0.1"
    assert sample.mode is Mode.NFTABLES
    assert sample.ports == (Port("a", 1),)
    assert sample.root == tmp_path


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"adress": "1.2.3.4"}, r"adress is not a known field, perhaps address \(known: address, cluster"),
        ({"zzz": 1}, r"zzz is not a known field \(known: "),
        ({"address": "1.2.3.400"}, "address is not valid"),
        ({"clusterCIDRs": "10.0.0.0/8"}, "clusterCIDRs must be a list"),
        ({"clusterCIDRs": ["10.0.0.1/8"]}, r"clusterCIDRs\[0\] is not valid"),
        ({"mode": "ipvs"}, "mode must be one of userspace, nftables, not 'ipvs'"),
        ({"strict": "yes"}, "strict must be true or false"),
        ({"seconds": True}, "seconds must be a number"),
        ({"seconds": "soon"}, "seconds must be a number, not 'soon'"),
        ({"ports": [{"name": "a", "number": "x"}]}, r"ports\[0\].number must be a whole number, not 'x'"),
        ({"seconds": -1.0}, "seconds must not be below 0"),
        ({"ports": [{"number": 1}]}, r"ports\[0\].name is missing"),
        ({"ports": [{"name": "a", "number": 1.5}]}, r"ports\[0\].number must be a whole number"),
        ({"ports": ["a"]}, r"ports\[0\] must be a mapping"),
    ],
)
def test_mistakes_are_named(document: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot use test: {complaint}"):
        parse(Sample, document, "test")


def test_broken_file_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\nb: [")
    with pytest.raises(
        ConfigError, match=r"cannot read .*x\.yaml: line 2, column 5: expected the node content"
    ):
        load(Sample, file)


def test_two_roots_never_share_a_cgroup() -> None:
    assert Paths(Path("/")).cgroup_name == "netplane"
    assert Paths(Path("/a")).cgroup_name != Paths(Path("/b")).cgroup_name
