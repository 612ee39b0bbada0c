"""A pod's own process: PID 1 of its PID namespace, which holds the pod's namespaces and starts its containers.

It outlives the agent: everything the agent must know after a crash is asked of this process again. It is therefore
small, single-threaded, and made of the standard library only: it is started as `python -IS` (no site-packages), so
nothing in this package may import anything of netplane but this package.
"""
