"""Events by both their names: one storage, two groups' words."""

import orjson
import pytest

CORE = "/api/v1/namespaces/default/events"
NEW = "/apis/events.k8s.io/v1/namespaces/default/events"
MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
TIME = "2026-01-02T03:04:05.000000Z"

OLD_STYLE = {
    "metadata": {"name": "old"},
    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
    "reason": "Started",
    "message": "Started container c",
    "source": {"component": "kubelet", "host": "n1"},
    "type": "Normal",
    "count": 3,
    "firstTimestamp": "2026-01-02T03:04:05Z",
    "lastTimestamp": "2026-01-02T03:05:05Z",
}
NEW_STYLE = {
    "metadata": {"name": "new"},
    "eventTime": TIME,
    "reportingController": "acme.io/carrier",
    "reportingInstance": "carrier-1",
    "action": "Carrying",
    "reason": "Carried",
    "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
    "note": "Carried p",
    "type": "Normal",
}


async def test_what_is_written_by_one_name_is_read_by_the_other(server) -> None:
    await server.ok("POST", CORE, OLD_STYLE)
    shown = await server.ok("GET", f"{NEW}/old")
    assert (shown["apiVersion"], shown["kind"], shown["eventTime"]) == ("events.k8s.io/v1", "Event", None)
    assert shown["regarding"] == OLD_STYLE["involvedObject"]
    assert (shown["note"], shown["deprecatedCount"]) == ("Started container c", 3)
    assert shown["deprecatedSource"] == OLD_STYLE["source"]
    assert shown["deprecatedLastTimestamp"] == OLD_STYLE["lastTimestamp"]
    assert not {"involvedObject", "message", "source", "count"} & set(shown)

    created = await server.call("POST", NEW, NEW_STYLE)
    assert (created.code, created.body["note"]) == (201, "Carried p")
    core = await server.ok("GET", f"{CORE}/new")
    assert (core["apiVersion"], core["message"], core["reportingComponent"]) == (
        "v1",
        "Carried p",
        "acme.io/carrier",
    )
    listed = await server.ok("GET", NEW)
    assert (listed["kind"], listed["apiVersion"]) == ("EventList", "events.k8s.io/v1")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["new", "old"]
    assert {item["metadata"]["uid"] for item in listed["items"]} == {
        item["metadata"]["uid"] for item in (await server.ok("GET", CORE))["items"]
    }


async def test_a_series_goes_on_and_nothing_else_changes(server) -> None:
    await server.ok("POST", NEW, NEW_STYLE)
    series = {"series": {"count": 2, "lastObservedTime": TIME}}
    for kind in (MERGE, "application/strategic-merge-patch+json"):
        patched = await server.ok("PATCH", f"{NEW}/new", series, kind=kind)
        assert patched["series"] == series["series"]
    assert (await server.ok("GET", f"{CORE}/new"))["series"]["count"] == 2
    error = await server.refused("PATCH", f"{NEW}/new", {"note": "other"}, kind=MERGE)
    assert (error.code, error.details["causes"][0]["field"]) == (422, "message")
    shown = await server.ok("GET", f"{NEW}/new")
    assert (await server.refused("PUT", f"{NEW}/new", {**shown, "reason": "Dropped"})).code == 422
    assert (await server.ok("PUT", f"{NEW}/new", shown))["metadata"]["resourceVersion"]
    apply = "application/apply-patch+yaml"
    assert (await server.refused("PATCH", f"{NEW}/new", {}, kind=apply, fieldManager="m")).code == 415


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"eventTime": None}, "eventTime"),
        ({"reportingController": ""}, "reportingController"),
        ({"reportingController": "a b"}, "reportingController"),
        ({"reportingInstance": ""}, "reportingInstance"),
        ({"action": "a" * 129}, "action"),
        ({"reason": ""}, "reason"),
        ({"note": "n" * 1025}, "message"),
        ({"type": "Loud"}, "type"),
        ({"series": {"count": 1, "lastObservedTime": TIME}}, "series.count"),
        ({"series": {"count": 2}}, "series.lastObservedTime"),
        ({"regarding": {"namespace": "elsewhere"}}, "involvedObject.namespace"),
        ({"regarding": 7}, "regarding"),
    ],
)
async def test_the_new_name_has_stricter_rules(server, change, field) -> None:
    error = await server.refused("POST", NEW, {**NEW_STYLE, **change})
    assert error.code == 422
    assert field in [cause["field"] for cause in error.details["causes"]]


async def test_unknown_words_are_those_of_the_other_name(server) -> None:
    error = await server.refused("POST", NEW, {**NEW_STYLE, "message": "x"}, fieldValidation="Strict")
    assert (error.code, str(error)) == (400, 'strict decoding error: unknown field "message"')


async def test_selecting_watching_and_tables(server) -> None:
    for event in (OLD_STYLE, {**OLD_STYLE, "metadata": {"name": "b"}, "reason": "Killing"}):
        await server.ok("POST", CORE, event)
    found = await server.ok("GET", NEW, fieldSelector="regarding.name=p,reason=Killing")
    assert [item["metadata"]["name"] for item in found["items"]] == ["b"]
    assert (await server.refused("GET", NEW, fieldSelector="involvedObject.name=p")).code == 400
    table = await server.ok("GET", NEW, accept=TABLE, includeObject="Object")
    assert table["columnDefinitions"][0]["name"] == "Last Seen"
    assert table["rows"][0]["object"]["regarding"]["name"] == "p"
    path = f"{NEW}?watch=1&allowWatchBookmarks=1&sendInitialEvents=1&resourceVersionMatch=NotOlderThan"
    async with server.session("kubernetes-admin", "system:masters").get(path) as watch:
        lines = [orjson.loads(await watch.content.readline()) for _ in range(3)]
        await server.ok("POST", NEW, NEW_STYLE)
        lines.append(orjson.loads(await watch.content.readline()))
    assert [line["type"] for line in lines] == ["ADDED", "ADDED", "BOOKMARK", "ADDED"]
    assert {line["object"]["apiVersion"] for line in lines} == {"events.k8s.io/v1"}
    assert lines[3]["object"]["note"] == "Carried p"


async def test_deleting_by_either_name(server) -> None:
    await server.ok("POST", CORE, OLD_STYLE)
    await server.ok("DELETE", f"{NEW}/old")
    assert (await server.refused("GET", f"{CORE}/old")).code == 404
    await server.ok("POST", NEW, NEW_STYLE)
    gone = await server.ok("DELETE", NEW)
    assert (gone["apiVersion"], gone["items"][0]["note"]) == ("events.k8s.io/v1", "Carried p")
    assert (await server.ok("GET", CORE))["items"] == []


async def test_dry_runs_write_nothing(server) -> None:
    await server.ok("POST", NEW, NEW_STYLE, dryRun="All")
    assert (await server.ok("GET", CORE))["items"] == []
