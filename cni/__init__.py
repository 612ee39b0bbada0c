"""The CNI plugin: gives every pod a network namespace's worth of network, and takes it away again.

An ADD walks: runtime → ``executable`` → ``daemon`` → ``protocol.parse`` → ``verbs.add``: lease an address →
plan the steps (pure) → apply them (undo on failure) → render the result.
"""
