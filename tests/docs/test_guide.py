"""docs/guide.md by a newcomer who types what is in it, in its order, in a folder with pictures and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.faces import draw_faces
from tests.harness.runs import ROOT, environment, free_port, run_warm

DOCS = ROOT / "docs"
GUIDE = (DOCS / "guide.md").read_text()
PAGES = (ROOT / "README.md", *DOCS.glob("*.md"))
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
    "said.csv",
    "said.png",
    "runs/first/explanations",
    "network.onnx",
    "data/small/manifest.json",
    "schema.json",
)
"""What the guide promises."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def type_command(line: str, folder: Path) -> None:
    """`launcher` by a fork that has imported everything, anything else by a shell."""
    words = shlex.split(line)
    if words[0] != "launcher":
        type_in_shell(line, folder)
        return
    arguments, to = (words[1:-2], words[-1]) if words[-2] == ">" else (words[1:], "")
    ended = run_warm([{}], arguments, folder)
    assert ended.code == 0, f"{line}\n{ended.out}{ended.err}"
    if to:
        (folder / to).write_text(ended.out)


def type_in_shell(line: str, folder: Path) -> None:
    """With this environment's programs, and a port that no other test has."""
    line = line.replace("accelerate launch", f"accelerate launch --main_process_port {free_port()}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = {**environment(), "PATH": path}
    del shell["ACCELERATE_USE_CPU"]
    ended = subprocess.run(line, shell=True, cwd=folder, env=shell, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"


def test_every_command_of_the_guide_does_what_it_promises(tmp_path: Path) -> None:
    draw_faces(tmp_path / "pictures", 60)
    recipe, search = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(recipe)
    (tmp_path / "search.yaml").write_text(search.replace("trials: 20", "trials: 2"))
    assert len(commands()) > 20
    for line in commands():
        type_command(line, tmp_path)
    assert [name for name in MADE if not (tmp_path / name).exists()] == []


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    for line in ("launcher check missing.yaml", "python -m shards info missing"):
        with pytest.raises(AssertionError, match=r"missing"):
            type_command(line, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_pictures_of_the_gallery_are_small() -> None:
    pictures = [DOCS / name for name in re.findall(r"!\[.*?\]\((.*?)\)", (DOCS / "gallery.md").read_text())]
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > 200_000 and path.name != "augmented.png"] == []
