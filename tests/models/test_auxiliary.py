"""GoogLeNet and Inception v3 against torchvision's own forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from launcher.models.frozen.freeze import freeze, set_training
from launcher.models.loss import build_loss, with_auxiliary
from launcher.models.zoo import Network, build_model
from launcher.recipe.backbone import Backbone
from launcher.recipe.schema import Bce, CrossEntropy

CASES = [("googlenet", 64, 0.3), ("inception_v3", 299, 0.4)]
NUM_AUXILIARY = {"googlenet": 2, "inception_v3": 1}
LABELS_B = torch.tensor([0, 1])


def build(name: str, num_outputs: int, **options: str) -> Network:
    """Without torchvision's initial values: 30 s of truncated normal numbers on one core."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: torch.nn.init.kaiming_normal_(tensor))
        return build_model(Backbone.model_validate({"name": name, **options}), num_outputs)


@pytest.mark.parametrize(
    ("name", "side", "weight", "num_outputs"),
    [("googlenet", 64, 0.3, 1), ("googlenet", 64, 0.3, 5), ("inception_v3", 299, 0.4, 1)],
)
def test_training_adds_the_auxiliary_losses_and_reaches_every_weight(
    name: str, side: int, weight: float, num_outputs: int
) -> None:
    network = build(name, num_outputs)
    network.model.train()
    outputs = network.model(torch.rand(2, 3, side, side))
    section = Bce(name="bce") if num_outputs == 1 else CrossEntropy(name="cross_entropy")
    losses_B = with_auxiliary(build_loss(section, training=True), network.auxiliary_weight)(outputs, LABELS_B)

    def reference(outputs_BO: Tensor) -> Tensor:
        if num_outputs == 1:
            return F.binary_cross_entropy_with_logits(outputs_BO[:, 0], LABELS_B.float())
        return F.cross_entropy(outputs_BO, LABELS_B)

    others = [outputs.aux_logits] if name == "inception_v3" else [outputs.aux_logits1, outputs.aux_logits2]
    assert [tuple(each.shape) for each in (outputs.logits, *others)] == [(2, num_outputs)] * (1 + NUM_AUXILIARY[name])
    expected = reference(outputs.logits) + weight * sum((reference(each) for each in others), torch.zeros(()))
    torch.testing.assert_close(losses_B.mean(), expected)
    losses_B.mean().backward()  # type: ignore[no-untyped-call]
    # DDP would wait for ever for a weight without a gradient, or need find_unused_parameters.
    assert [name for name, parameter in network.model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("name", "side", "_weight"), CASES)
def test_evaluation_is_torchvisions_network_without_auxiliary_classifiers(name: str, side: int, _weight: float) -> None:
    network = build(name, 5)
    plain = torchvision.models.get_model(name, num_classes=5, aux_logits=False, init_weights=False)
    without = {key: value for key, value in network.model.state_dict().items() if "aux" not in key.lower()}
    plain.load_state_dict(without)
    images_BCHW = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(network.model.eval()(images_BCHW), plain.eval()(images_BCHW))


@pytest.mark.parametrize(("name", "side", "_weight"), CASES)
def test_a_frozen_backbone_has_no_auxiliary_classifiers(name: str, side: int, _weight: float) -> None:
    network = build(name, 5, freeze="backbone")
    freeze(network, "backbone")
    set_training(network.model)
    assert network.auxiliary_weight == 0
    assert not [key for key in network.model.state_dict() if "aux" in key.lower()]
    network.model(torch.rand(2, 3, side, side)).sum().backward()
    assert {key for key, parameter in network.model.named_parameters() if parameter.grad is not None} == {
        "fc.weight",
        "fc.bias",
    }
