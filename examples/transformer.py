"""A small language model of letters. The checker follows batch, time, width and heads through the attention:

pyrefly check examples/transformer.py
python examples/transformer.py
"""

from __future__ import annotations

import math
from typing import assert_type

import katachi as kt
from katachi import Shaped, Tensor, Variable, nn, optim, shape_vars

TEXT = "a tensor is a value, it never changes; state lives in cells. " * 8


@shape_vars("D, H")
class Attention(nn.Module):
    """Causal self-attention, written out. `nn.MultiheadAttention` is the same in one layer."""

    def __init__(self, width: Shaped[int, "D"], heads: Shaped[int, "H"]) -> None:
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    @shape_vars("B, T")
    def forward(self, x: Shaped[Tensor, "[B, T, D]"]) -> Shaped[Variable, "[B, T, D]"]:
        b, t, d = x.shape
        h = self.heads
        q = self.query(x).reshape((b, t, h, d // h)).permute((0, 2, 1, 3))
        k = self.key(x).reshape((b, t, h, d // h)).permute((0, 2, 1, 3))
        v = self.value(x).reshape((b, t, h, d // h)).permute((0, 2, 1, 3))
        scores = q @ k.mT * (1 / math.sqrt(d // h))
        earlier = kt.arange(t).reshape((t, 1)) >= kt.arange(t)
        mixed = kt.where(earlier, scores, -math.inf).softmax(-1) @ v
        return self.out(mixed.permute((0, 2, 1, 3)).reshape((b, t, d)))


@shape_vars("D, H")
class Block(nn.Module):
    """Attention, then a small network for each position; both are added to what comes in."""

    def __init__(self, width: Shaped[int, "D"], heads: Shaped[int, "H"]) -> None:
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    @shape_vars("B, T")
    def forward(self, x: Shaped[Tensor, "[B, T, D]"]) -> Shaped[Variable, "[B, T, D]"]:
        y = x + self.attention(self.norm1(x))
        return y + self.mlp(self.norm2(y))


@shape_vars("V, M, D, H")
class LanguageModel(nn.Module):
    """What may come next, for each position of a text of at most `longest` letters."""

    def __init__(
        self,
        letters: Shaped[int, "V"],
        longest: Shaped[int, "M"],
        width: Shaped[int, "D"],
        heads: Shaped[int, "H"],
        layers: int,
    ) -> None:
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(longest, width)
        self.blocks = [Block(width, heads) for _ in range(layers)]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    @shape_vars("B, T")
    def forward(self, index: Shaped[Tensor, "[B, T]"]) -> Shaped[Variable, "[B, T, V]"]:
        _, t = index.shape
        x = self.letter(index) + self.place(kt.arange(t))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@shape_vars("")
def shapes() -> None:
    """What the checker knows of a few values, and the run as well."""
    x = kt.zeros(2, 6, 16)
    assert_type(Attention(16, 4)(x), Shaped[Variable, "[2, 6, 16]"])
    assert_type(Block(16, 4)(x), Shaped[Variable, "[2, 6, 16]"])
    index = kt.zeros(2, 6, dtype=kt.int64)
    logits = LanguageModel(27, 8, 16, 4, layers=2)(index)
    assert_type(logits, Shaped[Variable, "[2, 6, 27]"])
    assert_type(nn.functional.cross_entropy(logits, index, axis=-1), Shaped[Variable, "[]"])
    assert_type(nn.MultiheadAttention(16, 4)(x, causal=True), Shaped[Variable, "[2, 6, 16]"])


def train(steps: int = 150, length: int = 16, batch: int = 8) -> list[float]:
    """The loss of each step, in nats a letter."""
    kt.manual_seed(0)
    letters = sorted(set(TEXT))
    text = kt.tensor([letters.index(c) for c in TEXT])
    model = LanguageModel(len(letters), length, 32, 4, layers=2)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        start = kt.randint(0, len(TEXT) - length, (batch, 1))
        index, following = text[start + kt.arange(length)], text[start + kt.arange(length) + 1]
        loss = nn.functional.cross_entropy(model(index), following, axis=-1)
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 30 == 29:
            print(f"step {step + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    shapes()
    train()
