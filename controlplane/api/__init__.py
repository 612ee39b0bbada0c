"""The API server: Kubernetes' wire format over the store, one verb a function.

A request walks `http` → `requests` (who are you, what is asked, may you) → `reading` or `writing` (the verb; rules
across objects) → the store → `memory` → whoever watches, and the answer.
"""
