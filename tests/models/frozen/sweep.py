"""Split every network there is and compare its two parts with the whole: over an hour for all of them.

    python -m tests.models.frozen.sweep                    # torchvision's models, a small one of each module of timm
    python -m tests.models.frozen.sweep resnet18 timm/dla34

Prints a line for each way of freezing; exit code 1 where parts do not compute the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import timm
import torchvision

from launcher.models.frozen.split import SplitError
from launcher.models.zoo import build_shapes
from launcher.recipe.backbone import Backbone
from tests.models.frozen.splits import LAST, build_random, compare, side_of

TIMM_SIDES = {"mobilenetv5_300m": 256, "nasnetalarge": 96, "pnasnet5large": 96, "qwen3_vit_88m": 256}
"""Smaller than for their weights, which takes minutes each, for mobilenetv5_300m 19."""
MOST_PARAMETERS = 350_000_000
"""16 bytes each, in float64 for network and engine: larger networks are skipped."""
SMALL = ("test_", "atto", "femto", "pico", "nano", "xxs", "xs", "tiny", "mini", "small", "lite0", "18", "s12", "_s")
"""Words in the names of a family's small models, the smallest first."""


def all_names() -> list[str]:
    families = [timm.list_models(module=module) for module in timm.list_modules()]
    names = torchvision.models.list_models(module=torchvision.models)
    return [*names, *sorted(f"timm/{smallest(family)}" for family in families if family)]


def smallest(names: list[str]) -> str:
    def key(name: str) -> tuple[int, int, str]:
        return next((i for i, word in enumerate(SMALL) if word in name), len(SMALL)), len(name), name

    return min(names, key=key)


def find_side(name: str) -> int:
    if not name.startswith("timm/"):
        return side_of(name)
    name = name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(name)
    return TIMM_SIDES.get(name, 224 if config is None else config.input_size[-1])


def sweep(name: str, side: int) -> Iterator[str]:
    """A line for each way of freezing, with `WRONG` in it when the parts do not compute the whole."""
    num_parameters = sum(parameter.numel() for parameter in build_shapes(Backbone(name=name)).model.parameters())
    if num_parameters > MOST_PARAMETERS:
        yield f"{name}: skipped, {num_parameters:,} parameters"
        return
    network, images_BCHW = build_random(name, side)
    for parts in ("backbone", LAST):
        label = f"{name:32} {'backbone' if parts == 'backbone' else 'last':8}"
        try:
            found = compare(network, name, parts, images_BCHW)
        except SplitError as error:
            yield f"{label} not split: {error}"
        else:
            numbers = (
                f"fp64 {found.fp64:.0e} gradients {found.gradients:.0e} fp32 {found.fp32:.0e} "
                f"bf16 {found.bf16:.0e} ({found.whole_bf16:.0e})"
            )
            yield f"{label} {'same' if found.is_same else 'WRONG'} {numbers} {' '.join(found.boundary)}"


def main() -> int:
    lines = (line for name in sys.argv[1:] or all_names() for line in sweep(name, find_side(name)))
    num_wrong = 0
    for line in lines:
        print(line, flush=True)
        num_wrong += "WRONG" in line
    return min(num_wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
