"""Which container of a pod a request means: pure, in kube-apiserver's words (`registry/core/pod/strategy.go`)."""

from netplane.kube.errors import bad_request
from netplane.kube.objects import Object, name_of


def container_of(pod: Object, wanted: str) -> str:
    """The one that is named, else the only one. Raises StatusError 400."""
    spec = pod.get("spec") or {}
    containers, inits = (
        [str(c["name"]) for c in spec.get(field) or []] for field in ("containers", "initContainers")
    )
    name = name_of(pod)
    if wanted:
        if wanted not in (*containers, *inits):
            raise bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(containers) == 1:
        return containers[0]
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
    if inits:
        text += f" or one of the init containers: [{' '.join(inits)}]"
    raise bad_request(text)
