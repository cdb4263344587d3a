"""Rewriting nodes to nodes: reverse and forward differentiation, and batching."""
