"""The Kubernetes API as the protocol between the parts: names, objects, errors, a cache and one client.

Everything here but ``client`` is pure: it can be tested without a socket and used on both ends of the wire.
"""
