"""What a request to write asks for beside its body: dry run, validation, manager. Pure.

Source: ``metav1.{Create,Update,Patch,Delete}Options`` and their validation.
"""

from collections.abc import Mapping
from dataclasses import replace

from controlplane.api.reading.selection import flag
from controlplane.api.requests.bodies import APPLY_PATCH, media_type
from controlplane.api.requests.route import Route
from controlplane.api.requests.strict import repeated
from controlplane.api.writing.writes import Order
from controlplane.auth.authn import User
from netplane.kube.errors import StatusError, bad_request

VALIDATIONS = ("Strict", "Warn", "Ignore")
_LONGEST_MANAGER = 128
_WITH_FIELDS = ("create", "update", "patch")


def order_for(
    route: Route,
    user: User,
    warnings: list[str],
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
) -> Order:
    """The order that a request's query and headers describe. Raises StatusError 400 or 422."""
    media = media_type(headers.get("Content-Type", ""))
    validation = query.get("fieldValidation") or "Warn"
    if validation not in VALIDATIONS:
        text = "must be Strict, Warn or Ignore"
        raise bad_request(f'fieldValidation: Unsupported value: "{validation}": {text}')
    look = validation != "Ignore" and route.verb in _WITH_FIELDS and route.subresource in ("", "status")
    return Order(
        route,
        user,
        dry_run=_dry_run(query.get("dryRun", "")),
        validation=validation,
        warnings=warnings,
        repeated=repeated(media, body) if look else (),
        manager=_manager(route, query, headers, media == APPLY_PATCH),
        force=flag(query, "force"),
    )


def stored(order: Order) -> Order:
    """The order by the name under which the objects are stored."""
    return replace(order, route=order.route.stored)


def dry_if_said(order: Order, options: object) -> Order:
    """The order, a dry run if the DeleteOptions in its body say so. Raises StatusError 400."""
    said = options.get("dryRun") if isinstance(options, dict) else None
    if not said:
        return order
    if not isinstance(said, list):
        raise bad_request("dryRun: Invalid value: must be a list")
    for word in said:
        _dry_run(str(word))
    return replace(order, dry_run=True)


def _dry_run(text: str) -> bool:
    if text not in ("", "All"):
        raise bad_request(f'dryRun: Unsupported value: "{text}": must be All')
    return text == "All"


def _manager(route: Route, query: Mapping[str, str], headers: Mapping[str, str], applies: bool) -> str:
    """Who owns what is written: as said, or the program's name."""
    given = query.get("fieldManager", "")
    if len(given) > _LONGEST_MANAGER or not given.isprintable():
        raise _wrong(
            "fieldManager", "Invalid value", f"must be at most {_LONGEST_MANAGER} printable characters"
        )
    if applies and not given:
        raise _wrong("fieldManager", "Required value", "is required for apply patch")
    if route.verb == "patch" and not applies and "force" in query:
        raise _wrong("force", "Forbidden", "may not be specified for non-apply patch")
    agent = headers.get("User-Agent", "").partition("/")[0]
    return given or "".join(letter for letter in agent if letter.isprintable())[:_LONGEST_MANAGER]


def _wrong(field: str, kind: str, text: str) -> StatusError:
    reason = {"Required value": "FieldValueRequired", "Forbidden": "FieldValueForbidden"}.get(
        kind, "FieldValueInvalid"
    )
    cause = {"reason": reason, "message": f"{kind}: {text}", "field": field}
    details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause]}
    message = f'PatchOptions.meta.k8s.io "" is invalid: {field}: {kind}: {text}'
    return StatusError(422, "Invalid", message, details)
