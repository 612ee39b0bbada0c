"""The one interface between the API machinery and the kinds it serves.

The machinery asks a `Kind` what to do with an object at each step of a write and how to print it; it
never looks inside an object itself. Everything here is pure: no clock but where a caller passes one, no I/O.

The order of a create is: `default` → `prepare_create` → `validate(new, None)`;
of an update: `default` → `prepare_update(new, old)` → `validate(new, old)`;
of an update of the status subresource the same with `prepare_status` and `validate_status`.
`default` and the two `prepare_*` may be given any JSON object: parts of the wrong type
are left alone, and `validate` names them. None of the functions raises on any JSON object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.auth.authn import User
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import Resource


@dataclass(frozen=True, slots=True)
class Since:
    """A cell that holds an age inside other text: "2 (5m ago)". The times are RFC 3339; `until` is "" for now."""

    when: str
    form: str
    until: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the Table that `kubectl get` prints; priority 1 is shown by `-o wide` only.

    `value` gives the cell for one object: a string, an integer, or a Since. Columns of type "date" give an
    RFC 3339 time, or None. The Table code turns both into ages: kubectl prints them as the server computed them.
    """

    name: str
    type: str
    value: Callable[[Object], object]
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Whom a token stands for, and for which of the audiences that were asked for it is good."""

    user: User
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks a question, and what answers the one about tokens: (token, audiences), ValueError for a bad one."""

    user: User
    authenticate: Callable[[str, Sequence[str]], Authenticated]


def nothing_to_warn_of(_obj: Object) -> list[str]:
    """The `warnings` of a kind that is served as everywhere."""
    return []


def keep_created(_obj: Object) -> None:
    """The `prepare_create` of a kind without a status and without a generation."""


def keep_updated(_new: Object, _old: Object) -> None:
    """The `prepare_update` of a kind without a status and without a generation."""


def keep_all_but_status(new: Object, old: Object) -> None:
    """The usual `prepare_status`: of what the writer sent, only the status counts (and who holds the object's RV)."""
    status = new.get("status")
    metadata = new.get("metadata")
    sent = metadata if isinstance(metadata, dict) else {}
    for field in [field for field in new if field not in old]:
        del new[field]
    new.update({field: value for field, value in old.items() if field != "status"})
    new["metadata"] = dict(old.get("metadata") or {})
    for field in ("resourceVersion", "uid", "managedFields"):
        if field in sent:
            new["metadata"][field] = sent[field]
    if status is None:
        new.pop("status", None)
    else:
        new["status"] = status


def valid_status(_new: Object, _old: Object) -> list[Cause]:
    """The `validate_status` of a kind whose status is the business of its writer."""
    return []


@dataclass(frozen=True, slots=True)
class Kind:
    """Everything the API server knows about one kind.

    default          fills, in place, what kube-apiserver fills; idempotent
    validate         (new, old or None for a create) → the causes of a 422; immutability included
    columns          kubectl's columns
    fields           the values a field selector may ask for; asking for another field is a 400
    subresources     "status", "scale", "binding", ...
    prepare_create   in place: drops what a creator may not set (status), sets generation 1
    prepare_update   (new, old) in place: keeps the old status, bumps the generation if the spec changed
    prepare_status   (new, old) in place: keeps everything but the status
    warnings         what who writes a valid object should know, for the answer's Warning headers
    stored           False: the collection is always empty, and creating in it is refused by name
    ask              (who, question) → answer, of a kind that is only asked: POST is its one verb
    view             of a kind that is another one by a second name: what is stored, and how it is told
    """

    resource: Resource
    default: Callable[[Object], None]
    validate: Callable[[Object, Object | None], list[Cause]]
    columns: tuple[Column, ...]
    fields: Callable[[Object], Mapping[str, str]]
    subresources: frozenset[str] = frozenset()
    prepare_create: Callable[[Object], None] = keep_created
    prepare_update: Callable[[Object, Object], None] = keep_updated
    prepare_status: Callable[[Object, Object], None] = keep_all_but_status
    validate_status: Callable[[Object, Object], list[Cause]] = valid_status
    warnings: Callable[[Object], list[str]] = nothing_to_warn_of
    stored: bool = True
    ask: Callable[[Asker, Object], Object] | None = None
    view: View | None = None


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """``resource`` is a second group's name for objects that are stored as ``kind``.

    ``show`` makes a stored object the view's, ``read`` takes it back; neither changes what it is given.
    """

    resource: Resource
    kind: Kind
    show: Callable[[Object], Object]
    read: Callable[[Object], Object]
