"""PID 1 of a node: the daemons, started, kept alive, and their descriptors held for the next of each.

Why a room of its own in the node's part: the agent is one of the daemons it starts, and must not be missed by it.
"""
