"""What must be done to a picture before an exported network takes it, and what its outputs mean, as plain facts."""

from __future__ import annotations

from typing import Any

from launcher.augment.pipeline import output_size
from launcher.checkpoint.network_spec import NetworkSpec
from launcher.errors import UserError
from launcher.models.timm import PREFIX
from launcher.models.zoo import OWN

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

Facts = dict[str, Any]

_RESAMPLE = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers, which preprocessor_config.json has."""


def find_size(spec: NetworkSpec) -> tuple[int, int]:
    """Height and width of what the network takes."""
    size = output_size(spec.recipe.augment.eval_ops)
    assert size is not None, "a recipe whose images have different sizes is refused"
    return size


def describe(spec: NetworkSpec, checkpoint: str) -> Facts:
    """JSON: classes, sizes in pixels, operations in order; mean and std on the scale [0, 1]."""
    height, width = find_size(spec)
    ops = [op.model_dump(mode="json") for op in spec.recipe.augment.eval_ops]
    return {
        "classes": list(spec.classes),
        "preprocessing": {
            "decode": "RGB, turned as EXIF says",
            "ops": [op | {"antialias": True} if op["op"] == "resize" else op for op in ops],
            "size": [height, width],
            "rescale": 1 / 255,
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "input": {"name": INPUT_NAME, "shape": ["batch", 3, height, width], "dtype": "float32"},
        "output": {"name": OUTPUT_NAME, "shape": ["batch", len(spec.classes)], "dtype": "float32"},
        "backbone": spec.recipe.backbone.name,
        "checkpoint": checkpoint,
    }


def describe_architecture(spec: NetworkSpec, num_outputs: int) -> Facts:
    """`config.json` of a folder as Hugging Face's hub has them; of timm's networks one that timm reads."""
    name = spec.recipe.backbone.name
    is_timm = name.startswith(PREFIX)
    height, width = find_size(spec)
    head = spec.recipe.backbone.head
    metadata: Facts = {
        "architecture": name.removeprefix(PREFIX).partition(".")[0],
        "library": "timm" if is_timm else "launcher" if name in OWN else "torchvision",
        "head": head if isinstance(head, str) else head.model_dump(mode="json"),
        "input_size": [3, height, width],
        "num_outputs": num_outputs,
        "id2label": {str(number): label for number, label in enumerate(spec.classes)},
        "label2id": {label: number for number, label in enumerate(spec.classes)},
    }
    if num_outputs == 1:
        metadata["outputs"] = "one logit; its sigmoid is the probability of class 1"
    if is_timm:
        metadata |= {"num_classes": num_outputs, "label_names": list(spec.classes)}
        metadata["pretrained_cfg"] = {
            "input_size": [3, height, width],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": num_outputs,
            **_describe_timm_ops(spec),
        }
    return metadata


def _describe_timm_ops(spec: NetworkSpec) -> Facts:
    """`crop_mode`, `crop_pct` and `interpolation` in timm's words, as far as it has them."""
    ops = {op["op"]: op for op in (each.model_dump(mode="json") for each in spec.recipe.augment.eval_ops)}
    if "resize" not in ops:
        return {"crop_pct": 1.0}
    size, height = ops["resize"]["size"], find_size(spec)[0]
    return {
        "interpolation": ops["resize"]["interpolation"],
        "crop_mode": "center" if isinstance(size, int) else "squash",
        "crop_pct": height / (size if isinstance(size, int) else size[0]),
    }


def describe_processor(spec: NetworkSpec) -> Facts:
    """`preprocessor_config.json`. Raise UserError when it cannot say what the recipe does."""
    ops = [op.model_dump(mode="json") for op in spec.recipe.augment.eval_ops]
    kinds = [op["op"] for op in ops]
    if kinds not in (["resize"], ["center_crop"], ["resize", "center_crop"]):
        raise UserError(
            f"--format hf: its preprocessor can resize and then crop, not {', '.join(kinds)}; take another format"
        )
    by_kind = {op["op"]: op for op in ops}
    metadata: Facts = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": "resize" in by_kind,
        "do_center_crop": "center_crop" in by_kind,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    if resize := by_kind.get("resize"):
        size = resize["size"]
        metadata["size"] = {"shortest_edge": size} if isinstance(size, int) else _sides(size)
        metadata["resample"] = _RESAMPLE[resize["interpolation"]]
    if crop := by_kind.get("center_crop"):
        size = crop["size"]
        metadata["crop_size"] = _sides([size, size] if isinstance(size, int) else size)
    return metadata


def _sides(size: list[int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
