from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from launcher.models.lenet import LeNet


def test_layers_are_those_of_the_tutorial() -> None:
    """61,706 weights for one gray channel are LeNet-5's; three color channels add 2 * 6 * 25, and 10 classes."""
    assert sum(parameter.numel() for parameter in LeNet(10).parameters()) == 61_706 + 2 * 6 * 25


def test_outputs_are_those_of_its_layers_written_out() -> None:
    torch.manual_seed(0)
    net, images_BCHW = LeNet(4), torch.rand(2, 3, 32, 32)
    x = F.max_pool2d(F.relu(F.conv2d(images_BCHW, net.conv1.weight, net.conv1.bias)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, net.conv2.weight, net.conv2.bias)), 2)
    x = F.relu(F.linear(x.reshape(2, 400), net.fc1.weight, net.fc1.bias))
    x = F.relu(F.linear(x, net.fc2.weight, net.fc2.bias))
    torch.testing.assert_close(net(images_BCHW), F.linear(x, net.fc3.weight, net.fc3.bias))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_changes_nothing(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    net, images_BCHW = LeNet(4), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(images_BCHW.contiguous(memory_format=memory_format)), net(images_BCHW))
