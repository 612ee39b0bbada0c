"""Conversations with pods: exec, attach and port-forward, each over one WebSocket from the API server.

Nothing is buffered beyond one message a direction: who does not read is not read from. Whoever goes away takes what
it started along.
"""
