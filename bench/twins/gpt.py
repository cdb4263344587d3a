"""The twin in PyTorch of examples/gpt.py."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

torch.set_num_threads(2)

TEXT = "a tensor is a value, it never changes; state lives in cells, and a loop runs as one program a step. " * 20
BATCH, BLOCK, WIDTH, HEADS, LAYERS, MICRO_BATCHES = 8, 32, 32, 4, 2, 2
EVERY, WRITTEN = 50, 24

Pair = tuple[Tensor, Tensor]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def project(self, x: Tensor) -> list[Tensor]:
        b, t, _ = x.shape
        return [y.reshape(b, t, HEADS, WIDTH // HEADS).transpose(1, 2) for y in self.qkv(x).chunk(3, -1)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        b, _, t, _ = q.shape
        scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.tril(torch.ones(x.shape[1], x.shape[1])) > 0
        return self.attend(*self.project(x), seen)

    def growing(self, x: Tensor, past: Pair | None) -> tuple[Tensor, Pair]:
        """For one more letter, with the keys and values of those before it."""
        q, k, v = self.project(x)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        return self.attend(q, k, v, None), (k, v)

    def preallocated(self, x: Tensor, place: int, cache: Pair) -> tuple[Tensor, Pair]:
        """The same with a cache that is as long as it will ever be."""
        q, k, v = self.project(x)
        cache[0][:, :, place : place + 1] = k
        cache[1][:, :, place : place + 1] = v
        return self.attend(q, *cache, torch.arange(BLOCK) <= place), cache


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters, bias=False)

    def forward(self, index: Tensor) -> Tensor:
        x = self.letter(index) + self.place(torch.arange(index.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def write(self, first: int, grow: bool) -> list[int]:
        """The likeliest letters after a first one, each from the keys and values of those before it."""
        written = [first]
        shape = (1, HEADS, BLOCK, WIDTH // HEADS)
        caches: list[Pair | None] = [None if grow else (torch.zeros(shape), torch.zeros(shape)) for _ in self.blocks]
        with torch.no_grad():
            for place in range(WRITTEN):
                x = self.letter(torch.tensor([[written[-1]]])) + self.place(torch.tensor([place]))
                for i, block in enumerate(self.blocks):
                    y, cache = block.norm1(x), caches[i]
                    if grow or cache is None:
                        y, caches[i] = block.attention.growing(y, cache)
                    else:
                        y, caches[i] = block.attention.preallocated(y, place, cache)
                    x = x + y
                    x = x + block.mlp(block.norm2(x))
                written.append(self.head(self.norm(x))[0, -1].argmax().item())
        return written


def get_batch(text: Tensor) -> Pair:
    starts = torch.randint(0, len(text) - BLOCK, (BATCH,))
    x = torch.stack([text[i : i + BLOCK] for i in starts])
    y = torch.stack([text[i + 1 : i + BLOCK + 1] for i in starts])
    return x, y


def loss_of(model: GPT, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def evaluate(model: GPT, text: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, *get_batch(text)).item() for _ in range(4)]
    model.train()
    return sum(losses) / len(losses)


def train() -> Iterator[float]:
    """The loss of each step, in nats a letter."""
    torch.manual_seed(0)
    letters = sorted(set(TEXT))
    text = torch.tensor([letters.index(letter) for letter in TEXT])
    split = len(text) * 9 // 10
    training, held_out = text[:split], text[split:]
    model = GPT(len(letters))
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    step = 0
    while True:
        if step % EVERY == 0:
            print(f"step {step}: held out {evaluate(model, held_out):.3f}")
            for grow in (True, False):
                print("  " + "".join(letters[i] for i in model.write(letters.index("a"), grow)))
        total = 0.0
        for _ in range(MICRO_BATCHES):
            x, y = get_batch(training)
            loss = loss_of(model, x, y) / MICRO_BATCHES
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        yield total


if __name__ == "__main__":
    for _ in zip(range(201), train(), strict=False):
        pass
