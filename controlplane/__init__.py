"""The thin control plane: one store, one API server, and the controllers and scheduler that work through it."""
