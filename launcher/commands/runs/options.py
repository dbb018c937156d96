"""The options of the commands that take run folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareOptions:
    curves: Path | None = None
    """Write a chart of losses, accuracy and learning rates to this PNG file."""
    html: Path | None = None
    """Write a report to this HTML file, which needs no other file."""
    wandb_report: bool = False
    """Publish a report in W&B, too, when all runs are in one project there."""
