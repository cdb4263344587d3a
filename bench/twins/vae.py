"""The twin in PyTorch of examples/vae.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)

HIDDEN, CODE, BATCH = 64, 4, 64


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU())
        self.mean = nn.Linear(HIDDEN, CODE)
        self.log_variance = nn.Linear(HIDDEN, CODE)
        self.decoder = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, log_variance = self.mean(h), self.log_variance(h)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape)
        return self.decoder(code), mean, log_variance


def train() -> Iterator[float]:
    """The loss of each step, for one image."""
    torch.manual_seed(0)
    digits = np.load(Path(__file__).parents[2] / "src/katachi/data/digits.npz")
    images = torch.tensor(digits["images"][:-360, None] / np.float32(16))
    loader = DataLoader(TensorDataset(images, torch.tensor(digits["labels"][:-360])), batch_size=BATCH, shuffle=True)
    model = VAE()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    average = None
    step = 0
    while True:
        for images, _ in loader:
            drawn, mean, log_variance = model(images)
            reconstruction = F.binary_cross_entropy_with_logits(drawn, images.flatten(1), reduction="sum")
            divergence = -0.5 * torch.sum(1 + log_variance - mean**2 - torch.exp(log_variance))
            loss = (reconstruction + divergence) / len(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average = loss.detach() if average is None else 0.98 * average + 0.02 * loss.detach()
            step += 1
            if step % 100 == 0:
                print(f"step {step}: average loss {average.item():.3f}")
            yield loss.item()


if __name__ == "__main__":
    for _ in zip(range(500), train(), strict=False):
        pass
