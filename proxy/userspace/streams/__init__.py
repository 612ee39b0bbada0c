"""TCP connections: accepted, dialled, relayed and ended, on bare descriptors.

``engine`` takes them in and finds them an endpoint, ``relaying`` is their life, ``moving`` moves their bytes, and
``relay`` has the rules, without any I/O.
"""
