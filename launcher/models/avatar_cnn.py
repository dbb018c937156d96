"""A small network for two classes of 64 x 64 color avatars (job E of the reference jobs)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AvatarCnn(nn.Module):
    """[B, 3, 64, 64] -> [B, num_outputs]."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 4, 3)
        self.pool2 = nn.MaxPool2d(3)
        self.fc1 = nn.Linear(4 * 9 * 9, 128)
        self.fc2 = nn.Linear(128, num_outputs)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.pool1(torch.relu(self.conv1(images_BCHW)))
        x = self.pool2(torch.relu(self.conv2(x)))
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        logits_BK: Tensor = self.fc2(x)
        return logits_BK
