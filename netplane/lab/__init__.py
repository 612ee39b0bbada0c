"""A cluster of namespaces on one machine, for tests, demonstrations and debugging.

Every machine of a lab is a directory, a set of namespaces and a cgroup, booted by `netplane supervise` as its
PID 1, so what runs here is what runs on real machines. Nothing of a lab touches the machine's own network.
"""
