"""A node of its own for each test here."""

import pytest

from tests.netns.cni_node import cni_node


@pytest.fixture
def node(tmp_path):
    with cni_node(tmp_path) as made:
        yield made
