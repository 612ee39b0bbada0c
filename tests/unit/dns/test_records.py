"""The table of DNS: what each question about a small cluster is answered with."""

import random
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import dns.name
import dns.rdatatype
import pytest
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from netplane.dns.index import Index
from netplane.dns.records import TTL, Answer, Question, Zone, answer
from netplane.kube.cache import ADDED, DELETED, MODIFIED, Change

ZONE = Zone.of(
    "cluster.local",
    (ip_network("10.96.0.0/12"), ip_network("10.244.0.0/16"), ip_network("fd00:10:96::/112")),
    (ip_address("10.96.0.10"),),
)
HTTP = {"name": "http", "port": 80, "protocol": "TCP"}


def service(name: str, *addresses: str, **spec: Any) -> dict[str, Any]:
    body = {"clusterIP": addresses[0], "clusterIPs": list(addresses)} if addresses else {}
    return {
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1"},
        "spec": {"ports": [HTTP], **body, **spec},
    }


def endpoint_slice(name: str, of: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": of}}
    return {
        "metadata": metadata,
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def endpoint(address: str, *, ready: bool | None = True, hostname: str = "") -> dict[str, Any]:
    conditions = {} if ready is None else {"ready": ready}
    return {"addresses": [address], "conditions": conditions, **({"hostname": hostname} if hostname else {})}


SERVICES = [
    service("hello", "10.96.0.20"),
    service("dual", "10.96.0.21", "fd00:10:96::21"),
    service("db", "None"),
    service("empty", "None"),
    service("elsewhere", type="ExternalName", externalName="www.example.com"),
    service("near", type="ExternalName", externalName="hello.default.svc.cluster.local"),
    service("loop", type="ExternalName", externalName="loop.default.svc.cluster.local"),
    service("broken", "not-an-address"),
]
SLICES = [
    endpoint_slice("hello-1", "hello", endpoint("10.244.1.7")),
    endpoint_slice("db-1", "db", endpoint("10.244.1.8", hostname="db-0"), endpoint("10.244.2.8", ready=None)),
    endpoint_slice("db-2", "db", endpoint("10.244.2.9", ready=False, hostname="db-2")),
    endpoint_slice("empty-1", "empty", endpoint("10.244.1.9", ready=False)),
]


def index_of(services: Iterable[dict[str, Any]], slices: Iterable[dict[str, Any]]) -> Index:
    index = Index(synced=True)
    for obj in services:
        index.service_changed(Change(ADDED, None, obj))
    for obj in slices:
        index.slice_changed(Change(ADDED, None, obj))
    return index


def ask(name: str, kind: str, index: Index | None = None) -> Answer | None:
    question = Question(dns.name.from_text(name), dns.rdatatype.from_text(kind))
    return answer(question, ZONE, index or index_of(SERVICES, SLICES))


def values(found: Answer) -> list[str]:
    return sorted(rdata.to_text() for rrset in found.records for rdata in rrset)


SVC = "default.svc.cluster.local"
TABLE = [
    # name, type, what comes back, because
    (f"hello.{SVC}", "A", ["10.96.0.20"], "a ClusterIP"),
    ("HELLO.Default.svc.Cluster.LOCAL", "A", ["10.96.0.20"], "names have no case"),
    (f"hello.{SVC}", "AAAA", [], "it exists, without IPv6"),
    (f"hello.{SVC}", "MX", [], "it exists, without mail"),
    (f"dual.{SVC}", "A", ["10.96.0.21"], "dual stack, IPv4"),
    (f"dual.{SVC}", "AAAA", ["fd00:10:96::21"], "dual stack, IPv6"),
    (f"hello.{SVC}", "ANY", ["10.96.0.20"], "any type is every type there is"),
    (f"db.{SVC}", "A", ["10.244.1.8", "10.244.2.8"], "headless: ready endpoints; unknown readiness is ready"),
    (f"db.{SVC}", "AAAA", [], "headless, without IPv6"),
    (f"db-0.db.{SVC}", "A", ["10.244.1.8"], "an endpoint's host name"),
    (f"10-244-2-8.db.{SVC}", "A", ["10.244.2.8"], "an endpoint without host name"),
    (f"10-244-1-8.db.{SVC}", "A", None, "it has a host name instead"),
    (f"db-2.db.{SVC}", "A", None, "that endpoint is not ready"),
    (f"10-244-1-7.hello.{SVC}", "A", ["10.244.1.7"], "the name that its PTR gives"),
    (f"empty.{SVC}", "A", None, "headless without ready endpoints"),
    (f"broken.{SVC}", "A", [], "a Service whose address is none has no record"),
    (f"missing.{SVC}", "A", None, "no such Service"),
    ("hello.other.svc.cluster.local", "A", None, "no such namespace"),
    (f"a.b.c.hello.{SVC}", "A", None, "too deep"),
    (f"hello.{SVC}.svc.cluster.local", "A", None, "a search path's try"),
    (f"hello.{SVC}.cluster.local", "A", None, "a search path's try"),
    (SVC, "A", [], "a namespace with Services is a name"),
    ("other.svc.cluster.local", "A", None, "a namespace without Services is not"),
    ("svc.cluster.local", "A", [], "the branch of Services"),
    ("cluster.local", "A", [], "the apex has no address"),
    ("cluster.local", "NS", ["ns.dns.cluster.local."], "the apex names its server"),
    ("ns.dns.cluster.local", "A", ["10.96.0.10"], "which has an address"),
    ("dns-version.cluster.local", "TXT", ['"1.1.0"'], "the specification's version"),
    (f"_http._tcp.hello.{SVC}", "SRV", [f"0 100 80 hello.{SVC}."], "a named port"),
    (f"_HTTP._TCP.hello.{SVC}", "SRV", [f"0 100 80 hello.{SVC}."], "port names have no case"),
    (f"_http._udp.hello.{SVC}", "SRV", None, "not that protocol"),
    (f"_tcp.hello.{SVC}", "SRV", [], "the branch of its TCP ports"),
    (f"_sctp.hello.{SVC}", "SRV", None, "no port has it"),
    (
        f"_http._tcp.db.{SVC}",
        "SRV",
        [f"0 50 8080 10-244-2-8.db.{SVC}.", f"0 50 8080 db-0.db.{SVC}."],
        "headless",
    ),
    (f"elsewhere.{SVC}", "A", ["www.example.com."], "an alias out of the cluster"),
    (f"elsewhere.{SVC}", "CNAME", ["www.example.com."], "the alias itself"),
    (f"near.{SVC}", "A", ["10.96.0.20", f"hello.{SVC}."], "an alias within, followed"),
    (f"near.{SVC}", "CNAME", [f"hello.{SVC}."], "the alias itself"),
    ("20.0.96.10.in-addr.arpa", "PTR", [f"hello.{SVC}."], "a ClusterIP"),
    ("7.1.244.10.in-addr.arpa", "PTR", [f"10-244-1-7.hello.{SVC}."], "an endpoint"),
    ("8.1.244.10.in-addr.arpa", "PTR", [f"db-0.db.{SVC}."], "an endpoint with a host name"),
    ("20.0.96.10.in-addr.arpa", "A", [], "a reverse name has no address"),
    ("99.0.96.10.in-addr.arpa", "PTR", None, "nobody's address, in our range"),
    (
        f"{'1.2.0.0.' + '0.' * 16}6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
        "PTR",
        [f"dual.{SVC}."],
        "an IPv6 ClusterIP",
    ),
]


@pytest.mark.parametrize(
    ("name", "kind", "expected", "because"), TABLE, ids=[f"{r[0]}-{r[1]}" for r in TABLE]
)
def test_table(name: str, kind: str, expected: list[str] | None, because: str) -> None:
    found = ask(name, kind)
    assert found is not None, because
    if expected is None:
        assert found.rcode == Rcode.NXDOMAIN, because
        assert not found.records
    else:
        assert found.rcode == Rcode.NOERROR, because
        assert values(found) == sorted(expected), because
    if not found.records:
        (soa,) = found.authority
        assert (soa.rdtype, soa[0].minimum) == (RdataType.SOA, TTL)
    assert all(rrset.ttl == TTL for rrset in found.records)


@pytest.mark.parametrize("name", ["example.com", "1.1.1.1.in-addr.arpa", "local", "96.10.in-addr.arpa", "."])
def test_names_of_others_are_not_answered(name: str) -> None:
    assert ask(name, "A") is None


def test_the_question_keeps_its_spelling() -> None:
    found = ask(f"HeLLo.{SVC}", "A")
    assert found is not None
    assert found.records[0].name.to_text() == f"HeLLo.{SVC}."


def test_an_alias_out_of_the_cluster_says_what_is_left_to_ask() -> None:
    found = ask(f"elsewhere.{SVC}", "A")
    assert found is not None
    assert found.follow == dns.name.from_text("www.example.com")


def test_an_alias_to_itself_is_a_failure_not_a_loop() -> None:
    found = ask(f"loop.{SVC}", "A")
    assert found is not None
    assert found.rcode == Rcode.SERVFAIL


def test_before_the_first_list_nothing_is_denied() -> None:
    for name in (f"hello.{SVC}", "20.0.96.10.in-addr.arpa"):
        found = ask(name, "A", Index())
        assert found is not None
        assert found.rcode == Rcode.SERVFAIL


def test_srv_answers_bring_the_addresses_along() -> None:
    found = ask(f"_http._tcp.db.{SVC}", "SRV")
    assert found is not None
    assert sorted(r[0].to_text() for r in found.additional) == ["10.244.1.8", "10.244.2.8"]


def test_changes_and_deletions_leave_nothing_behind() -> None:
    index = index_of(SERVICES, SLICES)
    moved = service("hello", "10.96.0.99")
    index.service_changed(Change(MODIFIED, SERVICES[0], moved))
    assert index.owners(ip_address("10.96.0.20")) == []
    for obj in [moved, *SERVICES[1:]]:
        index.service_changed(Change(DELETED, obj, None))
    for obj in SLICES:
        index.slice_changed(Change(DELETED, obj, None))
    assert index == Index(synced=True)


def test_the_order_of_changes_does_not_matter() -> None:
    shuffled = random.Random(7)
    for _ in range(5):
        services, slices = list(SERVICES), list(SLICES)
        shuffled.shuffle(services)
        shuffled.shuffle(slices)
        index = Index(synced=True)
        for obj in slices:  # slices may well arrive before their Service
            index.slice_changed(Change(ADDED, None, obj))
        for obj in services:
            index.service_changed(Change(ADDED, None, obj))
        assert index == index_of(SERVICES, SLICES)


def test_a_domain_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a DNS name"):
        Zone.of("a..b", (), ())
