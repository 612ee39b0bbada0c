"""What the kinds look like, from Kubernetes' own published data: one source for every rule that needs fields.

`build` extracts it at set-up into `data/`, which is not part of the source but of the wheel; `data` reads it;
`shapes` are the types; `openapi` tells clients; `protobuf` reads what typed clients send.
"""
