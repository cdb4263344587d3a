"""The loop language and its templates; writers turn them into a target's language."""
