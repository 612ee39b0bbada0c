"""Tools that say how a connection is routed, with the evidence for each hop."""
