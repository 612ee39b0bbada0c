"""Packets between two pods of this node go from one to the other, and not through the host's stack.

Why: sockets were told endpoints, so nothing in the stack has to change these packets, and its tables would be all that
a Service costs. What the stack does for others is left to it, and so is everything of which this is not certain.
"""
