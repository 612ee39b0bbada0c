"""Environment variables for Services: the oldest way in which a container finds others. Pure.

Source: Kubernetes `pkg/kubelet/envvars/envvars.go` and `kubelet_pods.go` (getServiceEnvVarMap).
"""

from collections.abc import Iterable

from netplane.kube.objects import Object, name_of, namespace_of

ALWAYS = ("default", "kubernetes")


def service_variables(pod: Object, services: Iterable[Object]) -> dict[str, str]:
    """Those of the API server's Service, and with `enableServiceLinks` of all with an address in the namespace."""
    links = (pod.get("spec") or {}).get("enableServiceLinks") is not False
    found: dict[str, str] = {}
    for service in sorted(services, key=name_of):
        where = (namespace_of(service), name_of(service))
        if where == ALWAYS and (not links or namespace_of(pod) != where[0]):
            found = {**_variables(service), **found}  # a Service of the pod's own namespace goes first
        elif links and where[0] == namespace_of(pod):
            found |= _variables(service)
    return found


def _variables(service: Object) -> dict[str, str]:
    spec = service.get("spec") or {}
    address, ports = spec.get("clusterIP") or "", spec.get("ports") or []
    if address in ("", "None") or not ports:
        return {}
    name = _word(name_of(service))
    found = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"])}
    host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(ports):
        number, protocol = port["port"], str(port.get("protocol") or "TCP")
        if port.get("name"):
            found[f"{name}_SERVICE_PORT_{_word(port['name'])}"] = str(number)
        url = f"{protocol.lower()}://{host}:{number}"
        if index == 0:
            found[f"{name}_PORT"] = url
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        found |= {
            prefix: url,
            f"{prefix}_PROTO": protocol.lower(),
            f"{prefix}_PORT": str(number),
            f"{prefix}_ADDR": address,
        }
    return found


def _word(name: str) -> str:
    return name.upper().replace("-", "_")
