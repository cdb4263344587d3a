"""REINFORCE on a pole on a cart: the policy plays an episode, and then what was done before much reward becomes
likelier. Episodes last as long as the pole stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

import katachi as kt
from katachi import nn, optim

DISCOUNT, LONGEST = 0.98, 100


class CartPole:
    """A pole on a cart that is pushed left or right; it has fallen at 12 degrees, or 2.4 off the middle."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def reset(self) -> np.ndarray:
        self.state = self.rng.uniform(-0.05, 0.05, 4)
        return self.state.astype(np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        _, speed, angle, turn = self.state
        force = 10.0 if action == 1 else -10.0
        push = (force + 0.05 * turn**2 * math.sin(angle)) / 1.1
        turning = (9.8 * math.sin(angle) - math.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1))
        moving = push - 0.05 * turning * math.cos(angle) / 1.1
        self.state = self.state + 0.02 * np.array([speed, moving, turn, turning])
        fallen = abs(self.state[0]) > 2.4 or abs(self.state[2]) > math.radians(12)
        return self.state.astype(np.float32), 1.0, bool(fallen)


def discounted(rewards: list[float]) -> np.ndarray:
    """For each step the rewards from there on, standardised."""
    total, returns = 0.0, []
    for reward in reversed(rewards):
        total = reward + DISCOUNT * total
        returns.append(total)
    values = np.array(returns[::-1], np.float32)
    return (values - values.mean()) / (values.std() + 1e-6)


def train() -> Iterator[float]:
    """The sum of rewards of each episode; an update follows it."""
    kt.manual_seed(0)
    rng = np.random.default_rng(0)
    environment = CartPole(rng)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    while True:
        state, fallen = environment.reset(), False
        log_probs, rewards = [], []
        while not fallen and len(rewards) < LONGEST:
            log_p = policy(kt.tensor(state)).log_softmax(-1)
            action = int(rng.random() < log_p[1].exp().item())
            log_probs.append(log_p[action])
            state, reward, fallen = environment.step(action)
            rewards.append(reward)
        loss = -(kt.stack(log_probs) * kt.tensor(discounted(rewards))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield sum(rewards)


if __name__ == "__main__":
    total = 0.0
    for episode, reward in zip(range(200), train(), strict=False):
        total += reward
        if episode % 40 == 39:
            print(f"episode {episode + 1}: {total / 40:.1f} steps")
            total = 0.0
