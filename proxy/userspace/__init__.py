"""The userspace data path: listeners, a relay on bare descriptors inside uvloop, and the node's plumbing.

Why it exists: it works on every kernel, retries a dead endpoint before the client notices, keeps the
client's address, and counts everything. The kernel does the copying where a flow is bulk (splice(2)).
"""
