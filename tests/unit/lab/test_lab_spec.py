"""What may be asked of a lab, and where its machines are."""

from pathlib import Path

import pytest

from netplane.cli.explaining import in_lab
from netplane.errors import ConfigError
from netplane.lab.spec import LabSpec, every_possible_machine


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ({"name": "Upper"}, "cannot name a lab 'Upper'"),
        ({"name": "a" * 17}, "1 to 16"),
        ({"name": "-a"}, "cannot name a lab"),
        ({"name": "../x"}, "cannot name a lab"),
        ({"name": ""}, "cannot name a lab"),
        ({"nodes": 0}, "--nodes is from 1 to 9, not 0"),
        ({"nodes": 10}, "--nodes is from 1 to 9, not 10"),
        ({"masters": 3}, "--masters 3 is not served by netplane yet"),
        ({"mode": "ipvs"}, "--mode ipvs is not served by netplane yet"),
        ({"store": "etcd"}, "--store etcd is not served by netplane yet"),
        ({"overlay": "vxlan"}, "--overlay vxlan is not served by netplane yet"),
    ],
)
def test_what_is_wrong_or_not_served_is_refused_by_name(shape, cause):
    with pytest.raises(ConfigError, match=cause):
        LabSpec(**shape)


def test_machines_have_their_places_on_the_underlay():
    spec = LabSpec(name="a", nodes=2)
    assert [(one.name, str(one.address), one.is_master) for one in spec.machines] == [
        ("m1", "192.168.77.10", True),
        ("n1", "192.168.77.11", False),
        ("n2", "192.168.77.12", False),
    ]
    assert spec.server == "https://192.168.77.10:6443"
    assert spec.machine("n2").root == Path("/var/lib/netplane/labs/a/n2")
    with pytest.raises(ConfigError, match=r'it has m1, n1, n2\. "netplane lab exec" takes "outside", too'):
        spec.machine("n3")


def test_a_spec_survives_its_record():
    spec = LabSpec(name="a", nodes=9, nat_interface=True)
    assert LabSpec.from_json(spec.as_json()) == spec


def test_socket_paths_fit_into_a_socket_address():
    spec = LabSpec(name="a" * 16, nodes=9)
    for machine in spec.machines:
        for name in ("supervise.sock", "notify-controlplane.sock", "pods/0123456789ab/s"):
            assert len(str(machine.paths.run / name).encode()) < 100


def test_what_down_looks_for_covers_what_up_can_make():
    spec = LabSpec(name="a", nodes=9)
    assert set(spec.machines) <= set(every_possible_machine(spec.directory))


def test_explain_knows_a_labs_outside_by_name():
    assert in_lab("outside") == "192.168.77.1"
    assert in_lab("node/n1") == "node/n1"
