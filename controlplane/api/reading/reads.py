"""GET and LIST: from memory where now is asked for, from the store's log where the past is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import Record, key_for, prefix_of
from controlplane.api.reading.selection import Continue, ListOptions
from controlplane.store.contract import Compacted, Future
from netplane.kube.errors import expired, not_found, too_large_resource_version

_CHUNK = 500  # how many records of the past are read at a time when a selector drops some


@dataclass(frozen=True, slots=True)
class Listing:
    """A list's answer: records in key order, and what its ListMeta says."""

    records: Sequence[Record]
    meta: dict[str, Any]


def get(hub: Hub, kind: Kind, namespace: str, name: str) -> Record:
    """One object as of now. Raises StatusError 404."""
    found = hub.get(kind.resource, key_for(kind.resource, namespace, name))
    if found is None:
        raise not_found(kind.resource, name)
    return found


async def listing(hub: Hub, options: ListOptions) -> Listing:
    """A collection. Raises StatusError: 410 for a past that is gone, 504 for a future."""
    version = options.resource_version or 0
    if version > hub.revision:
        raise too_large_resource_version(version, hub.revision)
    try:
        if options.token is not None:
            if hub.unchanged_since(options.selection.kind.resource, options.token.revision):
                return _present(hub, options, options.token)
            return await _past(hub, options, options.token)
        if options.match == "Exact":
            return await _past(hub, options, Continue(version, ""))
    except Compacted as error:
        text = f"The provided resource version or continue token is too old: {error}. Start the list again."
        raise expired(text) from None
    except Future as error:
        raise too_large_resource_version(error.asked, error.current) from None
    return _present(hub, options)


def _present(hub: Hub, options: ListOptions, start: Continue | None = None) -> Listing:
    """From memory; ``start`` is a page of a past that memory still is."""
    selection = options.selection
    records, prefix = hub.all(selection.kind.resource), ""
    if selection.namespace:
        prefix = key_for(selection.kind.resource, selection.namespace, "")
    after = start.after if start is not None else ""
    keys = sorted(key for key in records if key > after and key.startswith(prefix))
    if selection.narrowed:
        keys = [key for key in keys if selection.matches(records[key].obj)]
    remaining = len(keys) - options.limit if options.limit else 0
    page = keys[: options.limit] if remaining > 0 else keys
    revision = start.revision if start is not None else hub.revision
    end = page[-1] if remaining > 0 else ""
    return Listing([records[key] for key in page], _list_meta(options, revision, end, remaining))


async def _past(hub: Hub, options: ListOptions, start: Continue) -> Listing:
    """The collection at an earlier revision: pages of the store until enough records match."""
    selection = options.selection
    prefix = prefix_of(selection.kind.resource)
    if selection.namespace:
        prefix = key_for(selection.kind.resource, selection.namespace, "")
    found: list[Record] = []
    after, remaining, wanted = start.after, 1, options.limit
    while remaining and (not wanted or len(found) < wanted):
        count = (wanted - len(found) if not selection.narrowed else _CHUNK) if wanted else 0
        page = await hub.store.page(prefix, revision=start.revision, after=after, limit=count)
        remaining = page.remaining
        for index, entry in enumerate(page.entries, 1):
            after = entry.key
            record = Record.read(entry.key, entry.value, entry.revision)
            if selection.matches(record.obj):
                found.append(record)
                if len(found) == wanted:
                    remaining += len(page.entries) - index
                    break
    end = after if remaining else ""
    return Listing(found, _list_meta(options, start.revision, end, remaining))


def _list_meta(options: ListOptions, revision: int, after: str = "", remaining: int = 0) -> dict[str, Any]:
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    if after:
        meta["continue"] = Continue(revision, after).encode()
        if not options.selection.narrowed:
            meta["remainingItemCount"] = remaining
    return meta
