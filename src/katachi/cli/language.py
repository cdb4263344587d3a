"""A small language model over characters, and writing with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from katachi import nn
from katachi.tensor import tensor
from katachi.tensor.creation import arange
from katachi.tensor.modes import no_grad


class LanguageModel(nn.Module):
    """A causal transformer (Vaswani et al., 2017): characters (B, T), T at most `context`, become scores (B, T, V) of
    the character that follows each."""

    def __init__(self, characters: int, width: int, context: int, blocks: int, heads: int) -> None:
        self.context = context
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        with no_grad():  # small beginnings: the first guesses are then nearly uniform
            for table in (self.characters, self.places):
                table.weight.set(table.weight * 0.02)
        self.blocks = nn.Sequential(*[nn.TransformerBlock(width, heads) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, codes: Any) -> Any:
        x = self.characters(codes) + self.places(arange(codes.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def write(model: Any, prompt: np.ndarray, length: int, temperature: float, seed: int) -> Iterator[int]:
    """Draw `length` characters after the prompt, each from what the model expects after those before it.

    At temperature 0 always the likeliest one, at 1 as the model has learned, above 1 more wildly.
    """
    random, text = np.random.default_rng(seed), [int(c) for c in prompt]
    model.eval()
    for _ in range(length):
        seen = text[-model.context :]
        # Always the same size, so that one program serves all; what stands after the last character changes nothing.
        window = np.zeros((1, model.context), np.int64)
        window[0, : len(seen)] = seen
        with no_grad():
            scores = model(tensor(window)).numpy()[0, len(seen) - 1].astype(np.float64)
        if temperature > 0:
            weights = np.exp((scores - scores.max()) / temperature)
            text.append(int(random.choice(len(weights), p=weights / weights.sum())))
        else:
            text.append(int(scores.argmax()))
        yield text[-1]
