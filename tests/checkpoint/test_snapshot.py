from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from launcher.checkpoint import snapshot
from launcher.checkpoint.atomic import check_folder
from launcher.checkpoint.network_spec import read_spec
from launcher.checkpoint.restore import read_progress
from launcher.checkpoint.snapshot import HostMemory, Snapshot, save_weights, take_snapshot, write_snapshot
from launcher.checkpoint.state import Progress, step_name
from launcher.distributed.strategy import Strategy, get_rng_state
from launcher.errors import RunError
from tests.harness.small_run import ADAM, SPEC, SmallRun, alone, best_at, pointed


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


def take(run: SmallRun, progress: Progress, memory: HostMemory | None = None) -> Snapshot:
    rngs = [get_rng_state(run.state.strategy.device)]
    return take_snapshot(run.state, progress, rngs, memory or HostMemory())


def test_memory_is_used_again(strategy: Strategy) -> None:
    run, memory = SmallRun(strategy), HostMemory()
    places = []
    for step in (1, 2, 3):
        run.train(1)
        files = take(run, Progress(step), memory).files
        tensors = {f"{file}/{name}": tensor for file, laid in files.items() for name, tensor in laid.tensors.items()}
        places.append({name: tensor.data_ptr() for name, tensor in tensors.items()})
        assert torch.equal(tensors["model/0.weight"], run.state.model.state_dict()["0.weight"])
    assert places[0] == places[1] == places[2]
    assert set(places[0].values()).isdisjoint(p.data_ptr() for p in run.state.model.parameters())


def test_memory_changes_with_the_tensors(strategy: Strategy) -> None:
    """As when a stage of freezing gives the optimizer more parameters."""
    memory = HostMemory()
    take(SmallRun(strategy), Progress(1), memory)
    run = SmallRun(strategy, ADAM, ema=False, width=5)
    run.train(1)
    files = take(run, Progress(2), memory).files
    assert set(files) == {"model", "optimizer", "rng"}
    assert files["model"].tensors["0.weight"].shape == (5, 3)
    assert "0.weight/exp_avg" in files["optimizer"].tensors


def test_training_does_not_change_a_snapshot(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    run.train(1)
    before = {name: tensor.clone() for name, tensor in run.state.model.state_dict().items()}
    taken = take(run, Progress(1))
    run.train(2)
    write_snapshot(tmp_path, taken, keep=1)
    written = load_file(tmp_path / step_name(1) / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in before.items())


def test_files_of_a_checkpoint_say_what_they_are_of(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    run.train(1)
    write_snapshot(tmp_path, take(run, Progress(7, best_at(5))), keep=1)
    folder = tmp_path / step_name(7)
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"], state["wandb_id"], state["data_sha256"], state["world_size"]) == (7, "abc", "data 1", 1)
    assert read_spec(folder) == SPEC
    with safe_open(folder / "optimizer.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["optimizer"])["scaler"] is None
    assert list(load_file(folder / "rng.safetensors")) == ["0.cpu"]


def test_best_points_to_a_snapshot_of_the_best_only(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    for step in (10, 20):
        write_snapshot(tmp_path, take(run, Progress(step, best_at(10))), keep=1)
    assert (pointed(tmp_path, "best"), pointed(tmp_path, "last")) == (step_name(10), step_name(20))


def test_a_failed_write_leaves_nothing(tmp_path: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(snapshot, "commit", fail)
    with pytest.raises(OSError, match="full"):
        write_snapshot(tmp_path, take(SmallRun(strategy), Progress(1)), keep=1)
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_are_a_checkpoint_of_step_0(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    save_weights(tmp_path, run.state)
    check_folder(tmp_path / "best")
    assert pointed(tmp_path, "best") == pointed(tmp_path, "last") == step_name(0)
    assert read_progress(tmp_path / "last") == Progress()
    assert read_spec(tmp_path / "last") == SPEC
    written = load_file(tmp_path / "last/model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in run.state.model.state_dict().items())


def test_weights_that_cannot_be_written_are_a_run_error(tmp_path: Path, strategy: Strategy) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/step-00000000: cannot be written \(.*Not a directory.*\)$"):
        save_weights(tmp_path / "file", SmallRun(strategy).state)
