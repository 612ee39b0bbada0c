"""Where the cluster's objects live: keys, bytes and one revision that counts every change.

The API server is the only reader and writer. What it needs of a store is `contract.Store`, small enough that
SQLite on one machine and etcd on several can both be it; the same contract tests run on each.
"""
