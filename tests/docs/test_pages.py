"""Every command that a page shows for a user to try, typed in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, blocks, name_of, run_page, type_command
from tests.harness.faces import draw_faces
from tests.harness.runs import ROOT

GUIDE = DOCS / "guide.md"
MADE = (
    "augmented.png",
    "runs/first/checkpoints/best",
    "runs/two/summary.json",
    "report.html",
    "curves.png",
    "runs/mine-search/best.yaml",
    "runs/mine-search/pictures/best-so-far.png",
    "runs/first/evaluations/test-best/confusion.png",
    "runs/first/evaluations/test-best-rotate180/figures.json",
    "predictions.csv",
    "predictions.png",
    "runs/first/explanations",
    "network.onnx",
    "data/small/manifest.json",
    "schema.json",
)
"""What the guide promises."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: pictures of their own, and the shipped recipes."""
    draw_faces(tmp_path / "pictures", 60)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def test_every_command_of_the_guide_does_what_it_promises(folder: Path) -> None:
    recipe, search = blocks(GUIDE, "yaml")
    (folder / "mine.yaml").write_text(recipe)
    (folder / "search.yaml").write_text(search.replace("trials: 20", "trials: 2"))
    assert len(blocks(GUIDE, "sh")) > 15
    run_page(GUIDE, folder)
    assert [name for name in MADE if not (folder / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != GUIDE and blocks(page, "sh")], ids=name_of)
def test_every_command_of_a_page_ends_well(folder: Path, page: Path) -> None:
    run_page(page, folder)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    for line in ("launcher check missing.yaml", "python -m shards info missing"):
        ended = type_command(line, tmp_path)
        assert ended.code == 2
        assert "missing" in ended.err
