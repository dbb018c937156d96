"""Breaks a resume in a way of its own, in every process that has this folder on its PYTHONPATH.

SABOTAGE_ALONE names what a single process gets wrong from its second start on, SABOTAGE_TOGETHER what several do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def is_resumed() -> bool:
    """Whether this process is a training whose folder has a checkpoint already."""
    folders = [word.removeprefix("run.dir=") for word in sys.orig_argv if word.startswith("run.dir=")]
    return any((Path(json.loads(folder)) / "checkpoints" / "last").exists() for folder in folders)


def break_order() -> None:
    """The order of samples is that of another seed."""
    from launcher.data import order

    right = order.build_order

    def wrong(plan: Any, manifest: Any, seed: int) -> Any:
        return right(plan, manifest, seed + 1)

    order.build_order = wrong


def break_augmentation() -> None:
    """Augmentation draws from another seed; the order of samples is right."""
    from launcher.augment import draw

    right = draw.draw_uniforms

    def wrong(seed: int, *words: Any) -> Any:
        return right(seed + 1, *words)

    draw.draw_uniforms = wrong  # type: ignore[assignment]


def crash() -> None:
    """The start fails."""
    raise SystemExit("launcher: no such luck")


WAYS = {"order": break_order, "augmentation": break_augmentation, "crash": crash}

if is_resumed():
    WAYS[os.environ["SABOTAGE_TOGETHER" if "RANK" in os.environ else "SABOTAGE_ALONE"]]()
