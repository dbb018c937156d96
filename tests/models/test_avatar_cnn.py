from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from launcher.models.avatar_cnn import AvatarCnn


def test_outputs_are_those_of_its_layers_written_out() -> None:
    torch.manual_seed(0)
    net, images_BCHW = AvatarCnn(1), torch.rand(2, 3, 64, 64)
    x = F.max_pool2d(F.relu(F.conv2d(images_BCHW, net.conv1.weight, net.conv1.bias)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, net.conv2.weight, net.conv2.bias)), 3)
    x = F.relu(F.linear(x.reshape(2, 324), net.fc1.weight, net.fc1.bias))
    torch.testing.assert_close(net(images_BCHW), F.linear(x, net.fc2.weight, net.fc2.bias))


def test_layers_are_those_of_job_e() -> None:
    shapes = [tuple(tensor.shape) for name, tensor in AvatarCnn(1).named_parameters() if name.endswith("weight")]
    assert shapes == [(8, 3, 5, 5), (4, 8, 3, 3), (128, 324), (1, 128)]


@pytest.mark.parametrize("side", [32, 128])
def test_other_sizes_than_64_pixels_are_an_error(side: int) -> None:
    with pytest.raises(RuntimeError):
        AvatarCnn(1)(torch.rand(1, 3, side, side))
