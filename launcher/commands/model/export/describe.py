"""The metadata of an exported network: its classes, the preprocessing of its images, its inputs and outputs."""

from __future__ import annotations

from typing import Any

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.errors import UserError
from launcher.models.timm import PREFIX
from launcher.models.zoo import OWN
from launcher.recipe.facts import eval_size

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"

Metadata = dict[str, Any]

_RESAMPLE = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers for preprocessor_config.json."""


def describe(spec: NetworkSpec, checkpoint: str) -> Metadata:
    """JSON: classes, sizes in pixels, operations in order; mean and std on the scale [0, 1]."""
    height, width = eval_size(spec.recipe)
    ops = [op.model_dump(mode="json") for op in spec.recipe.augment.eval_ops]
    return {
        "classes": list(spec.classes),
        "preprocessing": {
            "decode": "RGB, EXIF orientation applied",
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


def describe_architecture(spec: NetworkSpec, num_outputs: int) -> Metadata:
    """`config.json` of a folder of Hugging Face's hub; timm reads that of its own networks."""
    name = spec.recipe.backbone.name
    is_timm = name.startswith(PREFIX)
    height, width = eval_size(spec.recipe)
    head = spec.recipe.backbone.head
    metadata: Metadata = {
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


def _describe_timm_ops(spec: NetworkSpec) -> Metadata:
    """`crop_mode`, `crop_pct` and `interpolation` as timm names them, as far as it can express the operations."""
    ops = {op["op"]: op for op in (each.model_dump(mode="json") for each in spec.recipe.augment.eval_ops)}
    if "resize" not in ops:
        return {"crop_pct": 1.0}
    size, height = ops["resize"]["size"], eval_size(spec.recipe)[0]
    return {
        "interpolation": ops["resize"]["interpolation"],
        "crop_mode": "center" if isinstance(size, int) else "squash",
        "crop_pct": height / (size if isinstance(size, int) else size[0]),
    }


def describe_processor(spec: NetworkSpec) -> Metadata:
    """`preprocessor_config.json`. Raise UserError when it cannot express the recipe's operations."""
    ops = [op.model_dump(mode="json") for op in spec.recipe.augment.eval_ops]
    kinds = [op["op"] for op in ops]
    if kinds not in (["resize"], ["center_crop"], ["resize", "center_crop"]):
        raise UserError(
            f"--format hf: its preprocessor can resize and then crop, not {', '.join(kinds)}; choose another format"
        )
    by_kind = {op["op"]: op for op in ops}
    metadata: Metadata = {
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
