"""Is katachi the fastest way to train a small or medium model on a CPU? `python -m bench` measures it (README.md)."""
