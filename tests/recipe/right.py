"""A right recipe that tests change a little, and its errors."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings

from launcher.errors import RecipeError
from launcher.recipe.parse import LoadedRecipe, load_recipe

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
"""Settings of tests with many examples, for a busy machine too."""

RIGHT = """\
run: {seed: 3}
backbone:
  name: resnet18
  weights: DEFAULT
  freeze: none
data:
  source: digits
  split: {train: 0.8, valid: rest}
augment:
  train:
    - {op: resize, size: [32, 32]}
    - {op: rotation, degrees: 10}
  eval:
    - {op: resize, size: [32, 32]}
  mean: [0.5, 0.5, 0.5]
loss: {name: cross_entropy, label_smoothing: 0.1}
optim:
  name: sgd
  lr: 0.1
  momentum: 0.9
schedule: {name: cosine, warmup: 1ep}
train:
  epochs: 3
  global_batch: 32
  micro_batch: 8
strategy:
  precision: bf16
log:
  wandb: {mode: offline, tags: [a, b]}
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """The right recipe in a file, with the first `old` of each change replaced by `new`."""
    text = RIGHT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    return load_recipe(write(folder, *changes), overrides)


def errors_of(path: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """The lines of the RecipeError, without the folder of the file; none if the recipe is right."""
    try:
        load_recipe(path, overrides)
    except RecipeError as error:
        return [line.replace(f"{path.parent}/", "") for line in error.lines]
    return []
