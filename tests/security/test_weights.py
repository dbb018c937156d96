"""Hostile checkpoints and weights: nothing in them is run, nothing outside of them is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from launcher.checkpoint.atomic import HASHES, check_folder, prune
from launcher.errors import CheckpointError, RunError, UserError
from launcher.models.weights import read_weights
from tests.harness.small_run import SmallRun, alone, restore, save_two, saved_steps, silent
from tests.security.payload import Payload, payload_bytes


def hostile_file(path: Path, mark: Path) -> None:
    """Write a file as torch saves it; loading it with `weights_only=False` makes `mark`."""
    plain = path.with_suffix(".zip")
    torch.save({"weight": torch.zeros(2), "more": Payload(mark)}, plain)
    torch.load(plain, weights_only=False)
    mark.rmdir()
    plain.rename(path)


def trust(path: Path) -> None:
    """Give the checkpoint at `path` the hashes of what is in it now."""
    files = [file for file in path.iterdir() if file.name != HASHES]
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (path / HASHES).write_text(json.dumps(hashes))


@pytest.mark.parametrize("kind", ["zip", "pickle"])
@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors"])
def test_code_in_a_weights_file_is_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    file, mark = tmp_path / f"weights.{suffix}", tmp_path / "mark"
    if kind == "zip":
        hostile_file(file, mark)
    else:
        file.write_bytes(payload_bytes(mark))
    with pytest.raises(UserError, match=r"^backbone\.weights: ") as error:
        read_weights(file, ["weight"])
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model", "optimizer", "rng"])
def test_code_in_a_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    folder, mark = save_two(tmp_path / "checkpoints", alone()), tmp_path / "mark"
    newest = folder / "step-00000020"
    hostile_file(newest / f"{name}.safetensors", mark)
    trust(newest)
    with pytest.raises(
        RunError, match=rf"{name}\.safetensors: its hash is right, but it is no safetensors file"
    ) as error:
        restore(folder, SmallRun(alone()).state, silent)
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../secret", "/dev/zero", ".."])
def test_hashes_name_only_files_of_their_folder(tmp_path: Path, name: str) -> None:
    newest = save_two(tmp_path / "checkpoints", alone()) / "step-00000020"
    hashes = json.loads((newest / HASHES).read_text())
    (newest / HASHES).write_text(json.dumps({**hashes, name: "0"}))
    with pytest.raises(CheckpointError):
        check_folder(newest)


@pytest.mark.parametrize("name", [".step-00000001.tmp", "step-00000001"])
def test_target_of_a_planted_link_is_not_removed(tmp_path: Path, name: str) -> None:
    folder, precious = save_two(tmp_path / "checkpoints", alone()), tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (folder / name).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        prune(folder, "step-00000020", 2)
    assert (precious / "file").read_text() == "kept"
    assert {10, 20} <= set(saved_steps(folder))
