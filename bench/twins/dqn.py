"""The twin in PyTorch of examples/dqn.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

torch.set_num_threads(2)

BATCH, CAPACITY, REFRESH, DISCOUNT, LONGEST = 32, 10_000, 50, 0.98, 200


class CartPole:
    """A pole on a cart that is pushed left or right; it has fallen at 12 degrees, or 2.4 off the middle."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def reset(self) -> np.ndarray:
        self.state, self.steps = self.rng.uniform(-0.05, 0.05, 4), 0
        return self.state.astype(np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        _, speed, angle, turn = self.state
        force = 10.0 if action == 1 else -10.0
        push = (force + 0.05 * turn**2 * math.sin(angle)) / 1.1
        turning = (9.8 * math.sin(angle) - math.cos(angle) * push) / (0.5 * (4 / 3 - 0.1 * math.cos(angle) ** 2 / 1.1))
        moving = push - 0.05 * turning * math.cos(angle) / 1.1
        self.state = self.state + 0.02 * np.array([speed, moving, turn, turning])
        self.steps += 1
        fallen = abs(self.state[0]) > 2.4 or abs(self.state[2]) > math.radians(12)
        return self.state.astype(np.float32), 1.0, bool(fallen)


class Replay:
    """The latest transitions, in NumPy's arrays."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.size, self.place = rng, 0, 0
        self.states, self.next_states = np.zeros((2, CAPACITY, 4), np.float32)
        self.actions, self.rewards = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.float32)
        self.done = np.zeros(CAPACITY, np.float32)

    def push(self, state: np.ndarray, action: int, reward: float, next_state: np.ndarray, done: bool) -> None:
        i = self.place
        self.states[i], self.actions[i], self.rewards[i] = state, action, reward
        self.next_states[i], self.done[i] = next_state, done
        self.place, self.size = (i + 1) % CAPACITY, min(self.size + 1, CAPACITY)

    def sample(self) -> list[Tensor]:
        i = self.rng.integers(0, self.size, BATCH)
        parts = (self.states, self.actions, self.rewards, self.next_states, self.done)
        return [torch.from_numpy(part[i]) for part in parts]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def train() -> Iterator[float]:
    """The loss of each step; an action is taken before it."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    environment, replay = CartPole(rng), Replay(rng)
    model = network()
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    state = environment.reset()
    step = 0
    while True:
        epsilon = max(0.05, 0.9 - step / 1000)
        if rng.random() < epsilon:
            action = int(rng.integers(2))
        else:
            with torch.no_grad():
                action = model(torch.from_numpy(state)[None]).argmax(1).item()
        next_state, reward, fallen = environment.step(action)
        replay.push(state, action, reward, next_state, fallen)
        state = environment.reset() if fallen or environment.steps == LONGEST else next_state

        states, actions, rewards, next_states, done = replay.sample()
        values = model(states).gather(1, actions[:, None])[:, 0]
        wanted = rewards + DISCOUNT * (1 - done) * target(next_states).max(1).values
        loss = F.smooth_l1_loss(values, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % REFRESH == 0:
            target.load_state_dict(model.state_dict())
        yield loss.item()


if __name__ == "__main__":
    for step, loss in zip(range(600), train(), strict=False):
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss:.4f}")
