"""Lists of a recipe that several tests augment with."""

from __future__ import annotations

from launcher.recipe.augment import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotation,
    TrainOp,
    VerticalFlip,
)

TRAIN: tuple[TrainOp, ...] = (
    RandomResizedCrop(op="random_resized_crop", size=256, scale=(0.8, 1.0), ratio=(0.75, 1.33)),
    Rotation(op="rotation", degrees=15.0),
    HorizontalFlip(op="horizontal_flip"),
    CenterCrop(op="center_crop", size=224),
)
EVAL: tuple[TrainOp, ...] = (Resize(op="resize", size=256), CenterCrop(op="center_crop", size=224))
EVERYTHING: tuple[TrainOp, ...] = (
    VerticalFlip(op="vertical_flip", p=0.3),
    Rotation(op="rotation", degrees=40.0),
    Resize(op="resize", size=40),
    RandomCrop(op="random_crop", size=(38, 44), padding=4),
    HorizontalFlip(op="horizontal_flip"),
    RandomResizedCrop(op="random_resized_crop", size=(30, 31)),
    RandomCrop(op="random_crop", size=28),
)
LENET: tuple[TrainOp, ...] = (
    Resize(op="resize", size=(32, 32)),
    Rotation(op="rotation", degrees=10.0),
    RandomCrop(op="random_crop", size=32, padding=2),
)
