"""Breaks resuming in every process that has this folder on its PYTHONPATH.

SABOTAGE_ALONE names the fault of a single process that resumes, SABOTAGE_TOGETHER that of several ranks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def is_resumed() -> bool:
    """Whether this process is a training whose folder has a checkpoint."""
    folders = [word.removeprefix("run.dir=") for word in sys.orig_argv if word.startswith("run.dir=")]
    return any((Path(json.loads(folder)) / "checkpoints" / "last").exists() for folder in folders)


def break_order() -> None:
    """Order the samples by another seed."""
    from launcher.data import order

    right = order.build_order

    def wrong(plan: Any, manifest: Any, seed: int) -> Any:
        return right(plan, manifest, seed + 1)

    order.build_order = wrong


def break_augmentation() -> None:
    """Augment with another seed; the order of samples stays right."""
    from launcher.augment import draw

    right = draw.draw_uniforms

    def wrong(seed: int, *words: Any) -> Any:
        return right(seed + 1, *words)

    draw.draw_uniforms = wrong  # type: ignore[assignment]


def crash() -> None:
    """Fail to start."""
    raise SystemExit("launcher: no such luck")


FAULTS = {"order": break_order, "augmentation": break_augmentation, "crash": crash}

if is_resumed():
    FAULTS[os.environ["SABOTAGE_TOGETHER" if "RANK" in os.environ else "SABOTAGE_ALONE"]]()
