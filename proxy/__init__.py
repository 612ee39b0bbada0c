"""The proxy makes Service addresses work on a node.

Why a room of its own: what the API wants (``snapshot``, pure) must stay apart from how a node does it
(``userspace``, and later the kernel's own ways), so that every way is held to one meaning of a Service.
"""

from netplane import compiled

compiled.put_in_place()
