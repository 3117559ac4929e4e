"""A model of a user's own, and a plain loop."""

import torch
from torch import nn


class UserModel(nn.Module):
    """Convolutions, an embedding tied to the head, functional activations, and a parameter that is never used."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.mix = nn.Linear(16, 24)
        self.fc = nn.Linear(24, 16)
        self.embedding = nn.Embedding(10, 16)
        self.head = nn.Linear(16, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x)).mean((2, 3))
        x = torch.relu(self.mix(x))
        x = torch.relu(self.fc(x)) + self.embedding.weight[0]
        return self.head(x)


def train_steps(model, optimizer, batch, steps=20, penalty=lambda: 0.0):
    """Run a plain loop and return the losses."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1]) + penalty()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
