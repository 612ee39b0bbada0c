"""In which form an answer goes out: plain JSON, a Table for people, or metadata alone.

Source: Kubernetes API concepts, "Receiving resources as Tables", "Metadata-only fetches".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from controlplane.api.kinds.kind import Kind, View
from controlplane.api.memory.records import Record, Transition
from controlplane.api.memory.tables import partial, table
from netplane.kube.errors import bad_request, not_acceptable
from netplane.kube.objects import Object

JSON = "application/json"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_FORMS = {
    "Table": "table",
    "PartialObjectMetadata": "partial",
    "PartialObjectMetadataList": "partial",
}


@dataclass(frozen=True, slots=True)
class Representation:
    """``form`` is json, table or partial; ``include`` is what a table's rows carry.

    With a ``view``, objects go out in its words; the kinds that are passed are what is stored.
    """

    form: str = "json"
    version: str = "v1"
    include: str = "Metadata"
    view: View | None = None

    @property
    def content_type(self) -> str:
        """The answer's media type, as kube-apiserver writes it."""
        return JSON

    def of(self, record: Record, kind: Kind, now: datetime) -> bytes:
        """One object."""
        if self.form == "json":
            return self._whole(record)
        if self.form == "partial":
            return record.partial(self.version)
        return self._table([record], kind, {"resourceVersion": str(record.revision)}, now)

    def of_object(self, obj: Object, kind: Kind, now: datetime) -> bytes:
        """One object that is no record of the store, such as a dry run's."""
        if self.form == "json":
            return orjson.dumps(obj if self.view is None else self.view.show(obj))
        return self.of(Record("", int(obj["metadata"].get("resourceVersion") or 0), obj), kind, now)

    def of_list(
        self, records: Iterable[Record], kind: Kind, list_meta: dict[str, Any], now: datetime
    ) -> bytes:
        """A collection, from the encodings its records already have."""
        if self.form == "table":
            return self._table(records, kind, list_meta, now)
        if self.form == "partial":
            items = [record.partial(self.version) for record in records]
            head = {"kind": "PartialObjectMetadataList", "apiVersion": f"meta.k8s.io/{self.version}"}
        else:
            items = [self._whole(record) for record in records]
            resource = (self.view or kind).resource
            head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
        opening = orjson.dumps({**head, "metadata": list_meta})[:-1]
        return opening + b',"items":[' + b",".join(items) + b"]}"

    def event(self, word: str, record: Record, kind: Kind, now: datetime) -> bytes:
        """One line of a watch, ready to be written: an HTTP chunk."""
        line = b'{"type":"' + word.encode() + b'","object":' + self.of(record, kind, now) + b"}\n"
        return chunk(line)

    def transition(self, word: str, change: Transition, now: datetime) -> bytes:
        """The same for a live change: the first watcher pays, the others reuse."""
        found = change.frames.get((word, self))
        if found is None:
            if word == "DELETED":
                assert change.old is not None
                record = change.old.at(change.revision)
            else:
                assert change.new is not None
                record = change.new
            found = change.frames[word, self] = self.event(word, record, change.kind, now)
        return found

    def bookmark(self, kind: Kind, revision: int, now: datetime, *, initial_end: bool = False) -> bytes:
        """An event that only says how far the watch has come."""
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        if self.form == "table":
            body = self._table([], kind, metadata, now)
        elif self.form == "partial":
            body = orjson.dumps(partial({"metadata": metadata}, self.version))
        else:
            resource = (self.view or kind).resource
            body = orjson.dumps(
                {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
            )
        return chunk(b'{"type":"BOOKMARK","object":' + body + b"}\n")

    def _whole(self, record: Record) -> bytes:
        return record.json if self.view is None else orjson.dumps(self.view.show(record.obj))

    def _carried(self, record: Record) -> object:
        """What a table's row has beside its cells."""
        match self.include:
            case "Metadata":
                return orjson.Fragment(record.partial(self.version))
            case "Object":
                return orjson.Fragment(self._whole(record))
        return None

    def _table(
        self, records: Iterable[Record], kind: Kind, list_meta: dict[str, Any], now: datetime
    ) -> bytes:
        rows = ((record.cells(kind), self._carried(record)) for record in records)
        return orjson.dumps(table(kind, rows, list_meta, version=self.version, now=now))


def chunk(line: bytes) -> bytes:
    """Frame bytes as one chunk of HTTP/1.1's chunked coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(line), line)


def error_event(status: Object) -> bytes:
    """A watch's way to fail after its answer began."""
    return chunk(orjson.dumps({"type": "ERROR", "object": status}) + b"\n")


def media_ranges(accept: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each media type of an Accept header with its parameters, in the client's order."""
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield media.lower(), {name.lower(): value for name, _, value in pairs}


def negotiate(accept: str, query: Mapping[str, str], view: View | None = None) -> Representation:
    """The first form in the client's order that we have. Raises StatusError 406, or 400 for includeObject."""
    include = query.get("includeObject") or "Metadata"
    if include not in ("None", "Metadata", "Object"):
        raise bad_request(f'includeObject: Invalid value: "{include}": must be None, Metadata or Object')
    for media, parameters in media_ranges(accept or "*/*"):
        if media not in (JSON, "*/*", "application/*"):
            continue
        form = parameters.get("as", "")
        if not form:
            return Representation(view=view)
        known = form in _FORMS and parameters.get("g") == "meta.k8s.io"
        if known and parameters.get("v") in ("v1", "v1beta1"):
            return Representation(_FORMS[form], parameters["v"], include, view)
    raise not_acceptable(
        "only the following media types are accepted: application/json, "
        "application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
    )
