"""The training steps in katachi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import katachi as kt
from bench import models
from katachi import nn, optim


class GPT(nn.Module):
    def __init__(self) -> None:
        self.token = nn.Embedding(models.VOCABULARY, models.WIDTH)
        self.position = nn.Embedding(models.LENGTH, models.WIDTH)
        self.blocks = [nn.TransformerBlock(models.WIDTH, models.HEADS) for _ in range(models.LAYERS)]
        self.norm, self.head = nn.LayerNorm(models.WIDTH), nn.Linear(models.WIDTH, models.VOCABULARY)

    def forward(self, x: Any) -> Any:
        h: Any = self.token(x) + self.position(kt.arange(models.LENGTH))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def build(name: str, compiled: bool) -> Callable[[], object]:
    """A training step: each call is one, and gives its loss."""
    kt.use_device("cpu")
    model: Any = GPT() if name == "gpt" else models.sequential(nn, name)
    model.load_state_dict(models.weights(name))
    optimizer = optim.AdamW(model.parameters(), lr=models.RATE, betas=models.BETAS)
    inputs, labels = map(kt.tensor, models.data(name))

    def step(x: Any, y: Any) -> Any:
        loss = nn.functional.cross_entropy(model(x), y, axis=-1)
        loss.backward()
        optimizer.step()  # computes, the loss as well
        return loss

    if compiled:
        step = kt.compile(step)
    return lambda: step(inputs, labels)
