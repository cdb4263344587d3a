"""Nodes to a program: passes, plan, steps."""
