"""A container's command and environment, as the pod's spec words them: pure.

Source: Kubernetes documentation, "Define a Command and Arguments" and "Expose Pod Information Through Environment
Variables"; expansion as `third_party/forked/golang/expansion`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from netplane.kube.objects import Object, annotations_of, labels_of, name_of, namespace_of, uid_of

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_KEYED = re.compile(r"^metadata\.(labels|annotations)\['([^']+)'\]$")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(NAME)`` becomes its value; an unknown one stays as it is; ``$$(NAME)`` is the way to write it literally."""

    def value(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(value, text)


def field(pod: Object, path: str, facts: Mapping[str, str]) -> str:
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


def environment(
    pod: Object, container: Object, facts: Mapping[str, str], image: Mapping[str, str]
) -> dict[str, str]:
    """All variables of a container: the image's, ours, then the pod's own, each expanded by those before it.

    Raises ValueError naming the variable that cannot be given a value.
    """
    result = {
        "PATH": PATH,
        "HOME": "/",
        "HOSTNAME": facts["hostname"],
        **image,
        "NETPLANE_POD": name_of(pod),
        "NETPLANE_NAMESPACE": namespace_of(pod),
        "NETPLANE_NODE": str((pod.get("spec") or {}).get("nodeName") or ""),
    }
    for variable in container.get("env") or []:
        name = str(variable.get("name"))
        source = variable.get("valueFrom")
        if source is None:
            result[name] = expand(str(variable.get("value") or ""), result)
            continue
        try:
            result[name] = field(pod, str((source.get("fieldRef") or {}).get("fieldPath")), facts)
        except ValueError as error:
            raise ValueError(f"env {name}: {error}") from None
    return result


def command(container: Object, default: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """`command` and `args`, expanded; without `command`, the image's own with `args` after it."""
    own = container.get("command") or []
    args = [expand(str(part), variables) for part in container.get("args") or []]
    return [*([expand(str(part), variables) for part in own] if own else default), *args]
