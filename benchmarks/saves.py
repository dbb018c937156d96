"""Time that a training waits for a save of ResNet-50 with Adam, written in line and by a thread.

    python benchmarks/saves.py [FOLDER]        # a minute, and 1 GB there; default: the folder for temporary files

In line, training waits for everything: the files, their hashes, the disk. With the thread it waits for one copy to host
memory, and while the thread holds Python's lock: a loop that only reads the clock stands for the training, and `held_s`
is the time in which it did not run although it had a core. Both save in turn. Time in which this thread waited for a
core that other programs used is subtracted everywhere (Linux counts it). The last line is one JSON object with medians
in seconds; `first_copy_s`: the first copy, into new memory; `blocked_frac`: copy and held over in line.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torchvision

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.checkpoint.snapshot import HostMemory, take_snapshot, write_snapshot
from launcher.checkpoint.state import Progress, TrainState
from launcher.distributed.strategy import build_strategy, get_rng_state
from launcher.distributed.world import World
from launcher.models.zoo import Network
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Strategy as StrategySection

SAVES = 7


def build_state() -> TrainState:
    """ResNet-50 after one step of Adam."""
    strategy = build_strategy(StrategySection(device="cpu"), World(), 0, False)
    recipe = load_recipe(Path(__file__).parent.parent / "recipes/resnet50_caltech.yaml").recipe
    network = Network(strategy.to_device(torchvision.models.resnet50()), "fc")
    optimizer = torch.optim.Adam(network.model.parameters())
    for parameter in network.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    spec = NetworkSpec(recipe, (), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return TrainState(network, None, optimizer, strategy, 0, "bench", "none", spec)


class Clock:
    """Seconds of this thread since the clock was made: wall time without waits for a core, and time on a core."""

    def __init__(self) -> None:
        self._start_s, self._scheduled_s = time.perf_counter(), _read_scheduled_s()

    def read(self) -> tuple[float, float]:
        ran_s, waited_s = (now - then for now, then in zip(_read_scheduled_s(), self._scheduled_s, strict=True))
        return time.perf_counter() - self._start_s - waited_s, ran_s


def _read_scheduled_s() -> tuple[float, float]:
    ran_ns, waited_ns, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return int(ran_ns) / 1e9, int(waited_ns) / 1e9


def measure(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)  # or other threads do part of the work
    state, memory = build_state(), HostMemory()
    in_line, copy, held = [], [], []
    with ThreadPoolExecutor(1) as thread:
        for step in range(1, SAVES + 1):
            rngs = [get_rng_state(state.strategy.device)]
            clock = Clock()
            write_snapshot(folder, take_snapshot(state, Progress(2 * step), rngs, memory), 1)
            in_line.append(clock.read()[0])

            clock = Clock()
            snapshot = take_snapshot(state, Progress(2 * step + 1), rngs, memory)
            copy.append(clock.read()[0])

            clock, writing = Clock(), thread.submit(write_snapshot, folder, snapshot, 1)
            while not writing.done():
                time.perf_counter()
            writing.result()
            all_s, ran_s = clock.read()
            held.append(all_s - ran_s)
            print(f"in line {in_line[-1]:.3f} s; copy {copy[-1]:.3f} s, held {held[-1]:.3f} s")
    size = sum(path.stat().st_size for path in (folder / "last").iterdir())
    blocked_s = statistics.median(a + b for a, b in zip(copy[1:], held[1:], strict=True))
    return {
        "checkpoint_mb": round(size / 1e6, 1),
        "in_line_s": round(statistics.median(in_line), 3),
        "copy_s": round(statistics.median(copy[1:]), 4),
        "first_copy_s": round(copy[0], 4),
        "held_s": round(statistics.median(held), 4),
        "copy_frac": round(statistics.median(copy[1:]) / statistics.median(in_line), 4),
        "blocked_frac": round(blocked_s / statistics.median(in_line), 4),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        print(json.dumps(measure(Path(folder))))


if __name__ == "__main__":
    main()
