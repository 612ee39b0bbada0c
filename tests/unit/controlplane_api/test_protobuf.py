"""Protobuf bodies as kubectl 1.32 sent them, beside what the same command prints with --dry-run=client -o json."""

import base64
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.requests import bodies
from controlplane.api.schema import data
from controlplane.api.schema.protobuf import PROTOBUF, decode
from netplane.errors import ConfigError
from netplane.kube.errors import StatusError

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/api/kubectl_protobuf.json").read_text())


def field(number, value):
    """One encoded field: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (2**64 - 1))
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def envelope(api_version, kind, raw):
    return b"k8s\x00" + field(1, field(1, api_version.encode()) + field(2, kind.encode())) + field(2, raw)


def meaningful(value):
    """Without the nulls and the empty objects that Go's JSON has and its protobuf has not."""
    if isinstance(value, dict):
        kept = {key: meaningful(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner not in (None, {}, [])}
    return [meaningful(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", GOLDEN, ids=[case["command"][15:40] for case in GOLDEN])
def test_what_kubectl_sends_is_what_it_prints(case) -> None:
    assert meaningful(decode(base64.b64decode(case["body"]))) == case["object"]


def test_embedded_structs_pointers_and_zero_values() -> None:
    """A volume's source stands inline; a pointer's zero is said, another zero is not."""
    volume = field(1, b"data") + field(2, field(2, b""))
    container = field(1, b"a") + field(2, b"") + field(16, 0)
    spec = field(1, volume) + field(2, container) + field(4, 0) + field(11, 0) + field(21, 0)
    pod = decode(envelope("v1", "Pod", field(2, spec)))
    assert pod["spec"] == {
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "a"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }


def test_numbers_times_and_maps() -> None:
    meta = field(1, b"p") + field(8, field(1, 1_700_000_000)) + field(11, field(1, b"a") + field(2, b"b"))
    meta += field(10, -5) + field(11, field(1, b"empty"))
    limits = field(1, field(1, b"cpu") + field(2, field(1, b"500m")))
    probe = field(1, field(2, field(2, field(1, 1) + field(3, b"http"))))
    spec = field(2, field(1, b"c") + field(8, limits) + field(10, probe))
    pod = decode(envelope("v1", "Pod", field(1, meta) + field(2, spec)))
    assert pod["metadata"] == {
        "name": "p",
        "creationTimestamp": "2023-11-14T22:13:20Z",
        "labels": {"a": "b", "empty": ""},
        "deletionGracePeriodSeconds": -5,
    }
    (container,) = pod["spec"]["containers"]
    assert container["resources"] == {"limits": {"cpu": "500m"}}
    assert container["livenessProbe"] == {"httpGet": {"port": "http"}}


def test_a_newer_clients_field_is_left_out() -> None:
    assert decode(envelope("v1", "Pod", field(9999, b"new"))) == {"apiVersion": "v1", "kind": "Pod"}


def test_delete_options_come_in_any_version() -> None:
    options = field(1, 0) + field(4, b"Foreground") + field(5, b"All")
    assert decode(envelope("apps/v1", "DeleteOptions", options)) == {
        "apiVersion": "apps/v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground",
        "dryRun": ["All"],
    }


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"{}", "does not appear to be a protobuf message"),
        (b"k8s\x00\x0a\xff", "ends in the middle"),
        (b"k8s\x00\x0b", "wire type 3"),
        (b"k8s\x00" + b"\xff" * 11, "longer than 64 bits"),
        (envelope("v1", "Widget", b""), "no kind 'Widget' is registered for version 'v1'"),
        (envelope("v1", "Pod", field(1, 7)), "a number where bytes belong"),
        (envelope("v1", "Pod", field(1, field(1, b"\xff"))), "invalid start byte"),
    ],
)
def test_other_bytes_are_a_400_that_says_why(body, cause) -> None:
    with pytest.raises(StatusError) as raised:
        bodies.decode(PROTOBUF, body)
    assert raised.value.code == 400
    assert cause in str(raised.value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(noise) -> None:
    for body in (b"k8s\x00" + noise, envelope("v1", "Pod", noise), envelope("apps/v1", "Deployment", noise)):
        with suppress(StatusError):
            decode(body)


def test_missing_data_says_what_to_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(ConfigError, match=r"no schemas\.json.*Run \./dev setup"):
        data.definitions.__wrapped__()


def test_without_the_table_protobuf_is_refused_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(data, "DATA", tmp_path)
    data.messages.cache_clear()
    try:
        with pytest.raises(StatusError) as raised:
            decode(envelope("v1", "Pod", b""))
    finally:
        data.messages.cache_clear()
    assert raised.value.code == 415
    assert "./dev setup" in str(raised.value)
