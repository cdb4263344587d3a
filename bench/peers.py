"""The plain training steps beside torch's eager mode, interleaved in one process: `python bench/peers.py [name ...]`
(needs the extra `katachi[peers]`). Bursts alternate, because the machine's speed drifts and both sides must meet the
same drift."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import katachi as kt
from katachi import nn, optim

Step = Callable[[], object]
BATCHES = {"xor": 4, "mlp-small": 32, "mlp-big": 256, "cnn": 64, "gpt": 16}
SIZES = {"xor": (2, 16, 2), "mlp-small": (784, 128, 10), "mlp-big": (784, 1024, 1024, 10)}
VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH = 65, 192, 6, 4, 128


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng, batch = np.random.default_rng(0), BATCHES[name]
    if name == "gpt":
        codes = rng.integers(0, VOCABULARY, (batch, LENGTH + 1))
        return codes[:, :-1], codes[:, 1:]
    shape = (batch, 1, 28, 28) if name == "cnn" else (batch, SIZES[name][0])
    return rng.standard_normal(shape, np.float32), rng.integers(0, 2 if name == "xor" else 10, batch)


def network(lib: Any, name: str) -> Any:
    """The same layers from either library."""
    if name == "cnn":
        return lib.Sequential(
            lib.Conv2d(1, 32, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
            lib.Conv2d(32, 64, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2),
            lib.Flatten(), lib.Linear(3136, 128), lib.ReLU(), lib.Linear(128, 10),
        )  # fmt: skip
    layers: list[Any] = []
    sizes = SIZES[name]
    for i, o in itertools.pairwise(sizes):
        layers += [lib.Linear(i, o), lib.ReLU()]
    return lib.Sequential(*layers[:-1])


class KatachiGPT(nn.Module):
    def __init__(self) -> None:
        self.token, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = [nn.TransformerBlock(WIDTH, HEADS) for _ in range(LAYERS)]
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Any) -> Any:
        h = self.token(x) + self.position(kt.arange(LENGTH))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        a = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class TorchGPT(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.Embedding(LENGTH, WIDTH)
        self.blocks = torch.nn.Sequential(*[TorchBlock() for _ in range(LAYERS)])
        self.norm, self.head = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(self.token(x) + self.position(torch.arange(LENGTH)))))


def katachi_step(name: str) -> Step:
    with kt.device("cpu"):
        kt.manual_seed(0)
        model = KatachiGPT() if name == "gpt" else network(nn, name)
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        x, y = map(kt.tensor, data(name))

    def step() -> object:
        with kt.device("cpu"):
            loss = nn.functional.cross_entropy(model(x), y, axis=-1)
            loss.backward()
            optimizer.step()
        return loss

    return step


def torch_step(name: str) -> Step:
    torch.manual_seed(0)
    model = TorchGPT() if name == "gpt" else network(torch.nn, name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = map(torch.from_numpy, data(name))

    def step() -> object:
        optimizer.zero_grad()
        out = model(x)
        loss = torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    return step


def race(steps: dict[str, Step], rounds: int = 40, burst: float = 0.02) -> dict[str, float]:
    """Seconds of a step, the median over alternating bursts; a pause lets the other side's threads go to sleep."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(5):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(0.004)
            step()
            end = time.perf_counter() + burst
            while (start := time.perf_counter()) < end or not times[name]:
                step()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def ratio(name: str, rounds: int = 40) -> tuple[float, float, float]:
    """katachi's time over torch's, and both in seconds."""
    times = race({"katachi": katachi_step(name), "torch": torch_step(name)}, rounds)
    return times["katachi"] / times["torch"], times["katachi"], times["torch"]


if __name__ == "__main__":
    for name in sys.argv[1:] or BATCHES:
        over, ours, theirs = ratio(name, 40 if name in ("xor", "mlp-small") else 10)
        print(
            f"{name:10} katachi {ours * 1e3:8.3f} ms, torch eager {theirs * 1e3:8.3f} ms, ratio {over:.2f}", flush=True
        )
