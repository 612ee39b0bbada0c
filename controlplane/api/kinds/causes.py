"""The sentences of a 422: each wrong field in kube-apiserver's own words.

Source: Kubernetes `apimachinery/pkg/util/validation/field/errors.go`; people search the web for these texts,
and clients branch on the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from netplane.kube.errors import Cause

IMMUTABLE = "field is immutable"
SHOWN_MOST = 512
"""A wrong value of a megabyte is quoted to recognise it, not to repeat it."""


def required(field: str, detail: str = "") -> Cause:
    """The field must be there and not empty."""
    return Cause(field, f"Required value: {detail}" if detail else "Required value", "FieldValueRequired")


def invalid(field: str, value: object, detail: str) -> Cause:
    """The value breaks a rule."""
    return Cause(field, f"Invalid value: {_shown(value)}: {detail}", "FieldValueInvalid")


def mistyped(field: str, value: object, wanted: str) -> Cause:
    """The value is not of the JSON type the field has."""
    return Cause(field, f"Invalid value: {_shown(value)}: must be {wanted}", "FieldValueTypeInvalid")


def not_supported(field: str, value: object, supported: Iterable[str]) -> Cause:
    """The value is not one of a closed list."""
    listed = ", ".join(f'"{choice}"' for choice in sorted(supported))
    text = f"Unsupported value: {_shown(value)}: supported values: {listed}"
    return Cause(field, text, "FieldValueNotSupported")


def duplicate(field: str, value: object) -> Cause:
    """The value is there a second time."""
    return Cause(field, f"Duplicate value: {_shown(value)}", "FieldValueDuplicate")


def forbidden(field: str, detail: str) -> Cause:
    """The field may not be set, or may not be changed, here."""
    return Cause(field, f"Forbidden: {detail}", "FieldValueForbidden")


def too_long(field: str, most: int) -> Cause:
    """The value has more bytes than allowed."""
    return Cause(field, f"Too long: may not be more than {most} bytes", "FieldValueTooLong")


def too_many(field: str, have: int, most: int) -> Cause:
    """The list has more elements than allowed."""
    return Cause(field, f"Too many: {have}: must have at most {most} items", "FieldValueTooMany")


def not_found(field: str, value: object) -> Cause:
    """The value names something that is not there."""
    return Cause(field, f"Not found: {_shown(value)}", "FieldValueNotFound")


def _shown(value: object) -> str:
    """As Go prints it: a string quoted, a map of strings as a Go literal, anything else as JSON."""
    if isinstance(value, Mapping) and value and all(isinstance(entry, str) for entry in value.values()):
        pairs = ", ".join(f"{_quoted(key)}:{_quoted(value[key])}" for key in sorted(value))
        return f"map[string]string{{{pairs}}}"
    return _quoted(value)


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=str)
    return text if len(text) <= SHOWN_MOST else text[:SHOWN_MOST] + "..."
