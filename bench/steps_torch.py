"""The training steps in torch, as its users write them for speed: fused attention, fused AdamW, channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench import models
from bench.machine import cores

torch.set_num_threads(cores())


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = torch.nn.Parameter(torch.empty(3 * models.WIDTH, models.WIDTH))
        self.in_proj_bias = torch.nn.Parameter(torch.empty(3 * models.WIDTH))
        self.out_proj = torch.nn.Linear(models.WIDTH, models.WIDTH)

    def forward(self, x: Any) -> Any:
        b, t, width = x.shape
        packed = torch.nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = packed.view(b, t, 3, models.HEADS, width // models.HEADS).permute(2, 0, 3, 1, 4)
        a = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(a.transpose(1, 2).reshape(b, t, width))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(models.WIDTH), torch.nn.LayerNorm(models.WIDTH)
        self.attention = Attention()
        self.up = torch.nn.Linear(models.WIDTH, 4 * models.WIDTH)
        self.down = torch.nn.Linear(4 * models.WIDTH, models.WIDTH)

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class GPT(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Embedding(models.VOCABULARY, models.WIDTH)
        self.position = torch.nn.Embedding(models.LENGTH, models.WIDTH)
        self.blocks = torch.nn.Sequential(*[Block() for _ in range(models.LAYERS)])
        self.norm = torch.nn.LayerNorm(models.WIDTH)
        self.head = torch.nn.Linear(models.WIDTH, models.VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(self.token(x) + self.position(torch.arange(models.LENGTH)))))


def build(name: str, compiled: bool) -> Callable[[], object]:
    """A training step: each call is one, and gives its loss."""
    model: Any = GPT() if name == "gpt" else models.sequential(torch.nn, name)
    model.load_state_dict({key: torch.from_numpy(w) for key, w in models.weights(name).items()})
    x, y = map(torch.from_numpy, models.data(name))
    if name == "cnn":  # its faster layout
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)

    optimizer = torch.optim.AdamW(model.parameters(), lr=models.RATE, betas=models.BETAS, fused=True)

    def forward(x: Any, y: Any) -> Any:
        out = model(x)
        return torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))

    if compiled:
        forward = torch.compile(forward, dynamic=False)

    def step() -> object:
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step
