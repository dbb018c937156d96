"""Text of others (class names, paths, messages) is shown as text: no escape sequence, no markup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.cli.main import run as command
from launcher.errors import DataError, RecipeError, RunError
from launcher.run.console import Console
from launcher.run.folder import SUMMARY_NAME, read_summary
from launcher.train.summary import summary_rows
from shards.manifest import ShardsError
from shards.printable import printable
from tests.harness.runs import DIGITS

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m[red]cat[/red] :smile:\r\u202egpj\x00\ud800"
SHOWN = r"\x1b[2J\x1b]0;title\x07\x9b31m[red]cat[/red] :smile:\r\u202egpj\x00\ud800"


def test_control_characters_are_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Käse 猫 🐈 \t\n") == r"Käse 猫 🐈 \t\n"


def test_console_shows_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say(HOSTILE)
    console.table(HOSTILE, [(HOSTILE, HOSTILE)])
    console.columns(["a"], [[HOSTILE]])
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 5
    assert not set(out) & set("\x1b\x9b\x07\r\x00\u202e")


def test_hostile_summary_shows_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"accuracy": 0.5, "top5_accuracy": 1.0, "loss": 1.0, "num_images": 2}
    classes = {name: {"recall": 0.5, "support": 1} for name in (HOSTILE, "dog")}
    summary = {"status": HOSTILE, "epochs_done": 1, "steps_done": 1, "global_batch": 1, "best": None, "wall_s": 1.0,
               "train": {"images_per_s": 1.0}, "world_size": 1, "device": HOSTILE, "precision": "no",
               "wandb": {"mode": "offline", "id": HOSTILE}, "test": {**metrics, "per_class": classes}}  # fmt: skip
    (tmp_path / SUMMARY_NAME).write_text(json.dumps(summary))
    Console().table("run", summary_rows(read_summary(tmp_path), HOSTILE))
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 5
    assert "\x1b" not in out


@pytest.mark.parametrize("error", [RunError, DataError, ShardsError, lambda text: RecipeError([text]), RuntimeError])
def test_error_shows_text(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error(f"{HOSTILE}: cannot be read")

    monkeypatch.setattr("launcher.commands.recipe.check.check", fail)
    assert command(["check", str(DIGITS)]) in (1, 2)
    err = capsys.readouterr().err
    assert "[red]cat[/red] :smile:" in err
    assert not set(err) & set("\x1b\x9b\x07\x00\u202e")


def test_command_line_shows_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert command([HOSTILE.replace("\x00", "").replace("\ud800", "")]) == 2
    assert command(["--\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err
