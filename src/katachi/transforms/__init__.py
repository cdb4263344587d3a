"""Rewriting nodes to nodes: reverse and forward differentiation (batching comes later)."""
