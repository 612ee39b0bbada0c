"""What one watcher is told: transitions of a selection, the past before the present, bounded memory."""

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.records import Record, Transition
from controlplane.api.represent import Representation
from controlplane.api.selection import parse
from controlplane.api.watches import MAX_BUFFERED, Watcher, word_for
from tests.unit.controlplane_api.plain_kinds import PLAIN_PODS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Transport:
    """Remembers what is written; ``unread`` is what the client has not taken yet."""

    def __init__(self) -> None:
        self.written = b""
        self.unread = 0
        self.closing = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = self.closing = True

    @property
    def events(self):
        rest, found = self.written, []
        while rest:
            size, rest = rest.split(b"\r\n", 1)
            found.append(orjson.loads(rest[: int(size, 16)]))
            rest = rest[int(size, 16) + 2 :]
        return found


def record(revision, labels, name="x"):
    metadata = {"name": name, "namespace": "a", "labels": labels, "resourceVersion": str(revision)}
    return Record(f"/core/pods/a/{name}", revision, {"kind": "Pod", "apiVersion": "v1", "metadata": metadata})


def change(revision, old, new):
    before = None if old is None else record(revision - 1, old)
    after = None if new is None else record(revision, new)
    return Transition(PLAIN_PODS, revision, before, after)


def watcher(transport, form=None, **query):
    options = parse(PLAIN_PODS, "", "", query, watch=True)
    made = Watcher(options, form or Representation(), transport, lambda: NOW)
    made.live()
    return made


IN, OUT = {"app": "web"}, {"app": "db"}
WORDS = [
    (None, IN, "ADDED"),
    (IN, IN, "MODIFIED"),
    (IN, None, "DELETED"),
    (OUT, IN, "ADDED"),
    (IN, OUT, "DELETED"),
    (None, OUT, None),
    (OUT, OUT, None),
    (OUT, None, None),
]


@pytest.mark.parametrize(("old", "new", "word"), WORDS)
def test_moving_into_and_out_of_a_selection_is_added_and_deleted(old, new, word) -> None:
    selection = parse(PLAIN_PODS, "", "", {"labelSelector": "app=web"}, watch=True).selection
    assert word_for(selection, change(5, old, new)) == word


@given(st.lists(st.sampled_from([IN, OUT, None]), max_size=12))
def test_following_the_events_gives_what_the_selection_holds(states) -> None:
    transport = Transport()
    watching = watcher(transport, labelSelector="app=web")
    old = None
    for revision, new in enumerate(states, 2):
        if old is not None or new is not None:
            watching.hear(change(revision, old, new))
        old = new
    seen = {}
    for event in transport.events:
        name = event["object"]["metadata"]["name"]
        assert (event["type"] == "ADDED") == (name not in seen)
        seen[name] = event["object"]
        if event["type"] == "DELETED":
            del seen[name]
    assert bool(seen) == (old == IN)


def test_a_deleted_event_carries_the_last_state_and_the_revision_of_the_deletion() -> None:
    transport = Transport()
    watcher(transport).hear(change(9, IN, None))
    (event,) = transport.events
    assert event["object"]["metadata"] == {
        "name": "x",
        "namespace": "a",
        "labels": IN,
        "resourceVersion": "9",
    }


def test_changes_wait_until_the_past_has_gone_out() -> None:
    transport = Transport()
    watching = Watcher(parse(PLAIN_PODS, "", "", {}, watch=True), Representation(), transport, lambda: NOW)
    watching.hear(change(5, None, IN))
    watching.mark(5)
    assert transport.written == b""
    watching.live()
    watching.hear(change(6, IN, OUT))
    assert [event["type"] for event in transport.events] == ["ADDED", "MODIFIED"]


def test_bookmarks_go_to_those_who_allow_them() -> None:
    silent, willing = Transport(), Transport()
    watcher(silent).mark(7)
    watcher(willing, allowWatchBookmarks="true").mark(7)
    assert silent.written == b""
    (event,) = willing.events
    assert event["type"] == "BOOKMARK"
    assert event["object"]["kind"] == "Pod"
    assert event["object"]["metadata"]["resourceVersion"] == "7"


def test_a_thousand_watchers_cost_one_encoding() -> None:
    transition = change(5, None, IN)
    for _ in range(1000):
        watcher(Transport()).hear(transition)
    watcher(Transport(), Representation("table")).hear(transition)
    assert len(transition.frames) == 2


def test_a_watcher_that_does_not_read_is_cut_off() -> None:
    transport = Transport()
    watching = watcher(transport)
    transport.unread = MAX_BUFFERED + 1
    watching.hear(change(5, None, IN))
    assert transport.aborted
    assert watching.ended.is_set()
    assert transport.written == b""


def test_a_table_watcher_gets_tables() -> None:
    transport = Transport()
    watcher(transport, Representation("table")).hear(change(5, None, IN))
    (event,) = transport.events
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"] == ["x", "<unknown>", ""]
    assert event["object"]["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
