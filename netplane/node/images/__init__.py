"""The images that need no registry: a name in a pod's spec stands for a module of this package.

The built-in `process` runtime looks a container's image up here; what is not here needs another runtime.
"""

from collections.abc import Mapping
from types import MappingProxyType

BUILT_IN: Mapping[str, str] = MappingProxyType({"netplane/echo": "netplane.node.images.echo"})
"""Image name without tag -> module to run as `python -m MODULE`."""


def module_of(image: str) -> str | None:
    """The module that the image stands for, or None when the image is not built in.

    A tag or digest is ignored (`netplane/echo:v1` is `netplane/echo`): the one version is the installed one.
    """
    name = image.partition("@")[0]
    path, slash, last = name.rpartition("/")
    return BUILT_IN.get(path + slash + last.partition(":")[0])
