"""The walk through autograd's graph against autograd's engine."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.fake_cuda.backward import walk_backward
from tests.fake_cuda.harness import CUDA, fake_cuda, to_fake_cuda
from tests.fake_cuda.test_step import NETWORKS, build_vit


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_engine(network: str, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = NETWORKS[network]().model.eval()
    other = copy.deepcopy(model)
    images_BCHW, labels_B = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    backwards: tuple[Callable[[torch.Tensor], None], ...] = (walk_backward, torch.Tensor.backward)
    for each, backward in zip((model, other), backwards, strict=True):
        for _ in range(2):  # gradients add up
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                outputs_BO = each(images_BCHW)
            backward(F.cross_entropy(outputs_BO.float(), labels_B))
    for (name, found), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_gradients_of_fake_tensors_are_on_the_gpu() -> None:
    model = build_vit().model
    with fake_cuda():
        to_fake_cuda(model)
        model(torch.randn(2, 3, 32, 32, device=CUDA)).square().mean().backward()
        assert all(each.grad is not None and each.grad.device == CUDA for each in model.parameters())
