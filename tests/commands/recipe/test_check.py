from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run
from launcher.commands.recipe.check import check
from launcher.commands.recipe.options import CheckOptions
from launcher.data.order import build_order, epoch_order
from launcher.errors import DataError, RecipeError, UserError
from launcher.models.known import TORCHVISION, is_known
from launcher.models.transform import Transform
from launcher.models.zoo import check_backbone, model_names
from launcher.recipe.augment import CenterCrop
from launcher.recipe.backbone import Backbone
from launcher.recipe.facts import OWN_NETWORKS
from launcher.recipe.parse import load_recipe
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import write_manifest
from tests.data.made import manifest_of
from tests.harness.runs import environment
from tests.recipe.right import load

WEIGHTLESS = ("weights: DEFAULT", "weights: none")


def test_check_shows_the_plan(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check", "recipes/lenet_digits.yaml", f"data.dir={digits}", "--processes", "4"])
    out = capsys.readouterr().out
    assert code == 0
    assert "lenet_digits.yaml on 4 processes" in " ".join(out.split())
    rows = {row[1].strip(): row[2].strip() for row in (line.split("│") for line in out.splitlines()) if len(row) == 4}
    named = ("training images", "test images", "rank batch", "total steps", "warm-up steps")
    assert [rows[name] for name in named] == ["1,078", "359", "8", "990", "33"]
    assert [name for name in rows if "_" in name] == []


def test_missing_shards_are_announced_and_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(tmp_path, WEIGHTLESS, overrides=(f"data.dir={tmp_path / 'shards'}",))
    assert check(loaded, CheckOptions(processes=2)) == 0
    assert "the recipe is valid" in capsys.readouterr().out
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            [("    - {op: resize, size: [32, 32]}\n  mean: [0.5, 0.5, 0.5]\n", "")],
            "eval: resize 256 bilinear, center_crop 224; mean 0.485 0.456 0.406; std 0.229 0.224 0.225",
        ),
        (
            [("name: resnet18", "name: efficientnet_b1"), ("    - {op: resize, size: [32, 32]}\n  mean", "  mean")],
            "eval: resize 255 bilinear, center_crop 240; mean 0.5 0.5 0.5; std 0.229 0.224 0.225",
        ),
        ([WEIGHTLESS], "eval: resize 32 x 32 bilinear; mean 0.5 0.5 0.5; std dataset"),
    ],
)
def test_check_shows_the_eval_transform(
    changes: list[tuple[str, str]], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(load(tmp_path, *changes, overrides=(f"data.dir={tmp_path / 'shards'}",)), CheckOptions()) == 0
    assert capsys.readouterr().out.splitlines()[0] == line


def test_transform_of_a_wrong_size_is_refused_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Transform((CenterCrop(op="center_crop", size=224),), (0, 0, 0), (1, 1, 1), ("near",))
    monkeypatch.setattr("launcher.models.transform.read_transform", lambda backbone: small)
    sizes = (
        "    - {op: resize, size: [32, 32]}\n    - {op: rot",
        "    - {op: resize, size: [299, 299]}\n    - {op: rot",
    )
    loaded = load(
        tmp_path, ("resnet18", "inception_v3"), sizes, ("    - {op: resize, size: [32, 32]}\n  mean", "  mean")
    )
    notes: list[str] = []
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:13: augment.eval: inception_v3 takes 299 x 299 pixels, not 224"
    ):
        complete_recipe(loaded, notes.append)
    assert notes == ["note: near"]


def test_unknown_model_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: backbone.name: no such model 'resnet19'; did you mean"):
        check(load(tmp_path, ("resnet18", "resnet19")), CheckOptions())


@pytest.mark.parametrize(
    ("freeze", "line"),
    [
        ("[layer1, layer9]", "5: backbone.freeze: 'layer9' is no part of the network; did you mean 'layer4'?"),
        (
            "{schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: ['*']}]}",
            "5: backbone.freeze.schedule.1.freeze: leaves nothing to train",
        ),
    ],
)
def test_impossible_freeze_is_refused_with_its_line(freeze: str, line: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, ("freeze: none", f"freeze: {freeze}"))
    with pytest.raises(RecipeError) as error:
        check(loaded, CheckOptions())
    assert error.value.lines == [f"{loaded.file}:{line}"]


