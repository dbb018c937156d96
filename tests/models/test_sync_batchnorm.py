from __future__ import annotations

import pytest
import torch
from torch import nn

from launcher.errors import UserError
from launcher.models.sync_batchnorm import sync_batchnorm
from launcher.models.zoo import build_model
from launcher.recipe.backbone import Backbone

NAMES = ["resnet18", "timm/resnet18", "timm/efficientnet_lite0"]
"""Without and with timm's BatchNormAct2d, which contains the activation."""


def build(name: str) -> nn.Module:
    """With statistics that are not those of a new network."""
    torch.manual_seed(0)
    model = build_model(Backbone.model_validate({"name": name, "weights": "none", "head": {}}), 5).model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_network_before(name: str) -> None:
    model, images_BCHW = build(name), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected_BK = model(images_BCHW)
        found_BK = sync_batchnorm(model, name)(images_BCHW)
    assert torch.equal(found_BK, expected_BK)


@pytest.mark.parametrize("name", NAMES)
def test_every_batchnorm_is_synchronised_and_keeps_its_tensors(name: str) -> None:
    model = build(name)
    tensors = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    frozen = model.get_parameter(next(key for key, _ in model.named_parameters()))
    frozen.requires_grad_(False)
    converted = sync_batchnorm(model, name)
    kinds = {type(each).__name__ for each in converted.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {"SyncBatchNormAct" if name == NAMES[2] else "SyncBatchNorm"}
    assert {key: tensor.data_ptr() for key, tensor in converted.state_dict().items()} == tensors
    assert [each for each in converted.parameters() if not each.requires_grad] == [frozen]


def test_torchs_own_conversion_drops_timms_activations() -> None:
    model, images_BCHW = build(NAMES[2]), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before_BK = model(images_BCHW)
        torch_BK = nn.SyncBatchNorm.convert_sync_batchnorm(model)(images_BCHW)  # type: ignore[no-untyped-call]
    assert not torch.allclose(torch_BK, before_BK, rtol=0.1)


class ScaledBatchNorm(nn.BatchNorm2d):
    """Adds something that torch's conversion would drop."""


@pytest.mark.parametrize("name", ["mine", "timm/mine"])
def test_a_batchnorm_of_another_class_is_a_user_error(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ScaledBatchNorm(4))
    with pytest.raises(UserError) as error:
        sync_batchnorm(model, name)
    assert str(error.value) == f"strategy.sync_batchnorm: {name} has a ScaledBatchNorm (1); set it to false"
