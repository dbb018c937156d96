from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from launcher.cli.main import COMMANDS, app, run
from launcher.recipe.schema import Recipe
from tests.harness.runs import DIGITS


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["backbone", "data", "augment", "optim", "train"]


def test_help_names_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for word in (
        "check",
        "fetch",
        "show",
        "bench",
        "evaluate",
        "predict",
        "verify-resume",
        "schema",
        "--debug",
        "--fresh",
        "--allow-change",
    ):
        assert word in out


@pytest.mark.parametrize(
    "command", [app, *(app[each.__name__.replace("_", "-")] for each in COMMANDS)], ids=lambda app: app.name[0]
)
def test_every_argument_has_help(command: App) -> None:
    """Fields of an options class that lack a docstring would have none."""
    shown = [each for each in command.assemble_argument_collection(parse_docstring=True) if each.show]
    assert [each.name for each in shown if not each.parameter.help] == []


@pytest.mark.parametrize(
    "words", ["explain RUN IMAGE --empty-class", "predict RUN IMAGE --no-flips", "cache rm --no-all"]
)
def test_options_have_no_negative(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words.split()) == 2
    assert capsys.readouterr().err.startswith(f"launcher: Unknown option: {words.split()[-1]}")


def test_missing_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    missing = DIGITS.with_name("lenet_digit.yaml")
    assert run([str(missing)]) == 2
    assert capsys.readouterr().err == f"launcher: {missing}: no such recipe; did you mean '{DIGITS}'?\n"


@pytest.mark.parametrize("arguments", [[], ["--debgu", str(DIGITS)], ["check"], [str(DIGITS), "--fresh=maybe"]])
def test_wrong_arguments_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("launcher: ")
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate RUN train.epochs=3", "train.epochs=3: this command takes no recipe keys; leave them out, see"),
        ("export RUN --format hf a.b=1 c=2", "a.b=1 c=2: this command takes no recipe keys; leave them out, see"),
        ("watch RUN OTHER", "OTHER: too many arguments; leave them out, see"),
    ],
)
def test_superfluous_arguments_are_named(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments.split()) == 2
    assert capsys.readouterr().err == f"launcher: {message} launcher --help\n"


def test_control_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.cli.main.list_features", interrupt)
    assert run(["cache", "ls"]) == 130
    assert capsys.readouterr().err == "launcher: interrupted\n"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["cache", "ls"]) == 130
    assert capsys.readouterr().err == ""


def test_every_problem_of_a_recipe_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(DIGITS), "train.epohcs=3", "optim.lr=-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("launcher: command line: ") for line in lines)


def test_check_prints_the_plan(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(DIGITS), f"data.dir={digits}", "--processes", "4"]) == 0
    out = capsys.readouterr().out
    for name, value in (("rank batch", "8"), ("steps per epoch", "33"), ("total steps", "990")):
        assert any(name in line and value in line for line in out.splitlines())


def test_check_names_what_cannot_run(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(DIGITS), f"data.dir={digits}", "--processes", "5"]) == 2
    err = capsys.readouterr().err
    assert "train.global_batch: 32 cannot be shared equally by 5 ranks; try 30" in err
    assert err.startswith(f"launcher: {DIGITS}:")


def test_unknown_backbone_names_the_nearest(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(DIGITS), "backbone.name=resnet55"]) == 2
    assert "command line: backbone.name: no such model 'resnet55'; did you mean 'resnet50'?" in capsys.readouterr().err


def test_light_commands_do_not_load_torch() -> None:
    code = "import sys, launcher.cli.main; launcher.cli.main.run(['schema']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_recipe_has_these_sections() -> None:
    assert set(Recipe.model_fields) == {
        "run", "backbone", "data", "augment", "loss", "optim", "schedule", "strategy", "train", "checkpoint", "log"
    }  # fmt: skip


def test_exit_code_is_written_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCHER_EXIT_CODE", str(tmp_path / "code"))
    assert run([str(DIGITS), "optim.lr=-1"]) == 2
    assert (tmp_path / "code").read_text() == "2\n"
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        (tmp_path / "code").unlink(missing_ok=True)
        assert run(["schema"]) == 0
        assert (tmp_path / "code").exists() == (rank == "0")
    assert (tmp_path / "code").read_text() == "0\n"


def test_closed_streams_end_nothing(tmp_path: Path) -> None:
    command = f"{sys.executable} -m launcher runs {tmp_path}"
    for closed in (">&-", "<&- >&- 2>&-"):
        ended = subprocess.run(["bash", "-c", f"{command} {closed}"], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
