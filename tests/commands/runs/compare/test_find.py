"""Names on the command line, and the runs that they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.commands.runs.compare.find import find_runs
from launcher.errors import RunError

STORE = Path("unused")


def test_folders_and_globs_lead_to_each_run_once(runs: Path) -> None:
    (runs / "notes.txt").write_text("mine")
    (runs / "probe-1").mkdir()
    (runs / "probe-1/recipe.lock.yaml").write_text("run: {}")
    found = find_runs(["runs/slow-1", "runs/*", "./runs/slow-1"], STORE)
    assert [run.folder.name for run in found] == ["slow-1", "fast-0", "fast-1", "slow-0"]
    assert len(find_runs([f"{runs.absolute()}/fast-*"], STORE)) == 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["runs/slow-0", "runs/nowhere"], "runs/nowhere: no such run; launcher runs lists the runs there are"),
        (["runs/slow-0", "runs/x*"], "runs/x*: matches no run; launcher runs lists the runs there are"),
        (["runs/slow-0"], "compare: runs/slow-0 is a single run; give two or more, or a glob: 'runs/NAME/*'"),
        (["runs/slow-0", "runs/slow-0/"], "compare: runs/slow-0 is a single run"),
        ([], "compare: no run is named; give two or more"),
        (["runs"], "runs: not a run folder: needs recipe.lock.yaml and journal.jsonl"),
        (["me/pets/3f9a1c2b"], "me/pets/3f9a1c2b: no such folder, and no credentials for W&B; run 'wandb login'"),
        (["https://wandb.ai/me/pets/runs/3f9a1c2b"], "no credentials for W&B"),
        (["group:pets"], "group:pets: no such folder, and no credentials for W&B"),
        (["runs/pets/3f9a1c2b"], "runs/pets/3f9a1c2b: no such run"),
    ],
)
def test_names_that_lead_to_no_run_are_one_line(
    runs: Path, names: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "nowhere")
    with pytest.raises(RunError) as error:
        find_runs(names, STORE)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_whose_name_looks_like_a_wandb_run_is_a_folder(runs: Path) -> None:
    deep = runs / "pets/3f9a1c2b"
    deep.parent.mkdir()
    (runs / "slow-0").rename(deep)
    assert find_runs(["runs/pets/3f9a1c2b", "runs/slow-1"], STORE)[0].folder == deep