def test_plan_error_has_its_line(digits: Path, tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        WEIGHTLESS,
        ("{train: 0.8, valid: rest}", "{train: 0.6, valid: 0.2, test: rest}"),
        overrides=(f"data.dir={digits}",),
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml:24: train.global_batch: 32 cannot be shared .* try 33"):
        check(loaded, CheckOptions(processes=3))


def test_shards_of_another_packing_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 'digits split="):
        check(load(tmp_path, WEIGHTLESS, overrides=(f"data.dir={digits}",)), CheckOptions())


def test_zero_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--processes 0: must be at least 1"):
        check(load(tmp_path, WEIGHTLESS), CheckOptions(processes=0))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (CheckOptions(nodes=0), "--nodes 0: must be at least 1"),
        (CheckOptions(gpus_per_node=-1), "--gpus-per-node -1: must be at least 1"),
        (
            CheckOptions(processes=4, nodes=2),
            "--processes: leave it out; --nodes and --gpus-per-node give the number of processes",
        ),
        (CheckOptions(nodes=2, gpus_per_node=4, rank=8), "--rank 8: must be 0 to 7"),
        (CheckOptions(rank=-1), "--rank -1: must be 0 to 0"),
    ],
)
def test_impossible_processes_are_one_line(options: CheckOptions, line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check(load(tmp_path, WEIGHTLESS), options)
    assert str(error.value) == line


def test_known_names_equal_those_of_torchvision() -> None:
    """When torchvision has changed, update the names in launcher/models/known.py."""
    assert sorted([*TORCHVISION, *OWN_NETWORKS]) == sorted(model_names())
    for name in TORCHVISION:
        assert check_backbone(Backbone(name=name, weights="DEFAULT")) == []


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ({"name": "resnet50"}, True),
        ({"name": "lenet", "freeze": "backbone"}, True),
        ({"name": "resnet50", "weights": "DEFAULT"}, True),
        ({"name": "resnet50", "weights": "pyproject.toml"}, False),
        ({"name": "resnet50", "weights": "missing.pt"}, False),
        ({"name": "resnet50", "weights": "IMAGENET1K_V3"}, False),
        ({"name": "resnet51"}, False),
        ({"name": "resnet50", "freeze": {"except_last": 99}}, False),
    ],
)
def test_is_known_only_for_a_valid_backbone(keys: dict[str, Any], known: bool) -> None:
    assert is_known(Backbone.model_validate_json(json.dumps(keys))) is known


BIG = """\
backbone: {name: resnet50}
data: {dir: shards, lanes: 4096}
augment:
  train: [{op: random_resized_crop, size: 224}]
  eval: [{op: resize, size: 256}, {op: center_crop, size: 224}]
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
optim: {name: sgd, lr: 0.1}
train: {epochs: 90, global_batch: 32768}
"""


def test_check_of_4096_processes_and_a_billion_images_is_fast(tmp_path: Path) -> None:
    """Within 1 GB of memory and 5 s of CPU time."""
    (tmp_path / "big.yaml").write_text(BIG)
    (tmp_path / "shards").mkdir()
    manifest = manifest_of([10_000] * 100_000, num_classes=1000, shard_bytes=1_200_000_000)
    write_manifest(tmp_path / "shards", manifest)
    words = ["big.yaml", "--nodes", "512", "--gpus-per-node", "8", "--rank", "4095"]
    program = f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); sys.argv[1:] = {words}\n"
    program += "sys.argv.insert(1, 'check'); from launcher.cli.main import run; code = run()\n"
    program += "used = resource.getrusage(resource.RUSAGE_SELF); print('used', used.ru_utime + used.ru_stime, code)"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    used, code = lines[-1].split()[1:]
    assert float(used) < 5
    assert code == "0"
    rows = {row[1].strip(): row[2].strip() for row in (line.split("│") for line in lines) if len(row) == 4}
    assert (rows["training images"], rows["world size"], rows["steps per epoch"]) == (
        "1,000,000,000",
        "4,096",
        "30,517",
    )
    assert rows["shards per node and epoch"] == "196 to 197 of 100,000"
    assert rows["bytes per node and epoch"] == "219.0 GiB to 220.2 GiB"
    loaded = load_recipe(tmp_path / "big.yaml")
    plan = plan_run(loaded, loaded.recipe, 1, manifest)
    last = build_order(plan, manifest, 0).global_batch_ids(1)[-8:].tolist()
    assert f"step 1, rank 4095: sample ids {' '.join(map(str, last))}" in lines


def test_first_batch_equals_that_of_training(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without lanes: all ids of rank 1, the first ids of rank 0."""
    order = epoch_order(1078, 0, 0).tolist()
    words = ["check", "recipes/lenet_digits.yaml", f"data.dir={digits}", "train.global_batch=64"]
    assert run([*words, "--nodes", "2", "--rank", "1"]) == 0
    out = capsys.readouterr().out
    assert f"step 1, rank 1: sample ids {' '.join(map(str, order[32:64]))}\n" in out
    assert "2 of 2" in " ".join(line for line in out.splitlines() if "shards per node" in line)
    assert run([*words, "--nodes", "2"]) == 0
    shown = " ".join(map(str, order[:16]))
    assert f"step 1, rank 0: sample ids {shown} and 16 more; --rank 0 shows all\n" in capsys.readouterr().out


def test_check_writes_nothing(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _content(digits)
    recipe = Path("recipes/lenet_digits.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert run(["check", str(recipe), f"data.dir={digits}"]) == 0
    assert _content(digits) == before
    assert list(tmp_path.iterdir()) == []


def _content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
