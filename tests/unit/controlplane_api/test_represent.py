"""Tables, metadata alone, ages as kubectl writes them, and what no client can be given."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from controlplane.api.memory.records import Record
from controlplane.api.memory.tables import age, duration
from controlplane.api.reading.represent import Representation, negotiate
from netplane.kube.errors import StatusError
from tests.unit.controlplane_api.plain_kinds import PLAIN_PODS

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
KUBECTL = f"{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"

ACCEPTS = [
    ("", Representation()),
    ("*/*", Representation()),
    ("application/json", Representation()),
    ("application/vnd.kubernetes.protobuf,application/json", Representation()),
    (KUBECTL, Representation("table", "v1")),
    ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Representation("table", "v1beta1")),
    ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Representation("partial", "v1")),
    ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Representation("partial", "v1")),
    ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", Representation()),
]


@pytest.mark.parametrize(("accept", "form"), ACCEPTS)
def test_the_first_form_we_have_is_taken(accept, form) -> None:
    assert negotiate(accept, {}) == form


@pytest.mark.parametrize("accept", ["text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"])
def test_a_client_that_takes_nothing_we_have_gets_406(accept) -> None:
    with pytest.raises(StatusError) as raised:
        negotiate(accept, {})
    assert raised.value.code == 406


def test_an_unknown_include_object_is_named() -> None:
    with pytest.raises(StatusError, match="includeObject"):
        negotiate(TABLE, {"includeObject": "Some"})


def record():
    metadata = {"name": "x", "creationTimestamp": "2026-01-01T11:55:00Z", "resourceVersion": "5"}
    return Record("/core/pods/a/x", 5, {"kind": "Pod", "apiVersion": "v1", "metadata": metadata})


def test_a_list_as_a_table() -> None:
    form = Representation("table", "v1", "None")
    body = orjson.loads(form.of_list([record()], PLAIN_PODS, {"resourceVersion": "7"}, NOW))
    assert body["kind"] == "Table"
    assert body["apiVersion"] == "meta.k8s.io/v1"
    assert body["metadata"] == {"resourceVersion": "7"}
    assert [(c["name"], c["priority"]) for c in body["columnDefinitions"]] == [
        ("Name", 0),
        ("Age", 0),
        ("Node", 1),
    ]
    assert body["rows"] == [{"cells": ["x", "5m", ""]}]


def test_rows_carry_what_was_asked_for() -> None:
    whole = orjson.loads(Representation("table", "v1", "Object").of(record(), PLAIN_PODS, NOW))
    assert whole["rows"][0]["object"]["kind"] == "Pod"
    meta = orjson.loads(Representation("table", "v1beta1").of(record(), PLAIN_PODS, NOW))
    assert meta["rows"][0]["object"]["apiVersion"] == "meta.k8s.io/v1beta1"


def test_metadata_alone() -> None:
    body = orjson.loads(
        Representation("partial").of_list([record()], PLAIN_PODS, {"resourceVersion": "7"}, NOW)
    )
    assert body["kind"] == "PartialObjectMetadataList"
    assert body["items"][0]["kind"] == "PartialObjectMetadata"
    assert body["items"][0]["metadata"]["name"] == "x"


def test_a_plain_list() -> None:
    body = orjson.loads(
        Representation().of_list([record(), record()], PLAIN_PODS, {"resourceVersion": "7"}, NOW)
    )
    assert (body["kind"], body["apiVersion"], len(body["items"])) == ("PodList", "v1", 2)


# kubectl's own table, from apimachinery's duration_test.go.
DURATIONS = [
    (-2, "<invalid>"),
    (-1, "0s"),
    (0, "0s"),
    (119, "119s"),
    (120, "2m"),
    (121, "2m1s"),
    (600, "10m"),
    (601, "10m"),
    (3 * 3600 - 1, "179m"),
    (3 * 3600, "3h"),
    (3 * 3600 + 60, "3h1m"),
    (8 * 3600, "8h"),
    (48 * 3600 - 1, "47h"),
    (48 * 3600, "2d"),
    (49 * 3600, "2d1h"),
    (8 * 86400, "8d"),
    (2 * 365 * 86400 - 1, "729d"),
    (2 * 365 * 86400, "2y"),
    (2 * 365 * 86400 + 86400, "2y1d"),
    (8 * 365 * 86400, "8y"),
]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_ages_read_as_kubectl_writes_them(seconds, text) -> None:
    assert duration(seconds) == text


def test_an_age_of_nothing_and_of_rubbish() -> None:
    assert age(None, NOW) == "<unknown>"
    assert age("yesterday", NOW) == "<invalid>"
    assert age((NOW - timedelta(seconds=90)).isoformat(), NOW) == "90s"
