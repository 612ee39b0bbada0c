"""What nobody asks for by name: owners' dependents go, namespaces are emptied, each has its ServiceAccount."""
