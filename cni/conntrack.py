"""UDP flows that must be forgotten: a client that keeps its socket keeps its flow, translated as at its first packet.

So a mapped UDP port that appears, moves or goes away would not be noticed by clients that are already there. TCP
needs nothing: a connection belongs to one pod.
"""

from collections.abc import Collection

from netplane.linux import conntrack


def forget_udp(ports: Collection[int]) -> None:
    """Delete every flow that a client began towards one of ``ports``. Raises KernelError."""
    conntrack.forget_where(
        lambda flow: flow.protocol == conntrack.UDP and flow.called.destination_port in ports
    )
