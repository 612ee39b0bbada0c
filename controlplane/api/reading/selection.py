"""What a list or a watch asks for: the query string checked once, then one question an object.

Source: Kubernetes API concepts, "resourceVersion semantics", "Resource versions", "Streaming lists".
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from controlplane.api.kinds.kind import Kind
from netplane.kube.errors import bad_request
from netplane.kube.objects import Object, labels_of, name_of, namespace_of
from netplane.kube.selectors import FieldSelector, Selector

EVERYTHING = Selector()
ANY_FIELDS = FieldSelector()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind: by namespace, name, labels and fields."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    labels: Selector = EVERYTHING
    fields: FieldSelector = ANY_FIELDS

    def matches(self, obj: Object) -> bool:
        """Whether this object is asked for."""
        if self.namespace and namespace_of(obj) != self.namespace:
            return False
        if self.name and name_of(obj) != self.name:
            return False
        if not self.labels.empty and not self.labels.matches(labels_of(obj)):
            return False
        return self.fields.empty or self.fields.matches(self.kind.fields(obj))

    @property
    def narrowed(self) -> bool:
        """Whether anything but the namespace narrows it: then nobody knows how many objects remain."""
        return not (self.labels.empty and self.fields.empty) or bool(self.name)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """A list's or a watch's query. ``resource_version`` is None when not given; 0 means any."""

    selection: Selection
    resource_version: int | None = None
    match: str = ""
    limit: int = 0
    token: "Continue | None" = None
    timeout: float | None = None
    bookmarks: bool = False
    initial_events: bool | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Where the next page begins: after this key, in the collection as it stood at this revision."""

    revision: int
    after: str

    def encode(self) -> str:
        """The opaque token that clients hand back."""
        body = {"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after}
        return base64.urlsafe_b64encode(orjson.dumps(body)).decode().rstrip("=")

    @classmethod
    def decode(cls, token: str) -> "Continue":
        """Read a token. Raises StatusError 400 for anything we did not write."""
        try:
            body = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            if body["v"] != "meta.k8s.io/v1" or type(body["rv"]) is not int or body["rv"] < 1:
                raise ValueError("unknown version or revision")
            return cls(body["rv"], str(body["start"]))
        except (binascii.Error, ValueError, KeyError, TypeError):
            raise bad_request("continue key is not valid: it was not made by this server") from None


def parse(kind: Kind, namespace: str, name: str, query: Mapping[str, str], *, watch: bool) -> ListOptions:
    """Check a query string. Raises StatusError 400 naming the parameter that is wrong."""
    token = Continue.decode(query["continue"]) if query.get("continue") else None
    version = _revision(query.get("resourceVersion", ""))
    match = query.get("resourceVersionMatch", "")
    initial = flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    if match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(
            f'resourceVersionMatch: Unsupported value: "{match}": must be Exact or NotOlderThan'
        )
    if token is not None and version:
        raise bad_request("resourceVersion: Forbidden: it may not be given together with continue")
    if watch and (initial is None) != (match == ""):
        raise bad_request("resourceVersionMatch: a watch needs it with sendInitialEvents, and only then")
    if not watch and match and version is None:
        raise bad_request("resourceVersionMatch: Forbidden: it may not be given without resourceVersion")
    if not watch and match == "Exact" and version == 0:
        raise bad_request('resourceVersionMatch: Forbidden: "Exact" may not be used with resourceVersion 0')
    timeout = _whole(query, "timeoutSeconds")
    return ListOptions(
        selection(kind, namespace, name, query),
        resource_version=version,
        match=match,
        limit=_whole(query, "limit") or 0,
        token=token,
        timeout=float(timeout) if timeout else None,
        bookmarks=flag(query, "allowWatchBookmarks"),
        initial_events=initial,
    )


def selection(kind: Kind, namespace: str, name: str, query: Mapping[str, str]) -> Selection:
    """The selectors of a query string; a field the kind cannot be selected by is a 400."""
    try:
        labels = Selector.parse(query.get("labelSelector", ""))
        fields = FieldSelector.parse(query.get("fieldSelector", ""))
    except ValueError as error:
        raise bad_request(str(error)) from None
    known = kind.fields({})
    for field in sorted(fields.fields):
        if field not in known:
            raise bad_request(_unsupported(field, known))
    return Selection(kind, namespace, name, labels, fields)


def _unsupported(field: str, known: Iterable[str]) -> str:
    """kube-apiserver's two texts: of kinds that are selected by what every object has, and of the others."""
    if set(known) <= {"metadata.name", "metadata.namespace"}:
        return f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
    return f"field label not supported: {field}"


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter as the API reads it: absent, "0" and "false" are false."""
    text = query.get(name, "false").lower()
    if text in ("", "1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise bad_request(f'{name}: Invalid value: "{query[name]}": must be true or false')


def _revision(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise bad_request(f'resourceVersion: Invalid value: "{text}": must be a whole number')
    return int(text)


def _whole(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise bad_request(f'{name}: Invalid value: "{text}": must be a whole number, 0 or more')
    return int(text)
