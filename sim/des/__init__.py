"""The virtual-time world: the core's own plans, tables and hashes among models of everything around them. Python only."""
