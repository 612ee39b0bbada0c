"""What the API server knows about each kind: defaults, validation, printing.

The API machinery (REST, watch, patch) treats every object alike; all knowledge about a Pod being a Pod
lives in this room, as pure functions over JSON objects collected in one `Kind` each.
"""
