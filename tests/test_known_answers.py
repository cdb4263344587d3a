"""Small problems whose answers are known: each is solved within stated steps, from five seeds, on the cpu device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import katachi as kt
from katachi import data, nn, optim
from katachi.nn import functional as F

SEEDS = range(5)


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    with kt.device("cpu"):
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_xor(seed: int) -> None:
    """Below 0.01 in 300 steps, and right for all four."""
    kt.manual_seed(seed)
    x = kt.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = kt.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
    optimizer, criterion = optim.Adam(model.parameters(), lr=0.05), nn.MSELoss()
    for _ in range(300):
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    assert model.freeze()(x).numpy().round().tolist() == y.tolist()


class LeNet(nn.Module):
    """LeCun's network, small enough for images of eight by eight."""

    def __init__(self) -> None:
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(32, 10))

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))


@pytest.mark.parametrize("seed", SEEDS)
def test_digits(seed: int) -> None:
    """Nine of ten digits never seen, after 200 steps on 512 of the bundled ones."""
    kt.manual_seed(seed)
    train, test = data.digits()
    images, labels = (np.stack([np.asarray(row[i]) for row in map(train.__getitem__, range(512))]) for i in range(2))
    unseen, answers = (np.stack([np.asarray(row[i]) for row in map(test.__getitem__, range(300))]) for i in range(2))
    model = LeNet()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for step in range(200):
        rows = slice(step % 8 * 64, step % 8 * 64 + 64)
        loss = F.cross_entropy(model(kt.tensor(images[rows])), kt.tensor(labels[rows]), label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        schedule.step()
    found = model.freeze()(kt.tensor(unseen)).argmax(1).numpy()
    assert (found == answers).mean() >= 0.9


POEM = "Beautiful is better than ugly. Explicit is better than implicit. Simple is better than complex. "


class GPT(nn.Module):
    def __init__(self, letters: int, longest: int, width: int = 32) -> None:
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(longest, width)
        self.blocks = [nn.TransformerBlock(width, 4) for _ in range(2)]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, index: Any) -> Any:
        x: Any = self.letter(index) + self.place(kt.arange(index.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tiny_gpt_learns_a_text_by_heart(seed: int) -> None:
    """Below 0.25 nats a letter in 200 steps (guessing is above 3), and it goes on with the text from its beginning."""
    kt.manual_seed(seed)
    letters = sorted(set(POEM))
    numbers = np.array([letters.index(c) for c in POEM * 2])
    length, random = 24, np.random.default_rng(seed)
    model, criterion = GPT(len(letters), length), nn.CrossEntropyLoss(axis=-1)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.StepLR(optimizer, 100, 0.3)
    losses = []
    for _ in range(200):
        at = random.integers(0, len(POEM), (12, 1)) + np.arange(length)
        loss = criterion(model(kt.tensor(numbers[at])), kt.tensor(numbers[at + 1]))
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[0] > 2.5 and np.mean(losses[-10:]) < 0.25
    fixed, told = model.freeze(), POEM[:20]
    for _ in range(30):
        seen = told[-20:]
        told += letters[fixed(kt.tensor([[letters.index(c) for c in seen]]))[0, -1].argmax().item()]
    assert told == POEM[:50]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gan_finds_a_gaussian(seed: int) -> None:
    """Two networks against each other, an optimiser each: after 400 steps what is generated has the mean (4) and the
    standard deviation (1.25) of the data, to within 0.6."""
    kt.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))
    critic = nn.Sequential(nn.Linear(1, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
    forger = optim.Adam(generator.parameters(), lr=5e-3, betas=(0.5, 0.99))
    judge = optim.Adam(critic.parameters(), lr=1e-2, betas=(0.5, 0.99))
    real_ones, fake_ones = kt.ones(64, dtype=kt.int64), kt.zeros(64, dtype=kt.int64)
    late = []
    for step in range(400):
        real, noise = kt.randn(64, 1) * 1.25 + 4.0, kt.randn(64, 1)
        fake = generator(noise)
        loss = F.cross_entropy(critic(real), real_ones) + F.cross_entropy(critic(fake.freeze()), fake_ones)
        loss.backward()
        judge.step()
        F.cross_entropy(critic(fake), real_ones).backward()
        forger.step()
        critic.zero_grad()
        if step >= 200:
            late.append(fake.numpy())
    assert abs(np.mean(late) - 4.0) < 0.6
    assert abs(np.mean([x.std() for x in late]) - 1.25) < 0.6


def _curve(seed: int, build: Callable[[], Any], steps: int) -> list[float]:
    kt.manual_seed(seed)
    x = np.random.default_rng(seed).standard_normal((32, 4)).astype(np.float32)
    model = build()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    out = []
    for _ in range(steps):
        loss = F.mse_loss(model(kt.tensor(x)), kt.tensor(x[:, :1] * 2 - x[:, 1:2]))
        loss.backward()
        optimizer.step()
        out.append(loss.item())
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_a_line_is_fitted_exactly_and_the_same_way_each_time(seed: int) -> None:
    first = _curve(seed, lambda: nn.Linear(4, 1), 150)
    assert first[-1] < 1e-5
    assert first == _curve(seed, lambda: nn.Linear(4, 1), 150)
