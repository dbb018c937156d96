"""`launcher sync` by the real SDK, to a server on loopback: a W&B run gets every record of its journal once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.cli.main import run as command
from launcher.recipe.fields import with_values
from launcher.recipe.lock import write_lock
from launcher.recipe.parse import load_recipe
from launcher.run.journal import Journal, read_journal
from launcher.run.lock_file import claim
from tests.harness.runs import DIGITS, Ended, wait_until
from tests.run.wandb_program import DIES_LATER, KEY, launch, online, result_of, spawn
from tests.run.wandb_server import WandbServer
from tests.run.wandb_stored import Run

BEGIN = """
from PIL import Image
(folder / "pictures").mkdir(exist_ok=True)
Image.new("RGB", (8, 8)).save(folder / "pictures" / "augmented.png")
journal.write("event", 1, name="picture", picture="augmented")
"""
END = """
per_class = {"cat": {"recall": 0.5, "support": 2}, "dog": {"recall": None, "support": 0}}
journal.write("eval", 6, split="test", loss=0.5, accuracy=0.75, num_images=4, per_class=per_class)
journal.write("event", 6, name="confusion", split="test", rows=[[1, 1], [0, 0]])
(folder / "summary.json").write_text('{"status": "done"}')
"""


def make_run(folder: Path) -> Path:
    """A run folder with a locked recipe and no journal."""
    folder.mkdir()
    recipe = load_recipe(DIGITS, ["log.wandb.project=birds", "optim.lr=0.25"]).recipe
    write_lock(folder, with_values(recipe, {"run.name": "digits"}), "a run")
    return folder


def begin(folder: Path, **metadata: str) -> None:
    journal = Journal(folder, 10)
    journal.write("event", 0, name="started", **metadata)
    journal.close()


def sync(*folders: Path, home: Path, **environment: str) -> Ended:
    return launch("sync", *folders, cwd=home, **environment)


def assert_whole(run: Run, folder: Path) -> None:
    """Every record once, with the values of the journal, in rows whose numbers only grow."""
    journal = read_journal(folder)
    rows = run.history
    assert sorted(row["record"] for row in rows) == list(range(len(journal)))
    for row in rows:
        record = journal[row["record"]]
        assert (row["step"], row["epoch"], row["_timestamp"]) == (record["step"], record["epoch"], record["time_s"])
        if record["kind"] == "train":
            assert (row["train/loss"], row["train/lr"]) == (record["loss"], record["lr"])
        if record["kind"] == "event":
            assert row["event/name"] == record["name"]
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))


def assert_finished(run: Run, server: WandbServer) -> None:
    assert (run.name, run.project, run.exit_code) == ("abcd1234", "birds", 0)
    assert (run.config["optim"]["lr"], run.config["run"]["name"], run.fields["groupName"]) == (0.25, "digits", "digits")
    assert (run.summary["test_accuracy"], run.summary["test_num_images"]) == (0.75, 4)
    media = [name.partition("media/")[2] for name in server.stored if "media/" in name]
    kinds = ("images/augmented", "table/test/per_class", "table/test/confusion")
    assert {kind: sum(name.startswith(kind) for name in media) for kind in kinds} == dict.fromkeys(kinds, 1)
    assert server.unknown == []


def test_an_offline_run_requeued_twice_becomes_one_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    kill = "wait_for_mirror(); time.sleep(1.2); os.kill(os.getpid(), 9)"
    killed = spawn(folder, "offline", f"{BEGIN}log(1, 2, 3); {kill}")
    killed.communicate()
    assert killed.returncode == -9
    result_of(spawn(folder, "offline", "log(3, 4, 5); end()"))
    result_of(spawn(folder, "offline", f"log(5, 6); {END}end()"))
    before = sorted(folder.rglob("*"))
    with WandbServer() as server:
        first = sync(folder, home=tmp_path, WANDB_MODE="offline", **online(server))
        assert (first.code, first.err) == (0, "")
        (run,) = server.runs.values()
        num_records = len(read_journal(folder))
        assert first.out.startswith(f"{folder}: sent {num_records} of {num_records} records, W&B had the others: ")
        assert f"{server.url}/someone/birds/runs/abcd1234" in first.out
        assert_whole(run, folder)
        assert_finished(run, server)
        cut_off = make_run(tmp_path / "other")
        begin(cut_off, wandb_id="other123")
        again = sync(folder, cut_off, home=tmp_path, **online(server))
        mine, other = again.out.splitlines()
        assert mine.startswith(f"{folder}: sent 0 of {num_records} records, ")
        assert other.startswith(f"{cut_off}: sent 1 of 1 records, ")
        assert_whole(run, folder)
        assert_finished(run, server)
        assert server.runs["other123"].exit_code == 1
    assert {path.name for path in set(folder.rglob("*")) - set(before)} == {".in-use"}


def test_missing_records_are_sent_and_the_run_resumes(tmp_path: Path) -> None:
    """Online; online to a server that dies midway; online again: what is missing lies before what is there."""
    folder, go = make_run(tmp_path / "run"), tmp_path / "run" / "go"
    wait = "wait_for_mirror(); (folder / 'go').touch()\nwhile (folder / 'go').exists(): time.sleep(0.05)\n"
    with WandbServer() as dying:
        result_of(spawn(folder, "online", f"{BEGIN}log(1, 2); end()", **online(dying)))
        process = spawn(folder, "online", f"log(2, 3); {wait}log(4); end()", DIES_LATER, **online(dying))
        wait_until(go.exists, process)
    go.unlink()
    assert result_of(process)["failures"][0].startswith("W&B did not receive everything (")
    with WandbServer() as server:
        server.runs = dying.runs
        result_of(spawn(folder, "online", f"log(4, 5, 6); {END}end()", **online(server)))
        (run,) = server.runs.values()
        num_missing = len(read_journal(folder)) - len(run.history)
        assert num_missing > 0
        ended = sync(folder, home=tmp_path, **online(server))
        assert (ended.code, ended.err) == (0, "")
        assert f" {num_missing} of " in ended.out
        assert_whole(run, folder)

        result_of(spawn(folder, "online", "log(7, 8); end()", **online(server)))
        assert_whole(run, folder)


@pytest.mark.parametrize("fault", ["gone", 401])
def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path, fault: int | str) -> None:
    folder = make_run(tmp_path / "run")
    begin(folder, wandb_id="abcd1234")
    with WandbServer(None if fault == "gone" else fault) as server:
        if fault == "gone":
            server.stop()
        ended = sync(folder, home=tmp_path, **online(server))
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"launcher: {folder}: W&B did not receive everything (")
    assert line.endswith("); the same command sends the rest")


def test_runs_that_cannot_be_sent_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")

    def refused(words: str, *folders: Path) -> None:
        assert command(["sync", *map(str, folders)]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert (captured.out, words in line) == ("", True), line

    names = ("ready", "empty", "probe", "damaged", "hostile", "unlocked")
    ready, empty, probe, damaged, hostile, unlocked = (make_run(tmp_path / name) for name in names)
    for folder, metadata in (
        (ready, {"wandb_id": "abcd1234"}),
        (probe, {"id": "abcd1234"}),
        (hostile, {"wandb_id": "../../elsewhere"}),
        (unlocked, {"wandb_id": "abcd1234"}),
    ):
        begin(folder, **metadata)
    (damaged / "journal.jsonl").write_text('{"step": 1\n')
    (unlocked / "recipe.lock.yaml").write_text("optim: 3\n")
    refused("sync: no credentials for W&B; run 'wandb login'", ready)
    refused("absent: no such run; give a run's folder", ready, tmp_path / "absent")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    refused("empty: its journal.jsonl is missing or empty", ready, empty)
    refused("probe: its journal.jsonl has no id of a W&B run; only trainings can be sent", ready, probe)
    refused("journal.jsonl: damaged: line 1 is not a record; leave this run out", ready, damaged)
    refused("hostile: its journal is damaged: '../../elsewhere' is no id of a W&B run", ready, hostile)
    refused("recipe.lock.yaml: not the recipe of a run, which cannot be sent without it", ready, unlocked)
    in_use = claim(ready)
    refused("ready: another process is running it", ready)
    os.close(in_use)
