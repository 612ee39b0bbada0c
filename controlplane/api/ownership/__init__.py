"""Who owns which field of an object: ``metadata.managedFields``, and server-side apply, which goes by it. Pure.

A set of fields is a frozenset of paths; a path is a tuple of elements written as FieldsV1 writes them. `fields`
knows sets and their text, `values` what a set says of an object of some shape, `managers` the rules.
"""
