"""What pretrained weights are worth on a few hundred photographs: recipes/efficientnet_lite0_food.yaml, five ways.

    python benchmarks/transfer.py          # six minutes a seed on one core; SEEDS=0 ONLY=head,probe for less

Fetches images and weights (see pictures.py), then runs the program as a user would: a new head on the frozen network,
the last two blocks with it, every layer, logistic regression on the features, and every layer from random weights, for
as many epochs. The last line is one JSON object: test accuracy of each, mean over the seeds, and wall seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pictures import assemble_pictures, fetch_lite0

RECIPE = Path(__file__).parent.parent / "recipes/efficientnet_lite0_food.yaml"
SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "0,1").split(",")]
HOME = Path(os.environ.get("PICTURES", "data"))

EVERY_LAYER = ["backbone.freeze=none", "augment.views=null"]
WAYS: dict[str, list[str]] = {
    "head": [],
    "last_two_blocks": ["backbone.freeze={except_last: 2}", "augment.views=null", "optim.backbone_lr=2e-4"],
    "every_layer": [*EVERY_LAYER, "optim.backbone_lr=2e-4"],
    "from_scratch": [*EVERY_LAYER, "backbone.weights=none"],
    "probe": [],
}


def run(way: str, seed: int, cwd: Path) -> tuple[float, float]:
    """Test accuracy and wall seconds of the whole program, features included."""
    name = ["probe"] if way == "probe" else []
    before = set(cwd.glob("runs/*/*"))
    command = [sys.executable, "-m", "launcher", *name, str(RECIPE), f"run.seed={seed}", *WAYS[way]]
    start = time.perf_counter()
    subprocess.run([*command, "log.wandb.mode=disabled"], cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    [folder] = set(cwd.glob("runs/*/*")) - before
    return json.loads((folder / "summary.json").read_text())["test"]["accuracy"], seconds


def main() -> None:
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        (cwd / "data").mkdir()
        (cwd / "data/food").symlink_to(assemble_pictures(HOME / "food").absolute())
        (cwd / "data/lite0.safetensors").symlink_to(fetch_lite0(HOME / "lite0.safetensors").absolute())
        for way in os.environ.get("ONLY", ",".join(WAYS)).split(","):
            results = [run(way, seed, cwd) for seed in SEEDS]
            metrics[f"{way}_accuracy"] = round(statistics.mean(accuracy for accuracy, _ in results), 4)
            metrics[f"{way}_s"] = round(statistics.mean(seconds for _, seconds in results), 1)
            shown = "  ".join(f"{accuracy:.1%} in {seconds:.0f} s" for accuracy, seconds in results)
            print(f"{way}: test accuracy {shown}", flush=True)
    print(json.dumps({**metrics, "seeds": len(SEEDS)}))


if __name__ == "__main__":
    main()
