"""The node agent: it makes this machine a Node, and its pods run, whatever becomes of the agent itself."""
