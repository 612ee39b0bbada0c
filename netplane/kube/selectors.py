"""Label and field selectors: the text form of a query string and the JSON form of a spec, one meaning.

Source: Kubernetes ``apimachinery/pkg/labels/selector.go`` and ``pkg/fields/selector.go``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEY = r"[A-Za-z0-9]([A-Za-z0-9_.\-/]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.\-]*[A-Za-z0-9])?)?"
_SET = re.compile(rf"^(?P<key>{_KEY})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(rf"^(?P<key>{_KEY})\s*(?P<op>==|=|!=)\s*(?P<value>{_VALUE})$")
_ORDER = re.compile(rf"^(?P<key>{_KEY})\s*(?P<op>[<>])\s*(?P<value>-?\d+)$")
_EXISTS = re.compile(rf"^(?P<not>!\s*)?(?P<key>{_KEY})$")
_ONE_VALUE = re.compile(rf"^{_VALUE}$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: ``key op values`` with op In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy this term; an absent key satisfies NotIn."""
        present = self.key in labels
        match self.operator:
            case "Exists":
                return present
            case "DoesNotExist":
                return not present
            case "In":
                return present and labels[self.key] in self.values
            case "NotIn":
                return not present or labels[self.key] not in self.values
            case "Gt" | "Lt":
                return present and self._ordered(labels[self.key])
            case _:
                raise ValueError(f"unknown selector operator {self.operator!r}")

    def _ordered(self, value: str) -> bool:
        try:
            left, right = int(value), int(self.values[0])
        except ValueError:
            return False
        return left > right if self.operator == "Gt" else left < right

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case "Gt" | "Lt":
                return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"
            case _ if len(self.values) == 1:
                return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
            case _:
                return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements must hold; one without requirements matches everything."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Read a query string's form. Raises ValueError naming the term that is wrong."""
        return cls(tuple(_parse_term(term.strip()) for term in _split(text)))

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> "Selector":
        """The map form of a Service's ``spec.selector``."""
        return cls(tuple(Requirement(k, "In", (v,)) for k, v in sorted(labels.items())))

    @classmethod
    def from_label_selector(cls, spec: Mapping[str, Any]) -> "Selector":
        """A ``metav1.LabelSelector``. Raises ValueError on an unknown operator or missing values."""
        terms = list(cls.from_labels(spec.get("matchLabels") or {}).requirements)
        for expression in spec.get("matchExpressions") or []:
            operator, values = expression.get("operator"), tuple(expression.get("values") or ())
            if operator not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
                raise ValueError(f"{operator!r} is not a valid label selector operator")
            if operator in ("In", "NotIn") and not values:
                raise ValueError(f"values must be given when operator is {operator}")
            terms.append(Requirement(str(expression.get("key")), operator, values))
        return cls(tuple(terms))

    @property
    def empty(self) -> bool:
        """Whether it matches everything."""
        return not self.requirements

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether all requirements hold for these labels."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


def _split(text: str) -> list[str]:
    """Terms between the commas that stand outside parentheses."""
    terms, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            terms.append(text[start:index])
            start = index + 1
    terms.append(text[start:])
    return terms if text.strip() else []


def _parse_term(term: str) -> Requirement:
    if match := _SET.match(term):
        values = tuple(value.strip() for value in match["values"].split(","))
        for value in values:
            if not _ONE_VALUE.match(value):
                raise ValueError(f"unable to parse requirement {term!r}: invalid label value {value!r}")
        return Requirement(match["key"], "In" if match["op"] == "in" else "NotIn", values)
    if match := _EQUAL.match(term):
        return Requirement(match["key"], "NotIn" if match["op"] == "!=" else "In", (match["value"],))
    if match := _ORDER.match(term):
        return Requirement(match["key"], "Gt" if match["op"] == ">" else "Lt", (match["value"],))
    if match := _EXISTS.match(term):
        return Requirement(match["key"], "DoesNotExist" if match["not"] else "Exists")
    raise ValueError(f"unable to parse requirement {term!r}")


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Equalities on the few fields a kind can be selected by."""

    terms: tuple[tuple[str, bool, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "FieldSelector":
        """Read ``a=b,c!=d``. Raises ValueError naming the term that is wrong."""
        terms = []
        for term in filter(None, (part.strip() for part in text.split(","))):
            match = re.match(r"^([A-Za-z0-9_.\[\]'/-]+)\s*(==|=|!=)\s*(.*)$", term)
            if match is None:
                raise ValueError(f"invalid field selector {term!r}: it must be field=value or field!=value")
            terms.append((match[1], match[2] != "!=", match[3]))
        return cls(tuple(terms))

    @property
    def empty(self) -> bool:
        """Whether it matches everything."""
        return not self.terms

    @property
    def fields(self) -> frozenset[str]:
        """The fields it names, for checking against what a kind supports."""
        return frozenset(field for field, _, _ in self.terms)

    def required(self, field: str) -> str | None:
        """The value this selector demands of ``field``, or None: lets a server index by it."""
        return next((value for name, equal, value in self.terms if name == field and equal), None)

    def matches(self, fields: Mapping[str, str]) -> bool:
        """Whether all terms hold; an absent field reads as the empty string."""
        return all((fields.get(name, "") == value) is equal for name, equal, value in self.terms)

    def __str__(self) -> str:
        return ",".join(f"{name}{'=' if equal else '!='}{value}" for name, equal, value in self.terms)
