"""Pods from what people ask for: Deployments, ReplicaSets, DaemonSets, Jobs, and how many of them may be disturbed."""
