"""How a controller runs: caches in, a queue of keys, one decision at a time, its actions done and told of."""
