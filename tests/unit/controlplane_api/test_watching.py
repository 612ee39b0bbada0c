"""What watchers are told: transitions of a selection, each encoded once, the past first, within bounds."""

import asyncio
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.memory.records import Record, Transition
from controlplane.api.reading.fanout import Fanout, word_for
from controlplane.api.reading.represent import Representation
from controlplane.api.reading.selection import parse
from controlplane.api.reading.watches import MAX_BUFFERED, Watcher
from tests.unit.controlplane_api.plain_kinds import PLAIN, PLAIN_PODS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Transport:
    """Remembers what is written; ``unread`` is what the client has not taken yet."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = self.unread = 0
        self.closing = self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

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


def record(revision, labels, name="x", node=""):
    metadata = {"name": name, "namespace": "a", "labels": labels, "resourceVersion": str(revision)}
    obj = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"nodeName": node}}
    return Record(f"/core/pods/a/{name}", revision, obj)


def change(revision, old, new):
    before = None if old is None else record(revision - 1, old)
    after = None if new is None else record(revision, new)
    return Transition(PLAIN_PODS, revision, before, after)


def watcher(transport, form=None, *, live=True, **query):
    options = parse(PLAIN_PODS, "", "", query, watch=True)
    made = Watcher(options, form or Representation(), transport, lambda: NOW)
    if live:
        made.live()
    return made


class Crowd:
    """A fanout whose rounds the test waits for."""

    def __init__(self) -> None:
        self.fanout = Fanout(PLAIN, lambda: NOW)

    def join(self, transport, form=None, **query):
        made = watcher(transport, form, **query)
        self.fanout.join(made)
        return made

    async def round(self) -> None:
        async with asyncio.timeout(5):
            while self.fanout._round is not None:
                await asyncio.sleep(0)

    async def tell(self, *changes) -> None:
        self.fanout.tell(changes)
        await self.round()


@pytest.fixture
async def crowd():
    return Crowd()


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
async def test_following_the_events_gives_what_the_selection_holds(states) -> None:
    crowd, transport, old = Crowd(), Transport(), None
    crowd.join(transport, labelSelector="app=web")
    for revision, new in enumerate(states, 2):
        if old is not None or new is not None:
            crowd.fanout.tell([change(revision, old, new)])
        old = new
    await crowd.round()
    seen = {}
    for event in transport.events:
        name = event["object"]["metadata"]["name"]
        assert (event["type"] == "ADDED") == (name not in seen)
        seen[name] = event["object"]
        if event["type"] == "DELETED":
            del seen[name]
    assert bool(seen) == (old == IN)


SELECTORS = st.fixed_dictionaries(
    {},
    optional={
        "fieldSelector": st.sampled_from(
            ["spec.nodeName=n1", "spec.nodeName=", "spec.nodeName!=n1", "metadata.name=x,spec.nodeName=n2"]
        ),
        "labelSelector": st.sampled_from(["app=web", "!app"]),
    },
)
STATES = st.none() | st.tuples(st.sampled_from([IN, OUT, {}]), st.sampled_from(["", "n1", "n2"]))


@given(st.lists(SELECTORS, max_size=4), st.lists(st.tuples(st.sampled_from("xy"), STATES), max_size=10))
async def test_each_watcher_hears_of_what_it_selects_however_many_there_are(queries, states) -> None:
    """Audiences are found by what they demand: nobody may be passed over, nobody disturbed."""
    crowd, held = Crowd(), {}
    transports = [(query, Transport()) for query in queries]
    for query, transport in transports:
        crowd.join(transport, **query)
    changes = []
    for revision, (name, state) in enumerate(states, 2):
        new = record(revision, state[0], name, state[1]) if state else None
        if new is not None or name in held:
            changes.append(Transition(PLAIN_PODS, revision, held.pop(name, None), new))
        if new is not None:
            held[name] = new
    await crowd.tell(*changes)
    for query, transport in transports:
        selection = parse(PLAIN_PODS, "", "", query, watch=True).selection
        worded = [(word_for(selection, change), str(change.revision)) for change in changes]
        found = [(e["type"], e["object"]["metadata"]["resourceVersion"]) for e in transport.events]
        assert found == [(word, revision) for word, revision in worded if word]


async def test_a_deleted_event_carries_the_last_state_and_the_revision_of_the_deletion(crowd) -> None:
    transport = Transport()
    crowd.join(transport)
    await crowd.tell(change(9, IN, None))
    (event,) = transport.events
    assert event["object"]["metadata"] == {
        "name": "x",
        "namespace": "a",
        "labels": IN,
        "resourceVersion": "9",
    }


async def test_changes_wait_until_the_past_has_gone_out(crowd) -> None:
    transport = Transport()
    watching = crowd.join(transport, live=False)
    await crowd.tell(change(5, None, IN))
    assert transport.written == b""
    watching.send(watching.bookmark(4))
    watching.live()
    await crowd.tell(change(6, IN, OUT))
    assert [event["type"] for event in transport.events] == ["BOOKMARK", "ADDED", "MODIFIED"]


async def test_bookmarks_go_to_those_who_allow_them_after_what_is_older(crowd) -> None:
    silent, willing = Transport(), Transport()
    crowd.join(silent)
    crowd.join(willing, allowWatchBookmarks="true")
    crowd.fanout.tell([change(7, None, IN)])
    crowd.fanout.mark(8)
    await crowd.round()
    assert [event["type"] for event in silent.events] == ["ADDED"]
    assert [event["type"] for event in willing.events] == ["ADDED", "BOOKMARK"]
    assert willing.events[1]["object"]["kind"] == "Pod"
    assert willing.events[1]["object"]["metadata"]["resourceVersion"] == "8"


async def test_a_thousand_watchers_cost_one_encoding_and_get_one_write(crowd) -> None:
    transports = [Transport() for _ in range(1000)]
    for transport in transports:
        crowd.join(transport)
    crowd.join(Transport(), Representation("table"))
    changes = [change(5, None, IN), change(6, IN, OUT)]
    await crowd.tell(*changes)
    assert [len(told.frames) for told in changes] == [2, 2]
    assert {transport.writes for transport in transports} == {1}
    assert {transport.written for transport in transports} == {transports[0].written}
    assert len(transports[0].events) == 2


async def test_who_comes_between_two_changes_of_a_round_hears_of_the_second_alone(crowd) -> None:
    first, second = Transport(), Transport()
    crowd.join(first)
    crowd.fanout.tell([change(5, None, IN)])
    crowd.join(second)
    crowd.fanout.tell([change(6, IN, OUT)])
    await crowd.round()
    assert [event["type"] for event in first.events] == ["ADDED", "MODIFIED"]
    assert [event["type"] for event in second.events] == ["MODIFIED"]


async def test_who_leaves_gets_what_waited_and_nothing_after(crowd) -> None:
    transport = Transport()
    leaving = crowd.join(transport)
    crowd.fanout.tell([change(5, None, IN)])
    crowd.fanout.leave(leaving)
    await crowd.tell(change(6, IN, OUT))
    crowd.fanout.leave(leaving)  # a second time does nothing
    assert [event["type"] for event in transport.events] == ["ADDED"]
    assert not any(crowd.fanout.watchers().values())


async def test_a_watcher_that_does_not_read_is_cut_off_and_the_others_are_not(crowd) -> None:
    slow, quick = Transport(), Transport()
    watching = crowd.join(slow)
    crowd.join(quick)
    slow.unread = MAX_BUFFERED + 1
    await crowd.tell(change(5, None, IN))
    assert slow.aborted
    assert watching.ended.is_set()
    assert slow.written == b""
    assert len(quick.events) == 1


async def test_a_watcher_that_never_reads_its_past_is_cut_off(crowd) -> None:
    transport = Transport()
    watching = crowd.join(transport, live=False)
    large = {"app": "w" * (MAX_BUFFERED // 4)}
    for revision in range(5, 12):
        await crowd.tell(change(revision, large, large))
    assert transport.aborted
    assert watching.ended.is_set()


async def test_a_bug_in_one_form_ends_its_watchers_and_nobody_else(crowd, caplog) -> None:
    """The writer goes on, and the others hear: the clients of the faulty form list again."""

    class Faulty(Representation):
        def transition(self, word, change, now):
            raise RuntimeError("a bug")

    faulty, well = crowd.join(Transport(), Faulty()), Transport()
    crowd.join(well)
    await crowd.tell(change(5, None, IN))
    assert faulty.ended.is_set()
    assert len(well.events) == 1
    assert "the watchers of pods failed" in caplog.text


async def test_whoever_comes_when_the_server_stops_is_told(crowd) -> None:
    before = crowd.join(Transport())
    crowd.fanout.end()
    after = crowd.join(Transport())
    assert before.ended.is_set()
    assert after.ended.is_set()


async def test_a_table_watcher_gets_tables(crowd) -> None:
    transport = Transport()
    crowd.join(transport, Representation("table"))
    await crowd.tell(change(5, None, IN))
    (event,) = transport.events
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"] == ["x", "<unknown>", ""]
    assert event["object"]["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
