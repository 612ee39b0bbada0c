"""A namespace and an identity for each test of the executable; the ``node`` is each file's own."""

from itertools import count

import pytest

from tests.netns.cni_node import CniNode, pods

_numbers = count(1)


@pytest.fixture
def pod():
    with pods(1) as (made,):
        yield made


@pytest.fixture
def container(node: CniNode):
    """An identity nobody used; whatever the test left of it is taken away."""
    name = f"container-{next(_numbers)}"
    yield name
    for lease in node.leases():
        attachment = lease.attachment
        if attachment.container_id == name:
            node.call("DEL", name, ifname=attachment.ifname, name=attachment.network)
