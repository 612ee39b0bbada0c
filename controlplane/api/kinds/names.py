"""Which words may name things: every check returns what is wrong, in kube-apiserver's text, or "".

Source: Kubernetes `apimachinery/pkg/util/validation/validation.go`; RFC 1123, RFC 1035, RFC 6335 (port names).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], str]

LABEL_MOST = 63
SUBDOMAIN_MOST = 253

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = rf"({_QUALIFIED})?"

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
    f"end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{_SUBDOMAIN}')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
    f"validation is '{_LABEL_1035}')"
)
_QUALIFIED_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{_QUALIFIED}')"
)
_LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    f"validation is '{_LABEL_VALUE}')"
)


def _matching(pattern: str, text: str, most: int) -> Check:
    compiled = re.compile(pattern)

    def check(word: str) -> str:
        if len(word.encode("utf-8", "surrogatepass")) > most:
            return f"must be no more than {most} characters"
        return "" if compiled.fullmatch(word) else text

    return check


dns_label: Check = _matching(_LABEL, _LABEL_TEXT, LABEL_MOST)
dns_subdomain: Check = _matching(_SUBDOMAIN, _SUBDOMAIN_TEXT, SUBDOMAIN_MOST)
dns_label_1035: Check = _matching(_LABEL_1035, _LABEL_1035_TEXT, LABEL_MOST)
label_value: Check = _matching(_LABEL_VALUE, _LABEL_VALUE_TEXT, LABEL_MOST)
_name_part: Check = _matching(_QUALIFIED, _QUALIFIED_TEXT, LABEL_MOST)


def qualified_name(word: str) -> str:
    """A label's key: a name with an optional DNS subdomain and "/" before it."""
    prefix, slash, name = word.rpartition("/")
    if "/" in prefix:
        optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return f"a qualified name {_QUALIFIED_TEXT} {optional}"
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        if wrong := dns_subdomain(prefix):
            return f"prefix part {wrong}"
    if not name:
        return "name part must be non-empty"
    wrong = _name_part(name)
    return f"name part {wrong}" if wrong else ""


def port_name(word: str) -> str:
    """A container's port name (RFC 6335 service name)."""
    if len(word) > 15:
        return "must be no more than 15 characters"
    if not re.fullmatch(r"[-a-z0-9]+", word):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search(r"[a-z]", word):
        return "must contain at least one letter (a-z)"
    if "--" in word:
        return "must not contain consecutive hyphens"
    if word.startswith("-") or word.endswith("-"):
        return "must not begin or end with a hyphen"
    return ""


def environment_name(word: str) -> str:
    """An environment variable's name, as relaxed since Kubernetes 1.30."""
    if not word:
        return "environment variable name must be non-empty"
    if re.fullmatch(r"[ -<>-~]+", word):
        return ""
    return "a valid environment variable name must consist only of printable ASCII characters other than '='"


def ip_address(word: str) -> str:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return ""


def ip_network(word: str) -> str:
    """An address with a prefix length."""
    try:
        if "/" in word:
            ipaddress.ip_network(word, strict=False)
            return ""
    except ValueError:
        pass
    return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def port_number(number: int) -> str:
    """A port a packet can carry."""
    return "" if 1 <= number <= 65535 else "must be between 1 and 65535, inclusive"


def config_key(word: str) -> str:
    """A key of a ConfigMap or a Secret: it may become a file's name."""
    if len(word.encode("utf-8", "surrogatepass")) > SUBDOMAIN_MOST:
        return f"must be no more than {SUBDOMAIN_MOST} characters"
    if not re.fullmatch(r"[-._a-zA-Z0-9]+", word):
        return (
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
            "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        )
    if word in (".", ".."):
        return f"must not be '{word}'"
    return "must not start with '..'" if word.startswith("..") else ""
