"""The API's error bodies (``metav1.Status``), made by the server and read by the clients.

kubectl branches on ``reason``, so the reasons, codes and texts are the API's own.
Source: Kubernetes ``apimachinery/pkg/api/errors/errors.go``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from netplane.errors import NetplaneError
from netplane.kube.resources import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is wrong, and why. ``field`` is a path such as ``spec.ports[0].nodePort``."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class StatusError(NetplaneError):
    """A failed request, with the Status that says so."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    @property
    def status(self) -> dict[str, Any]:
        """The body to answer with."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details or self.reason in ("NotFound", "MethodNotAllowed"):
            body["details"] = (
                self.details
            )  # also an empty one: kubectl looks inside to tell these from others
        return body


def _named(resource: Resource, name: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    return {**details, **more}


def not_found(resource: Resource, name: str) -> StatusError:
    """404: there is no such object."""
    return StatusError(404, "NotFound", f'{resource.qualified} "{name}" not found', _named(resource, name))


def already_exists(resource: Resource, name: str) -> StatusError:
    """409 on create: the name is taken."""
    text = f'{resource.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", text, _named(resource, name))


def conflict(resource: Resource, name: str, message: str) -> StatusError:
    """409 on update: the object is not as the writer believed."""
    text = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {message}'
    return StatusError(409, "Conflict", text, _named(resource, name))


def invalid(resource: Resource, name: str, causes: Iterable[Cause]) -> StatusError:
    """422: the object says something that cannot be; one cause a field."""
    found = list(causes)
    listed = [f"{cause.field}: {cause.message}" for cause in found]
    text = listed[0] if len(listed) == 1 else "[" + ", ".join(listed) + "]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = {"name": name, "kind": resource.kind}
    if resource.group:
        details["group"] = resource.group
    body = [{"reason": c.reason, "message": c.message, "field": c.field} for c in found]
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', {**details, "causes": body})


def bad_request(message: str) -> StatusError:
    """400: the request itself cannot be understood."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401: nobody we know."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, group: str, plural: str, namespace: str, name: str = "") -> StatusError:
    """403: known, but not allowed."""
    subject = f'{plural}.{group} "{name}"' if group and name else f'{plural} "{name}"' if name else plural
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    target = f'cannot {verb} resource "{plural}" in API group "{group}" {scope}'
    text = f'{subject} is forbidden: User "{user}" {target}'
    details = {"name": name, "group": group, "kind": plural}
    return StatusError(403, "Forbidden", text, {key: value for key, value in details.items() if value})


def refused(resource: Resource, name: str, message: str) -> StatusError:
    """403 by a rule of the API itself, such as creating in a namespace that is being deleted."""
    text = f'{resource.qualified} "{name}" is forbidden: {message}'
    return StatusError(403, "Forbidden", text, _named(resource, name))


def no_such_path() -> StatusError:
    """404 of the router: no resource is served there."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed() -> StatusError:
    """405: the resource is there, the verb is not."""
    text = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", text)


def not_served(resource: Resource) -> StatusError:
    """405: the resource is known, and netplane has none of it."""
    text = f"netplane does not serve {resource.qualified}: none can be created"
    return StatusError(405, "MethodNotAllowed", text, _named(resource, ""))


def not_acceptable(message: str) -> StatusError:
    """406: no representation the client accepts."""
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(sent: str, supported: Iterable[str]) -> StatusError:
    """415: a body we cannot read, and what we could."""
    text = f"the body of the request was in an unknown format {sent!r} - accepted media types include: "
    return StatusError(415, "UnsupportedMediaType", text + ", ".join(supported))


def expired(message: str) -> StatusError:
    """410: that much history is not kept; list again."""
    return StatusError(410, "Expired", message)


def too_large_resource_version(wanted: int, current: int) -> StatusError:
    """504: a revision the store has not reached."""
    text = f"Timeout: Too large resource version: {wanted}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", text, {"causes": causes, "retryAfterSeconds": 1})


def internal(message: str) -> StatusError:
    """500: our fault, or our store's."""
    return StatusError(500, "InternalError", f"Internal error occurred: {message}")


def too_many_requests(
    message: str, retry_after: int, causes: Iterable[Mapping[str, str]] = ()
) -> StatusError:
    """429: not now; ``retry_after`` in seconds."""
    details: dict[str, Any] = {"retryAfterSeconds": retry_after}
    if listed := [dict(cause) for cause in causes]:
        details["causes"] = listed
    return StatusError(429, "TooManyRequests", message, details)


def unavailable(message: str) -> StatusError:
    """503: not now."""
    return StatusError(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})


def from_status(code: int, status: Mapping[str, Any]) -> StatusError:
    """The error that a Status object describes."""
    return StatusError(
        int(status.get("code") or code),
        str(status.get("reason") or ""),
        str(status.get("message") or f"HTTP {code}"),
        dict(status.get("details") or {}),
    )


def from_response(code: int, body: bytes) -> StatusError:
    """The error in an HTTP answer; a body that is no Status is quoted, cut to 200 characters."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return from_status(code, status)
    return StatusError(code, "", f"HTTP {code}: {body[:200].decode('utf-8', 'replace').strip()}")


def is_not_found(error: BaseException) -> bool:
    """Whether the object is not there."""
    return isinstance(error, StatusError) and error.reason == "NotFound"


def is_already_exists(error: BaseException) -> bool:
    """Whether the name is taken."""
    return isinstance(error, StatusError) and error.reason == "AlreadyExists"


def is_conflict(error: BaseException) -> bool:
    """Whether somebody else wrote first."""
    return isinstance(error, StatusError) and error.reason == "Conflict"


def is_gone(error: BaseException) -> bool:
    """Whether the history asked for is no longer kept (410, as HTTP answer or as watch event)."""
    return isinstance(error, StatusError) and error.code == 410
