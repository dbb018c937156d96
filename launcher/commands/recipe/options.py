"""The options of the commands that take a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.errors import UserError, check_at_least_1


@dataclass(frozen=True)
class CheckOptions:
    processes: int | None = None
    """Processes that will train, all on one node."""
    nodes: int = 1
    """Nodes that will train, instead of --processes."""
    gpus_per_node: int = 1
    """Processes on each node."""
    rank: int | None = None
    """Show every sample id of this rank's first batch."""

    @property
    def world_size(self) -> int:
        return self.processes if self.processes is not None else self.nodes * self.gpus_per_node

    def check(self) -> None:
        """Raise UserError when an option is out of range, or two contradict each other."""
        check_at_least_1(processes=self.processes, nodes=self.nodes, gpus_per_node=self.gpus_per_node)
        if self.processes is not None and self.nodes * self.gpus_per_node > 1:
            raise UserError("--processes: leave it out; --nodes and --gpus-per-node give the number of processes")
        if self.rank is not None and not 0 <= self.rank < self.world_size:
            raise UserError(f"--rank {self.rank}: must be 0 to {self.world_size - 1}")


@dataclass(frozen=True)
class ShowOptions:
    images: int = 6
    """Training images, one per row: the first of the first epoch."""
    views: int = 6
    """Augmented views of each image: those of the first epochs."""
    output: Path = Path("augmented.png")
    """The PNG file."""

    def check(self) -> None:
        """Raise UserError when an option is out of range."""
        check_at_least_1(images=self.images, views=self.views)
        if self.output.suffix.lower() != ".png":
            raise UserError(f"--output {self.output}: must end in .png")


@dataclass(frozen=True)
class BenchOptions:
    seconds: float = 20.0
    """Duration of all measurements together."""
    processes: int = 1
    """Processes that will train on this machine and share its cores and the batch; one of them is measured."""

    def check(self) -> None:
        """Raise UserError when an option is out of range."""
        check_at_least_1(processes=self.processes)
        if not self.seconds > 0:
            raise UserError(f"--seconds {self.seconds:g}: must be more than 0")
