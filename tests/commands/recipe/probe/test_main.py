"""`launcher probe` against plain scikit-learn, on features of the network without our splitting and caching.

N images, D features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from logging import NullHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from launcher.cli.main import run
from launcher.commands.recipe.probe import main
from launcher.commands.recipe.probe.regression import GRID, Fit, Layer, choose_best
from launcher.models import zoo
from launcher.models.lenet import LeNet
from launcher.models.zoo import build_model
from launcher.recipe.backbone import Backbone
from launcher.recipe.lock import write_lock
from launcher.recipe.parse import load_recipe
from launcher.run.folder import open_run, probe_folder
from launcher.run.rank_log import LOGGER
from tests.commands.recipe.probe.probes import (
    Probed,
    Untraceable,
    check_against_sklearn,
    enter_head,
    fit_pipeline,
    new_probe,
    read_split,
)
from tests.harness import runs
from tests.harness.runs import DIGITS

RESIZE = "[{op: resize, size: [32, 32]}]"
TWO = "data={source: digits, classes: ['3', '8'], split: {train: 60, test: 40}}"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    save_file(LeNet(10).state_dict(), file)
    return file


def arguments(digits: Path, weights: Path) -> list[str]:
    return [str(DIGITS), f"data.dir={digits}", f"backbone.weights={weights}", "log.wandb.mode=disabled"]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, digits: Path, weights: Path) -> Probed:
    """A probe, as its own process, after a training of the same frozen backbone."""
    cwd = tmp_path_factory.mktemp("probed")
    frozen = ["train.epochs=2", "backbone.freeze=backbone", "backbone.head={hidden: [7], dropout: 0.1}"]
    trained = runs.train(*arguments(digits, weights), *frozen, f"augment.train={RESIZE}", cwd=cwd)
    assert trained.out.count("computing") == 3
    ended = runs.run("probe", *arguments(digits, weights), cwd=cwd)
    assert ended.code == 0, ended.err
    return new_probe(cwd, digits, ended.out)


@pytest.fixture
def probe_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command in this process, leaving its signal handlers, log and warnings alone."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(LOGGER, "handlers", [NullHandler()])
    for name in ("log_warnings", "follow_launcher"):
        monkeypatch.setattr(main, name, lambda: None)
    monkeypatch.setattr(main, "install_signal_handlers", lambda: lambda: False)
    monkeypatch.setattr("launcher.train.job.open_rank_log", lambda folder, rank: None)
    yield lambda *each: run(["probe", *map(str, each)])
    torch.set_num_threads(num_threads)


def test_metrics_equal_scikit_learn_and_the_saved_network(probed: Probed) -> None:
    check_against_sklearn(probed, "lenet")
    assert probed.summary["num_features"] == 84
    assert probed.summary["largest_difference"] < 1e-4


def test_c_is_the_best_on_valid(probed: Probed, weights: Path) -> None:
    network = build_model(Backbone(name="lenet", weights=str(weights), head="keep"), 10)
    splits = {split: read_split(probed.shards, split) for split in ("train", "valid")}
    train_ND, valid_ND = (enter_head(network.model, network.head, images)[0] for images, _ in splits.values())
    scores = {
        C: fit_pipeline(C, train_ND, splits["train"][1].numpy()).score(valid_ND, splits["valid"][1].numpy())
        for C in GRID
    }
    tried = probed.summary["tried"]
    assert {each["C"]: each["valid_accuracy"] for each in tried} == pytest.approx(scores, abs=1.01 / 360)
    assert all(each["is_converged"] for each in tried)
    best = max(each["valid_accuracy"] for each in tried)
    assert probed.summary["C"] == min(each["C"] for each in tried if each["valid_accuracy"] == best)
    assert probed.summary["valid"]["accuracy"] == best


def test_choose_best_prefers_strong_regularisation_among_equals() -> None:
    layer = Layer(np.zeros((2, 1)), np.zeros(2))
    fits = [Fit(C, layer, accuracy, True, 0.0) for C, accuracy in ((0.1, 0.5), (1.0, 0.75), (10.0, 0.75), (100.0, 0.6))]
    assert choose_best(fits).C == 1.0


def test_probe_reads_the_features_of_a_frozen_training(probed: Probed) -> None:
    assert "computing" not in probed.out
    assert probed.summary["num_computed"] == {"train": 0, "valid": 0, "test": 0}


def test_run_folder_holds_journal_lock_and_summary(probed: Probed) -> None:
    summary, records = probed.summary, runs.journal(probed.folder)
    assert (summary["kind"], summary["status"]) == ("probe", "done")
    assert {len(summary[split]["per_class"]) for split in ("train", "valid", "test")} == {10}
    names = [record.get("name", record["kind"]) for record in records]
    assert names == ["started", *["features"] * 3, *["probe"] * len(GRID), *["eval"] * 3, "best", "done"]
    lock = load_recipe(probed.folder / "recipe.lock.yaml").recipe
    assert (lock.backbone.freeze, lock.augment.train) == ("backbone", lock.augment.eval)
    assert f"C                    │ {summary['C']:g}, best of 7 on valid" in probed.out
    assert f"accuracy {summary['test']['accuracy']:.2%}" in probed.out


def test_training_never_resumes_a_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DIGITS).recipe
    path = probe_folder(recipe)
    path.mkdir(parents=True)
    write_lock(path, recipe, "")
    found = open_run(recipe)
    assert (found.state, found.path.parent) == ("new", path.parent)
    found.release()


def test_two_processes_give_the_same_metrics(probed: Probed, weights: Path, tmp_path: Path) -> None:
    ended = runs.run("probe", *arguments(probed.shards, weights), cwd=tmp_path, processes=2)
    assert ended.code == 0, ended.err
    two = new_probe(tmp_path, probed.shards, ended.out)
    assert two.summary["world_size"] == 2
    assert two.summary["num_computed"] == {"train": 1078, "valid": 360, "test": 359}
    [metadata] = [json.loads(file.read_text()) for file in tmp_path.glob("data/features/*/features.json")][:1]
    assert metadata["layout"]["num_parts"] == 2
    assert two.summary["C"] == probed.summary["C"]
    for split in ("train", "valid", "test"):
        found, expected = two.summary[split], probed.summary[split]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert found["per_class"] == expected["per_class"]
    saved, expected_saved = load_file(two.saved), load_file(probed.saved)
    assert {name: tensor.shape for name, tensor in saved.items()} == {n: t.shape for n, t in expected_saved.items()}


def test_probe_with_one_logit_and_no_valid_split(
    probe_here: Callable[..., int], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [TWO, "loss={name: bce}", f"backbone.weights={weights}", "train.global_batch=16", "train.patience=null"]
    assert probe_here(DIGITS, *changes, "data.dir=shards") == 0
    done = new_probe(tmp_path, tmp_path / "shards", capsys.readouterr().out)
    assert done.summary["C"] == 1.0
    assert [each["valid_accuracy"] for each in done.summary["tried"]] == [None]
    assert "C 1: no valid split to choose C by" in done.out
    assert "1, no valid split to choose it by" in done.out
    check_against_sklearn(done, "lenet")


def test_probe_of_a_convolution_as_head(
    probe_here: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SqueezeNet: the head takes a value per pixel, and a ReLU follows it."""
    side = "augment.{}=[{{op: resize, size: [48, 48]}}]"
    changes = ["backbone.name=squeezenet1_1", side.format("eval"), side.format("train"), "data.dir=shards"]
    assert probe_here(DIGITS, TWO, *changes, "run.seed=3") == 0
    done = new_probe(tmp_path, tmp_path / "shards", capsys.readouterr().out)
    assert load_file(done.saved)["classifier.1.weight"].shape == (2, 512, 1, 1)
    assert done.summary["num_features"] == 512
    assert done.summary["test"]["accuracy"] > 0.8
    check_against_sklearn(done, "squeezenet1_1", 48)


