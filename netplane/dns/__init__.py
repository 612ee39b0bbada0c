"""Cluster DNS, answered on every node: a pod's resolver never leaves its node, nor shares a translated flow."""
