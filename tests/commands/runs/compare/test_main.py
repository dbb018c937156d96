"""`launcher compare` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from launcher.cli.main import run as command
from tests.commands.runs.run_folders import predict, records, rewrite, summary


def test_two_recipes_are_compared_over_seeds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, predicted in (("slow-0", [0, 1, 0, 0]), ("fast-0", [0, 1, 2, 0])):
        predict(runs / name, predicted, [0, 1, 2, 1])
    assert command(["compare", "runs/slow-*", "runs/fast-*", "--html", "r.html", "--curves", "c.png"]) == 0
    out = capsys.readouterr().out
    for words in (
        f"{summary(runs / 'fast-1')['test']['loss']:.4f}",
        "│ optim.lr   │ 0.002   │ 0.02    │",
        "n 2",
        "B - A, seeds 0 and 0",
        "note: B - A, seeds 1 and 1: no predictions of both on the same images",
        "train loss: ",
        "curves: c.png",
        "report: r.html",
    ):
        assert words in out
    assert "</html>" in Path("r.html").read_text()
    with Image.open("c.png") as image:
        assert image.size[0] == 1100


def test_seeds_of_one_recipe_have_no_test(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["compare", "runs/slow-*"]) == 0
    out = capsys.readouterr().out
    assert "note: only the seed differs: recipe, data, devices and versions are the same" in out
    assert "Welch" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/slow-0"], "runs/slow-0 is a single run"),
        ([], "no run is named"),
        (["runs/slow-0", "nowhere"], "nowhere: no such run"),
        (["runs/x*"], "runs/x*: matches no run"),
        (["me/pets/3f9a1c2b", "runs/slow-0"], "no such folder, and no credentials for W&B"),
        (["runs/slow-0", "runs/damaged"], "journal.jsonl: damaged: line 3 is not a record"),
        (["runs/slow-0", "runs/torn"], "recipe.lock.yaml: cannot be read"),
        (["runs/slow-0", "runs/fast-0", "--html", "nowhere/r.html"], "nowhere/r.html: cannot be written"),
        (["runs/slow-0", "runs/fast-0", "--curves", "nowhere/c.png"], "nowhere/c.png: cannot be written"),
        (
            ["runs/slow-0", "runs/fast-0", "--html", "runs/fast-0/r.html"],
            "runs/fast-0/r.html: is in the folder of a run",
        ),
        (["runs/slow-0", "runs/fast-0", "--html", "c.png", "--curves", "c.png"], "c.png: does not end in .html"),
        (["runs/slow-0", "runs/fast-0", "--curves", "c.jpg"], "c.jpg: does not end in .png"),
    ],
)
def test_mistakes_are_one_line(
    runs: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, torn = (runs / "slow-1").rename(runs / "damaged"), (runs / "fast-1").rename(runs / "torn")
    lines = (damaged / "journal.jsonl").read_text().splitlines()
    (damaged / "journal.jsonl").write_text("\n".join([*lines[:2], "{" + lines[2], *lines[3:], ""]))
    (torn / "recipe.lock.yaml").write_text("run: [")
    assert command(["compare", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert len(error.splitlines()) == 1


def test_a_run_of_many_classes_is_shortened_on_the_console(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = {f"class_{i}": {"recall": 0.5, "support": 1} for i in range(50)}
    for name in ("slow-0", "fast-0"):
        (runs / name / "summary.json").unlink()
        rewrite(runs / name, [{**r, "per_class": classes} if r["kind"] == "eval" else r for r in records(runs / name)])
    assert command(["compare", "runs/slow-0", "runs/fast-0", "--html", "r.html"]) == 0
    out = capsys.readouterr().out
    assert "30 more rows: --html REPORT.html has all" in out
    assert "class_49" not in out
    assert "class_49" in Path("r.html").read_text()


def test_a_recipe_of_another_version_is_compared_as_written(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = runs / "slow-0/recipe.lock.yaml"
    lock.write_text(yaml.safe_dump({**yaml.safe_load(lock.read_text()), "bygone": {"key": 3}}))
    assert command(["compare", "runs/slow-0", "runs/fast-0"]) == 0
    assert "bygone.key" in capsys.readouterr().out
