"""What is computed: nodes, primitives with their shape and dtype rules, dtypes, sizes."""
