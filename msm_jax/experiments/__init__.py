"""Controlled experiments: the graph of their nodes, addresses by hash, scheduling, and the gathering of results."""
