"""The twin in PyTorch of examples/lstm_scan.py: PyTorch's loop over time is Python's, so it is that of lstm.py."""

from bench.twins.lstm import train

__all__ = ["train"]

if __name__ == "__main__":
    for step, loss in zip(range(200), train(), strict=False):
        if step % 40 == 39:
            print(f"step {step + 1}: loss {loss:.3f}")
