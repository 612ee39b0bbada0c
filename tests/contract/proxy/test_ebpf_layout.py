"""Python and C agree on every struct of the maps, by the type information of the compiled object."""

import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from netplane.errors import KernelError
from netplane.linux.bpf_library import library, members
from proxy.ebpf import build, layout
from proxy.ebpf.hostrouting import layout as pods
from proxy.ebpf.hostrouting.layout import End, Ends
from proxy.ebpf.objects import PODS, SOCKETS, Source
from proxy.model import Endpoint, Frontend, Protocol

STRUCT = 4  # BTF_KIND_STRUCT
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None))
PORTS = st.integers(0, 0xFFFF)


STRUCTS = [
    *((SOCKETS, layout.FIELDS, name) for name in layout.FIELDS),
    *((PODS, pods.FIELDS, name) for name in pods.FIELDS),
]


@pytest.fixture(scope="module")
def handles() -> Iterator[dict[Source, int]]:
    build.build()
    call = library().call
    opened = {s: call.bpf_object__open_file(str(s.built()).encode(), None) for s in (SOCKETS, PODS)}
    yield opened
    for handle in opened.values():
        call.bpf_object__close(handle)


@pytest.mark.parametrize(("source", "fields", "name"), STRUCTS, ids=[name for _, _, name in STRUCTS])
def test_offsets_and_sizes(handles: dict[Source, int], source: Source, fields, name: str) -> None:
    call = library().call
    size, found = members(call, call.bpf_object__btf(handles[source]), STRUCT, name)
    form = struct.Struct("=" + "".join(form for _, form in fields[name]))
    assert {member: bits // 8 for member, (bits, _) in found.items()} == layout.offsets(fields, name)
    assert size == form.size


ENDS = st.tuples(ADDRESSES, PORTS)


@given(st.sampled_from([6, 17]), ENDS, ENDS)
def test_flows_come_back_as_they_were_whoever_speaks(protocol: int, one: End, other: End) -> None:
    assume(one[0] != other[0])
    packed = Ends(protocol, one, other).packed
    found = pods.ends_of(packed)
    assert packed == Ends(protocol, other, one).packed
    assert (found.protocol, {found.one, found.other}) == (protocol, {one, other})


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


def test_a_stale_object_is_refused_by_name(tmp_path) -> None:
    source = replace(SOCKETS, root=tmp_path)
    with pytest.raises(KernelError, match="Install clang"):
        source.built()
    shutil.copytree(SOCKETS.root / "bpf", tmp_path / "bpf")
    shutil.copytree(SOCKETS.root / "build", tmp_path / "build")
    assert source.built() == source.object
    source.file.write_text(source.file.read_text() + "/* edited */")
    with pytest.raises(KernelError, match=r"built from other sources\. Run \./dev setup"):
        source.built()


def test_addresses_are_said_as_a_dual_stack_socket_says_them() -> None:
    assert layout.address_bytes(ip_address("10.96.0.1")) == ip_address("::ffff:10.96.0.1").packed
