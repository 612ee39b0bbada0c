"""The API server: Kubernetes' wire format over the store, one verb a function.

A request walks `http` (who are you, may you) → `route` (what is asked) → `reads`, `writes`, `deletes` or
`watches` (the verb) → `admission` (rules across objects) → the store → `hub` (memory and watchers) → the answer.
"""
