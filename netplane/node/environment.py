"""A container's command and environment, as the pod's spec words them: pure.

Source: Kubernetes documentation, "Define a Command and Arguments" and "Expose Pod Information Through Environment
Variables"; expansion as `third_party/forked/golang/expansion`.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netplane.kube.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of
from netplane.kube.references import Reference
from netplane.kube.resources import CONFIGMAPS, SECRETS, Resource

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SOURCES = {"configMap": CONFIGMAPS, "secret": SECRETS}
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_KEYED = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(NAME)`` becomes its value; an unknown one stays as it is; ``$$(NAME)`` is the way to write it literally."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(value, text)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pod's environment takes from elsewhere: ConfigMaps and Secrets by reference (None where there is none),
    and the variables for Services.
    """

    configs: Mapping[Reference, Object | None] = field(default_factory=dict)
    services: Mapping[str, str] = field(default_factory=dict)


class Missing(ValueError):
    """A ConfigMap, a Secret or a key of one is not there; the text is kubelet's."""


def data_of(configs: Mapping[Reference, Object | None], reference: Reference) -> dict[str, bytes] | None:
    """All entries of a ConfigMap or Secret, decoded; None where there is no such object."""
    found = configs.get(reference)
    if found is None:
        return None
    if reference.resource == SECRETS:
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    plain = {key: str(value).encode() for key, value in (found.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return plain | binary


def not_found(reference: Reference) -> Missing:
    """The object is not there."""
    return Missing(f'{_singular(reference.resource)} "{reference.name}" not found')


def _singular(resource: Resource) -> str:
    return resource.kind.lower()


def field_value(pod: Object, path: str, facts: Mapping[str, str]) -> str:
    """The value of a `fieldRef`. ``facts`` are those known only here: status.podIP and the like.

    Raises ValueError naming a path that is not served.
    """
    if path in facts:
        return facts[path]
    if keyed := _KEYED.match(path):
        source = labels_of(pod) if keyed[1] == "labels" else annotations_of(pod)
        return source.get(keyed[2], "")
    spec: Mapping[str, Any] = pod.get("spec") or {}
    known = {
        "metadata.name": name_of(pod),
        "metadata.namespace": namespace_of(pod),
        "metadata.uid": uid_of(pod),
        "spec.nodeName": str(spec.get("nodeName") or ""),
        "spec.serviceAccountName": str(spec.get("serviceAccountName") or "default"),
    }
    if path not in known:
        raise ValueError(f"fieldRef.fieldPath {path!r} is not supported")
    return known[path]


NOWHERE = Surroundings()


def environment(
    pod: Object,
    container: Object,
    facts: Mapping[str, str],
    image: Mapping[str, str],
    around: Surroundings = NOWHERE,
) -> dict[str, str]:
    """All variables of a container: those for Services, the image's, ours, those of `envFrom`, then the pod's own,
    each expanded by those before it.

    Raises ValueError naming the variable that cannot be given a value, and Missing.
    """
    result = {
        **around.services,
        "PATH": PATH,
        "HOME": "/",
        "HOSTNAME": facts["hostname"],
        **image,
        "NETPLANE_POD": name_of(pod),
        "NETPLANE_NAMESPACE": namespace_of(pod),
        "NETPLANE_NODE": str((pod.get("spec") or {}).get("nodeName") or ""),
    }
    for source in container.get("envFrom") or []:
        result |= _whole(source, around)
    for variable in container.get("env") or []:
        name = str(variable.get("name"))
        source = variable.get("valueFrom")
        if source is None:
            result[name] = expand(str(variable.get("value") or ""), result)
            continue
        if "fieldRef" not in source:
            if (value := _keyed(namespace_of(pod), source, around)) is not None:
                result[name] = value
            continue
        try:
            result[name] = field_value(pod, str((source.get("fieldRef") or {}).get("fieldPath")), facts)
        except ValueError as error:
            raise ValueError(f"env {name}: {error}") from None
    return result


def _whole(source: Mapping[str, Any], around: Surroundings) -> dict[str, str]:
    """One entry of `envFrom`: every key a variable."""
    prefix = str(source.get("prefix") or "")
    for kind, resource in _SOURCES.items():
        if wanted := source.get(f"{kind}Ref"):
            reference = Reference(resource, str(wanted.get("name")))
            data = data_of(around.configs, reference)
            if data is None and not wanted.get("optional"):
                raise not_found(reference)
            return {prefix + key: value.decode("utf-8", "replace") for key, value in (data or {}).items()}
    return {}


def _keyed(namespace: str, source: Mapping[str, Any], around: Surroundings) -> str | None:
    """One key of a ConfigMap or a Secret; None where it is optional and not there."""
    for kind, resource in _SOURCES.items():
        if wanted := source.get(f"{kind}KeyRef"):
            reference, key = Reference(resource, str(wanted.get("name"))), str(wanted.get("key"))
            data = data_of(around.configs, reference)
            if data is not None and key in data:
                return data[key].decode("utf-8", "replace")
            if wanted.get("optional"):
                return None
            if data is None:
                raise not_found(reference)
            raise Missing(f"couldn't find key {key} in {resource.kind} {namespace}/{reference.name}")
    return None


def command(container: Object, default: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """`command` and `args`, expanded; without `command`, the image's own with `args` after it."""
    own = container.get("command") or []
    args = [expand(str(part), variables) for part in container.get("args") or []]
    return [*([expand(str(part), variables) for part in own] if own else default), *args]
