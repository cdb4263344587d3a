"""An LSTM that learns to spell, written as a loop over time. Its state goes on from chunk to chunk of the text, and
gradients go back to the beginning of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import katachi as kt
from katachi import Tensor, Variable, nn, optim
from katachi.nn import functional as F

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on until the fox is gone. " * 40
STREAMS, CHUNK, WIDTH = 8, 16, 48


class Cell(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(inputs, 4 * width)
        self.of_state = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (self.of_input(x) + self.of_state(h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c


class Speller(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, WIDTH)
        self.cell = Cell(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, text: Tensor, h: Tensor, c: Tensor) -> tuple[Variable, Tensor, Tensor]:
        x = self.embedding(text)
        outputs = []
        for t in range(text.shape[1]):
            h, c = self.cell(x[:, t], h, c)
            outputs.append(h)
        return self.head(kt.stack(outputs, 1)), h, c


def train() -> Iterator[float]:
    """The loss of each chunk, in nats a letter."""
    kt.manual_seed(0)
    letters = sorted(set(TEXT))
    length = len(TEXT) // STREAMS
    text = kt.tensor([letters.index(letter) for letter in TEXT])[: length * STREAMS].reshape(STREAMS, length)
    model = Speller(len(letters))
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    while True:
        h, c = kt.zeros(STREAMS, WIDTH), kt.zeros(STREAMS, WIDTH)
        for start in range(0, length - CHUNK, CHUNK):
            x, y = text[:, start : start + CHUNK], text[:, start + 1 : start + CHUNK + 1]
            h, c = h.freeze(), c.freeze()
            logits, h, c = model(x, h, c)
            loss = F.cross_entropy(logits.reshape(-1, len(letters)), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            yield loss.item()


if __name__ == "__main__":
    for step, loss in zip(range(200), train(), strict=False):
        if step % 40 == 39:
            print(f"step {step + 1}: loss {loss:.3f}")
