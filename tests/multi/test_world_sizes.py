"""The same recipe on 1, 2 and 4 processes is the same training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.runs import DIGITS, train, train_records


def settings(digits: Path) -> list[str]:
    return [f"data.dir={digits}", "log.samples=true", "log.wandb.mode=disabled", "train.epochs=24st"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    cwd = tmp_path_factory.mktemp("alone")
    train(DIGITS, *settings(digits), "run.dir=run", cwd=cwd)
    return cwd / "run"


@pytest.mark.parametrize(
    ("processes", "launcher", "extra"),
    [(2, "torchrun", ""), (2, "accelerate", ""), (4, "torchrun", ""), (1, "torchrun", "train.micro_batch=8")],
)
def test_every_number_of_processes_sees_the_same_samples_and_losses(
    tmp_path: Path, digits: Path, alone: Path, processes: int, launcher: str, extra: str
) -> None:
    overrides = [*settings(digits), *([extra] if extra else [])]
    train(DIGITS, *overrides, "run.dir=run", cwd=tmp_path, processes=processes, launcher=launcher)
    expected, found = train_records(alone), train_records(tmp_path / "run")
    assert sorted(found) == sorted(expected) == list(range(1, 25))
    for step, record in expected.items():
        assert found[step]["samples"] == record["samples"]
        assert found[step]["loss"] == pytest.approx(record["loss"], rel=1e-4)


def test_two_processes_mix_the_same_images(tmp_path: Path, digits: Path) -> None:
    mixed = ["augment.mixup={alpha: 0.2}", "augment.cutmix={alpha: 1}", "augment.mix_p=0.8"]
    words = [*(word.replace("24st", "8st") for word in settings(digits)), *mixed]
    train(DIGITS, *words, "run.dir=alone", cwd=tmp_path)
    train(DIGITS, *words, "run.dir=run", "train.micro_batch=4", cwd=tmp_path, processes=2)
    expected, found = train_records(tmp_path / "alone"), train_records(tmp_path / "run")
    assert sorted(found) == sorted(expected) == list(range(1, 9))
    for step, record in expected.items():
        assert found[step]["samples"] == record["samples"]
        assert found[step]["loss"] == pytest.approx(record["loss"], rel=1e-4)
