"""The metadata of an exported network: its classes, the preprocessing of its images, its inputs and outputs."""

from __future__ import annotations

from typing import Any

from launcher.augment.sizes import exact_size
from launcher.checkpoint.network_spec import NetworkSpec
from launcher.errors import UserError
from launcher.models.loss import count_outputs
from launcher.models.timm import PREFIX
from launcher.models.zoo import OWN
from launcher.recipe.augment import Resize
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


def describe_architecture(spec: NetworkSpec) -> Metadata:
    """`config.json` of a folder of Hugging Face's hub; timm reads that of its own networks."""
    name = spec.recipe.backbone.name
    is_timm = name.startswith(PREFIX)
    height, width = eval_size(spec.recipe)
    head, num_outputs = spec.recipe.backbone.head, count_outputs(spec.recipe.loss, len(spec.classes))
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
    resizes = [op for op in spec.recipe.augment.eval_ops if isinstance(op, Resize)]
    if not resizes:
        return {"crop_pct": 1.0}
    resize = resizes[-1]
    return {
        "interpolation": resize.interpolation,
        "crop_mode": "center" if isinstance(resize.size, int) else "squash",
        "crop_pct": eval_size(spec.recipe)[0] / exact_size(resize.size)[0],
    }


def describe_processor(spec: NetworkSpec) -> Metadata:
    """`preprocessor_config.json`. Raise UserError when it cannot express the recipe's operations."""
    kinds = [op.op for op in spec.recipe.augment.eval_ops]
    if kinds not in (["resize"], ["center_crop"], ["resize", "center_crop"]):
        raise UserError(
            f"--format hf: its preprocessor can resize and then crop, not {', '.join(kinds)}; choose another format"
        )
    metadata: Metadata = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": "resize" in kinds,
        "do_center_crop": "center_crop" in kinds,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    for op in spec.recipe.augment.eval_ops:
        height, width = exact_size(op.size)
        sides = {"height": height, "width": width}
        if isinstance(op, Resize):
            metadata["size"] = {"shortest_edge": op.size} if isinstance(op.size, int) else sides
            metadata["resample"] = _RESAMPLE[op.interpolation]
        else:
            metadata["crop_size"] = sides
    return metadata
