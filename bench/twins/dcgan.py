"""The twin in PyTorch of examples/dcgan.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

torch.set_num_threads(2)

SIZE, NOISE, WIDTH, BATCH = 16, 16, 16, 32


def real_images(rng: np.random.Generator) -> np.ndarray:
    """Discs of a random radius at a random place, in [-1, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    centre, radius = rng.uniform(4, SIZE - 4, (2, BATCH, 1, 1)), rng.uniform(2, 4, (BATCH, 1, 1))
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
    return np.tanh(2 * (radius - distance))[:, None].astype(np.float32)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(NOISE, 2 * WIDTH, 4, 1, 0, bias=False),
            nn.BatchNorm2d(2 * WIDTH),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, 2, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.ConvTranspose2d(WIDTH, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, WIDTH, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * WIDTH),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * WIDTH, 1, 4, 1, 0, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).reshape(-1)


def train() -> Iterator[float]:
    """The discriminator's loss of each step."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    generator, discriminator = Generator(), Discriminator()
    opt_g = optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    real, fake = torch.ones(BATCH), torch.zeros(BATCH)
    while True:
        images = torch.from_numpy(real_images(rng))
        drawn = generator(torch.randn(BATCH, NOISE, 1, 1))

        opt_d.zero_grad()
        loss_real = F.binary_cross_entropy_with_logits(discriminator(images), real)
        loss_fake = F.binary_cross_entropy_with_logits(discriminator(drawn.detach()), fake)
        d_loss = loss_real + loss_fake
        d_loss.backward()
        opt_d.step()

        opt_g.zero_grad()
        g_loss = F.binary_cross_entropy_with_logits(discriminator(drawn), real)
        g_loss.backward()
        opt_g.step()
        yield d_loss.item()


if __name__ == "__main__":
    for step, d_loss in zip(range(300), train(), strict=False):
        if step % 50 == 49:
            print(f"step {step + 1}: the discriminator's loss {d_loss:.3f}")
