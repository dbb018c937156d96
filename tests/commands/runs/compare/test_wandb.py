"""Runs and groups in W&B, by the real SDK and a server on loopback: the same comparison as of the folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.commands.runs.compare.tables import Table
from launcher.commands.runs.compare.wandb_report import CURVES, render_table
from tests.commands.runs.run_folders import predict
from tests.run.wandb_program import launch, online
from tests.run.wandb_server import WandbServer

NAMES = ("fast-0", "fast-1", "slow-0", "slow-1")
GROUP = "someone/launcher/group:small"


@pytest.fixture(scope="module")
def sent(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WandbServer, Path]]:
    """A server that has all of the runs, and the folder with their folders."""
    path = tmp_path_factory.mktemp("sent")
    shutil.copytree(trained / "runs", path / "runs", symlinks=True)
    for name, predicted in (("slow-0", [0, 1, 0, 0]), ("fast-0", [0, 1, 2, 0])):
        predict(path / "runs" / name, predicted, [0, 1, 2, 1])
    (path / "elsewhere.png").write_bytes(b"somebody's")
    (path / "runs/fast-0/evaluations/test-best/mistakes.png").symlink_to(path / "elsewhere.png")
    with WandbServer() as server:
        ended = launch("sync", *(f"runs/{name}" for name in NAMES), cwd=path, **online(server))
        assert (ended.code, ended.err) == (0, "")
        assert server.unknown == []
        yield server, path


def test_wandb_stores_the_files_that_compare_reads(sent: tuple[WandbServer, Path]) -> None:
    server, path = sent
    for name, run in zip(NAMES, server.runs.values(), strict=True):
        kept = {file: content for file, content in run.stored.items() if not file.startswith(("media/", "artifacts/"))}
        evaluation = {"evaluations/test-best/figures.json", "evaluations/test-best/predictions.npz"}
        more = evaluation if name.endswith("-0") else set()
        assert {*kept} - {"config.yaml", "wandb-metadata.json", "wandb-summary.json", "requirements.txt"} == {
            *("recipe.lock.yaml", "journal.jsonl", "summary.json"),
            *more,
        }
        assert kept["journal.jsonl"] == (path / "runs" / name / "journal.jsonl").read_bytes()


def test_a_group_is_compared_as_its_folders_are(sent: tuple[WandbServer, Path]) -> None:
    server, path = sent
    of_folders = launch("compare", *(f"runs/{name}" for name in NAMES), "--html", "folders.html", cwd=path)
    of_group = launch("compare", GROUP, "--html", "group.html", cwd=path, **online(server))
    assert (of_folders.code, of_group.code, of_group.err) == (0, 0, "")
    page = (path / "group.html").read_text()
    for name, run in zip(NAMES, server.runs, strict=True):
        assert f"<td>someone/launcher/{run}</td>" in page
        page = page.replace(f"someone/launcher/{run}", f"runs/{name}")
    page = page.replace("launcher evaluate, then launcher sync of runs/", "launcher evaluate runs/")
    assert page == (path / "folders.html").read_text()
    assert server.unknown == []
    assert not list(path.glob("launcher-compare-*")), "what was fetched goes with the command"


def test_runs_by_path_and_by_page_beside_a_folder(sent: tuple[WandbServer, Path]) -> None:
    server, path = sent
    fast, _, slow, _ = server.runs.values()
    whole = [dict(run.stored) for run in (fast, slow)]
    for run in (fast, slow):  # a training's own journal goes before its last record is written
        lines = run.stored["journal.jsonl"].splitlines(keepends=True)
        run.stored["journal.jsonl"] = b"".join(lines[:-1])
    slow.state = "running"
    pages = (f"someone/launcher/{fast.name}", f"{server.url}/someone/launcher/runs/{slow.name}?nw=me")
    ended = launch("compare", *pages, "runs/slow-1", cwd=path, **online(server))
    fast.stored, slow.stored, slow.state = *whole, "finished"
    assert (ended.code, ended.err) == (0, "")
    statuses = [line.split("│")[4].strip() for line in ended.out.splitlines() if "│ small" in line][:3]
    assert statuses == ["done", "running", "done"]
    assert "│ B - A, seeds 0 and 0 │ test-best   │ 4 " in ended.out


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [
        ("someone/launcher/nowhere1", {}, "no such folder, and W&B cannot give it (Could not find run"),
        ("someone/launcher/group:cats", {}, "W&B has no run of this group; give entity/project/group:NAME"),
        ("group:small", {"WANDB_API_KEY": ""}, "no credentials for W&B; run 'wandb login', or set WANDB_API_KEY"),
        ("group:small", {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "W&B cannot give it ("),
    ],
)
def test_runs_that_wandb_cannot_give_are_one_line(
    sent: tuple[WandbServer, Path], name: str, environment: dict[str, str], words: str
) -> None:
    server, path = sent
    ended = launch("compare", "runs/slow-0", name, cwd=path, **{**online(server), **environment})
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"launcher: {name}: ")
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_a_run_without_a_journal_in_wandb_is_one_line(sent: tuple[WandbServer, Path]) -> None:
    server, path = sent
    run = next(iter(server.runs.values()))
    journal = run.stored.pop("journal.jsonl")
    ended = launch("compare", "runs/slow-0", f"someone/launcher/{run.name}", cwd=path, **online(server))
    run.stored["journal.jsonl"] = journal
    assert (ended.code, ended.out) == (2, "")
    assert f"launcher: someone/launcher/{run.name}: W&B has no journal.jsonl of it; " in ended.err


def test_a_report_in_wandb_has_the_tables_and_runs(sent: tuple[WandbServer, Path]) -> None:
    server, path = sent
    ended = launch("compare", GROUP, "--wandb-report", cwd=path, **online(server))
    assert (ended.code, ended.err, server.unknown) == (0, "", [])
    assert f"report in W&B: {server.url}/someone/launcher/reports/A-small,-B-small--r1" in ended.out
    [report] = server.reports
    assert (report["entityName"], report["projectName"], report["displayName"]) == (
        *("someone", "launcher"),
        "A small, B small",
    )
    blocks = report["spec"]["blocks"]
    tables = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert "| optim.lr | 0.02 | 0.002 |" in tables[1]
    [grid] = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    ids = [*server.runs]
    for runset, mine, others in zip(grid["runSets"], (ids[:2], ids[2:]), (ids[2:], ids[:2]), strict=True):
        shown = json.dumps(runset["filters"])
        assert [run in shown for run in mine + others] == [True, True, False, False]
    assert [panel["config"]["chartTitle"] for panel in grid["panelBankSectionConfig"]["panels"]] == [*CURVES]


def test_a_report_of_folders_is_refused_at_once(sent: tuple[WandbServer, Path]) -> None:
    _, path = sent
    ended = launch("compare", "runs/slow-0", "runs/fast-0", "--wandb-report", cwd=path)
    assert (ended.code, ended.out) == (2, "")
    assert "--wandb-report: runs/slow-0 is a folder; name runs in W&B, entity/project/id or group:NAME" in ended.err


def test_text_in_a_table_is_no_markup() -> None:
    table = Table("t", ("a", "b"), (("x|y", "![](http://a.b) *c* <img> $d$"),), ("a_note",))
    assert render_table(table).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        r"| x\|y | \!\[\](http://a.b) \*c\* \<img\> \$d\$ |",
        "",
        r"*a\_note*",
    ]
