"""BatchNorm whose statistics are over the images of all ranks."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from launcher.errors import UserError
from launcher.models.timm import PREFIX, BatchNormConversion, timm_batchnorm_conversion

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: nn.SyncBatchNorm,
    nn.BatchNorm2d: nn.SyncBatchNorm,
    nn.BatchNorm3d: nn.SyncBatchNorm,
}
"""Classes of which torch's conversion makes SyncBatchNorm without loss. Of a subclass it would drop all that the
subclass adds: of timm's BatchNormAct2d the activation."""


def sync_batchnorm(model: nn.Module, backbone_name: str) -> nn.Module:
    """The model with SyncBatchNorm for each BatchNorm; its tensors stay the same objects under the same names.

    Raise UserError when it has a BatchNorm of a class that cannot be converted without loss.
    """
    convert, kinds = _choose_conversion(backbone_name)
    before = dict(model.named_modules())
    for name, module in before.items():
        if isinstance(module, _BatchNorm) and type(module) not in kinds:
            kind = type(module).__name__
            raise UserError(f"strategy.sync_batchnorm: {backbone_name} has a {kind} ({name}); set it to false")
    converted = convert(model)
    after = dict(converted.named_modules())
    assert after.keys() == before.keys(), "converting BatchNorm has changed the names of modules"
    for name, module in before.items():
        is_right = type(after[name]) is kinds[type(module)] if type(module) in kinds else after[name] is module
        assert is_right, f"{name} became a {type(after[name]).__name__}"
    return converted


def _choose_conversion(backbone_name: str) -> BatchNormConversion:
    if not backbone_name.startswith(PREFIX):
        return _convert_plain, PLAIN
    convert, fused = timm_batchnorm_conversion()
    return convert, PLAIN | fused


def _convert_plain(model: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call,no-any-return]
