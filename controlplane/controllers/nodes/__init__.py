"""What becomes of nodes and of their pods: networks, silence, and being gone."""
