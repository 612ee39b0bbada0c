"""Python and C agree on every struct of the maps, by the type information of the compiled object."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.errors import KernelError
from netplane.linux.bpf_library import library, members
from proxy.ebpf import build, layout, pins
from proxy.model import Endpoint, Frontend, Protocol

STRUCT = 4  # BTF_KIND_STRUCT
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None))
PORTS = st.integers(0, 0xFFFF)


@pytest.fixture(scope="module")
def btf() -> Iterator[int]:
    build.build()
    call = library().call
    handle = call.bpf_object__open_file(str(pins.compiled()).encode(), None)
    yield call.bpf_object__btf(handle)
    call.bpf_object__close(handle)


@pytest.mark.parametrize("name", layout.FIELDS)
def test_offsets_and_sizes(btf: int, name: str) -> None:
    size, found = members(library().call, btf, STRUCT, name)
    assert {member: bits // 8 for member, (bits, _) in found.items()} == layout.offsets(name)
    assert size == layout.STRUCTS[name].size


@given(st.builds(Frontend, ADDRESSES, PORTS, st.sampled_from([Protocol.TCP, Protocol.UDP])))
def test_frontends_come_back_as_they_were(frontend: Frontend) -> None:
    assert layout.frontend_of(layout.frontend_bytes(frontend)) == frontend


@given(st.lists(st.builds(Endpoint, ADDRESSES, PORTS, st.booleans(), st.booleans()), min_size=2))
def test_the_order_of_endpoints_is_that_of_their_bytes(endpoints: list[Endpoint]) -> None:
    """The programs search a block by halving, and compare memory."""
    v4 = [endpoint for endpoint in endpoints if endpoint.address.version == 4]
    for family in (v4, [endpoint for endpoint in endpoints if endpoint.address.version == 6]):
        by_bytes = sorted(family, key=lambda endpoint: layout.endpoint_bytes(endpoint)[:18])
        assert [e.order for e in by_bytes] == [e.order for e in sorted(family, key=lambda e: e.order)]


def test_a_stale_object_is_refused_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pins, "STAMP", tmp_path / "sockets.sha256")
    with pytest.raises(KernelError, match=r"built from other sources\. Run \./dev setup"):
        pins.compiled()
    monkeypatch.setattr(pins, "OBJECT", tmp_path / "sockets.bpf.o")
    with pytest.raises(KernelError, match="Install clang"):
        pins.compiled()


def test_addresses_are_said_as_a_dual_stack_socket_says_them() -> None:
    assert layout.address_bytes(ip_address("10.96.0.1")) == ip_address("::ffff:10.96.0.1").packed