def test_probe_with_pooling_between_boundary_and_head(probe_here: Callable[..., int], tmp_path: Path) -> None:
    """timm's head modules pool as well: the boundary is before them."""
    pytest.importorskip("timm")
    name = "timm/test_byobnet"
    assert probe_here(DIGITS, TWO, f"backbone.name={name}", "data.dir=shards", "run.name=lenet_digits") == 0
    done = new_probe(tmp_path, tmp_path / "shards", "")
    [layout] = {
        json.dumps(json.loads(file.read_text())["layout"]["values"])
        for file in tmp_path.glob("data/features/*/features.json")
    }
    assert json.loads(layout)[0]["shape"] == [256, 1, 1]
    check_against_sklearn(done, name)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["train.epohcs=1"], "launcher: command line: train.epohcs: unknown key; did you mean 'epochs'?"),
        (
            ["strategy.feature_cache_gib=0.0001"],
            "launcher: strategy.feature_cache_gib: the features take 0.00058 GiB, 0.0001 are allowed; set it to 0.01",
        ),
    ],
)
def test_user_error_is_one_line(
    changes: list[str],
    expected: str,
    probe_here: Callable[..., int],
    digits: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert probe_here(DIGITS, f"data.dir={digits}", *changes) == 2
    assert capsys.readouterr().err.splitlines() == [expected]


def test_untraceable_network_is_one_line(
    probe_here: Callable[..., int],
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(zoo.OWN, "lenet", (Untraceable, 10))
    assert probe_here(DIGITS, f"data.dir={digits}") == 2
    error = capsys.readouterr().err
    assert error.startswith("launcher: backbone.name: lenet cannot be probed: torch.fx cannot trace it: ")
    assert len(error.splitlines()) == 1
    assert new_probe(tmp_path, digits, "").summary["status"] == "failed"


def test_missing_recipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "recipe.yaml"
    assert run(["probe", str(missing)]) == 2
    assert capsys.readouterr().err == f"launcher: {missing}: no such recipe\n"
