"""What is measured has to be as pods have it."""

from cni.templates import LINK_SETTINGS
from netplane.bench.place import POD_LINK

DEVCONF = {1: "forwarding", 4: "accept_redirects", 8: "rp_filter"}  # include/uapi/linux/ip.h


def test_pods_of_a_benchmark_have_links_as_the_plugin_makes_them():
    assert {DEVCONF[number]: str(value) for number, value in LINK_SETTINGS.items()} == POD_LINK
