"""`launcher show` on the digits: originals beside views as the network sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from launcher.augment.execute import build_augment
from launcher.augment.mix import build_mix
from launcher.cli.main import run
from launcher.commands.recipe.show import find_pairs
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.order import epoch_order
from launcher.data.reader import ShardReader
from launcher.recipe.parse import load_recipe
from launcher.run.image_grid import CAPTION_HEIGHT, GAP, to_pixels
from shards.manifest import read_manifest
from tests.data.made import order_of, plan_of
from tests.harness.runs import DIGITS
from tests.harness.small_run import alone

SIDE, FACTOR = 32, 3
MIXED = ("augment.mixup={alpha: 0.5}", "augment.cutmix={alpha: 1}")
Show = Callable[..., int]


@pytest.fixture
def show(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    """`launcher show` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: run(["show", str(DIGITS), f"data.dir={digits}", *words])


def cells(path: Path, rows: int, columns: int) -> list[list[NDArray[np.uint8]]]:
    """The cells of a sheet of digits, in the size of the network's input."""
    with Image.open(path) as sheet:
        sheet_HWC = np.asarray(sheet)
    side = SIDE * FACTOR
    assert sheet_HWC.shape == (rows * (side + CAPTION_HEIGHT + GAP) + GAP, columns * (side + GAP) + GAP, 3)

    def cell(i: int, j: int) -> NDArray[np.uint8]:
        y, x = i * (side + CAPTION_HEIGHT + GAP) + GAP + CAPTION_HEIGHT, j * (side + GAP) + GAP
        large = sheet_HWC[y : y + side, x : x + side]
        small = large[::FACTOR, ::FACTOR]
        np.testing.assert_array_equal(large, small.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1))
        return small

    return [[cell(i, j) for j in range(columns)] for i in range(rows)]


def whole_epoch(digits: Path, epoch: int, words: tuple[str, ...]) -> dict[int, NDArray[np.uint8]]:
    """Every image of an epoch as training sees it, by id."""
    recipe, manifest = load_recipe(DIGITS, words).recipe, read_manifest(digits)
    loader = Loader(ShardReader(digits, manifest, "train"), 0, torch.device("cpu"))
    augment = build_augment(recipe.augment.train, (0.5,) * 3, (0.5,) * 3)
    feed = ImageFeed(
        loader, augment, alone(), recipe.run.seed, recipe.augment.views, None, build_mix(recipe.augment, 10)
    )
    [examples] = feed.batches([(epoch, epoch_order(1078, recipe.run.seed, epoch))])
    pixels = to_pixels(examples.inputs[0], augment.mean, augment.std)
    return dict(zip(examples.ids_B.tolist(), pixels, strict=True))


@pytest.mark.parametrize("words", [(), MIXED, ("run.seed=3", "augment.views=2")], ids=["plain", "mixed", "views"])
def test_sheet_shows_originals_and_views(
    show: Show, digits: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(*words, "--images", "4", "--views", "3", "--output", "some.png") == 0
    assert capsys.readouterr().out == "some.png: 4 training images, 3 views of each\n"
    found = cells(Path("some.png"), 4, 4)
    ids = epoch_order(1078, load_recipe(DIGITS, words).recipe.run.seed, 0)[:4]
    reader = ShardReader(digits, read_manifest(digits), "train")
    epochs = [whole_epoch(digits, epoch, words) for epoch in range(3)]
    for row, i in zip(found, ids.tolist(), strict=True):
        sample = reader.read(i)
        original = decode_image(sample.content, sample.place)
        np.testing.assert_array_equal(row[0][::4, ::4], original)
        for column, views in zip(row[1:], epochs, strict=True):
            np.testing.assert_array_equal(column, views[i])
    assert any((row[1] != row[2]).any() for row in found)
    assert all((row[1] == row[3]).all() for row in found) == ("augment.views=2" in words)


def test_output_and_size_have_defaults(show: Show) -> None:
    assert show() == 0
    cells(Path("augmented.png"), 6, 7)
    assert [path.name for path in Path().iterdir()] == ["augmented.png"]


def test_show_packs_missing_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data={source: 'synthetic:2x30x32', dir: shards}", "augment.mean=dataset", "augment.std=dataset"]
    assert run(["show", str(DIGITS), *words, "--images", "2", "--views", "1"]) == 0
    cells(Path("augmented.png"), 2, 2)
    assert Path("shards/manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--images", "0"], "--images 0: must be at least 1"),
        (["--views", "-1"], "--views -1: must be at least 1"),
        (["--images", "1079"], "--images 1079: there are 1078 training images"),
        (
            ["--images", "1000", "--views", "19"],
            "--images 1000 --views 19: 184 million pixels, 134 are allowed; ask for fewer",
        ),
        (["--output", "some.jpg"], "--output some.jpg: must end in .png"),
        (
            ["--output", "no/some.png"],
            "--output no/some.png: cannot be written (No such file or directory); choose another file",
        ),
        (["optim.lr=-1"], "command line: optim.lr: must be more than 0, not -1"),
    ],
)
def test_mistake_is_one_line(words: list[str], line: str, show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(*words) == 2
    assert capsys.readouterr().err == f"launcher: {line}\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("num", [6, 7])
@pytest.mark.parametrize("lanes", [None, 2, 4])
def test_find_pairs_gives_the_pairs_of_training(num: int, lanes: int | None) -> None:
    """The last of 7 images is alone, or wrapped with the first."""
    data = {"source": "digits", "last_batch": "wrap", "lanes": lanes}
    plan = plan_of(num, data=data, train={"epochs": 2, "global_batch": 4})
    order = order_of(plan, [num - 3, 3], seed=3)
    first, last = 1 + plan.steps_per_epoch, 2 * plan.steps_per_epoch
    trained = [ids for step in range(first, last + 1) for ids in order.global_batch_ids(step).reshape(-1, 2).tolist()]
    ids_B, rows_N = find_pairs(order.visits(1), np.arange(num))
    assert ids_B[rows_N].tolist() == list(range(num))
    assert all(pair in trained for pair in ids_B.reshape(-1, 2).tolist())
