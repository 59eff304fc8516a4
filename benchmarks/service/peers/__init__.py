"""Servers of others on the same graphs: scripts that need no suffice."""
