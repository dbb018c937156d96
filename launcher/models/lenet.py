"""LeNet-5 for 32 x 32 color images, in the form of PyTorch's CIFAR-10 tutorial (after LeCun et al. 1998)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """[B, 3, 32, 32] -> [B, num_outputs]."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_outputs)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(images_BCHW)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        logits_BK: Tensor = self.fc3(x)
        return logits_BK
