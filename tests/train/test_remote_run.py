"""Real trainings on shards from web and S3 servers on this machine, which fail meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from launcher.cli.main import run as run_command
from launcher.recipe.parse import load_recipe
from launcher.recipe.resolve import pack_options
from shards.manifest import MANIFEST_NAME
from shards.write import pack
from tests.data.remote.shard_server import Request, serve
from tests.harness.runs import DIGITS, Ended, events, finish, free_port, run, start, train, train_records, wait_until

SECRET = "c2VjcmV0LXRva2Vu"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits in 11 train shards, 4 of each other split."""
    folder = tmp_path_factory.mktemp("digits") / "shards"
    pack("digits", folder, replace(pack_options(load_recipe(DIGITS).recipe.data), images_per_shard=100))
    return folder


def words(folder: str | Path, name: str) -> list[str | Path]:
    """Not decoded beforehand, so that shards are needed when their images are."""
    return [DIGITS, "data.source=null", "data.split=null", f"data.dir={folder}", "data.cache=none", "train.epochs=16st",
            "train.evaluate_every=8st", "checkpoint.every=4st", "log.every=1st", "log.wandb.mode=disabled",
            f"run.dir={name}"]  # fmt: skip


@pytest.fixture(scope="module")
def losses(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Of a run of two processes from the folder."""
    cwd = tmp_path_factory.mktemp("local")
    train(*words(shards, "run"), cwd=cwd, processes=2)
    return losses_of(cwd / "run")


def losses_of(folder: Path) -> dict[int, float]:
    return {step: record["loss"] for step, record in train_records(folder).items()}


def test_a_web_server_that_fails_ends_all_processes_and_the_same_command_resumes(
    shards: Path, losses: dict[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server wants a token, which comes from the environment and is not to be found anywhere afterwards.

    Processes of their own: fsspec asks the environment once, when it is imported.
    """
    monkeypatch.setenv("FSSPEC_HTTP", f'{{"headers": {{"Authorization": "Bearer {SECRET}"}}}}')
    with serve(shards) as served:
        is_well = False

        def fault(request: Request) -> str | None:
            if request.token != f"Bearer {SECRET}":
                return "403"
            return None if is_well or request.name != "valid-00000.tar" else "503"

        served.fault = fault
        command = [*words(served.url, "run"), "data.remote_tries=2"]
        failed = run(*command, cwd=tmp_path, processes=2, launcher="torchrun")
        assert failed.code != 0
        [line] = {line for line in failed.err.splitlines() if "valid-00000.tar" in line}
        assert line.startswith(f"launcher: {served.url}/valid-00000.tar: cannot be read after 2 tries (503")
        assert [line for line in failed.err.splitlines() if line.endswith("failed:")] == []  # of a traceback
        is_well = True
        again = train(*command, cwd=tmp_path, processes=2, launcher="torchrun")
        assert "resumes at step 4" in again.out
        assert losses_of(tmp_path / "run") == losses
        counts = served.count()
        assert {name: number for name, number in counts.items() if number > 1 and not name.startswith("valid")} == {
            MANIFEST_NAME: 4
        }
        assert len(counts) == 1 + 2 * (11 + 4 + 4)
        [event] = events(tmp_path / "run", "remote")
        assert 0 < sum(each["num_shards"] for each in event["ranks"]) <= 8  # some came before the failure
    check_nowhere(tmp_path, failed, again)


def check_nowhere(folder: Path, *ended: Ended) -> None:
    assert [end for end in ended if SECRET in end.out + end.err] == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Of an S3 server that is to come, with the settings that its clients find in their environment."""
    port = free_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "mine"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    return port


def serve_s3(port: int) -> ThreadedMotoServer:
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


def test_an_s3_server_that_stops_and_starts_again_changes_nothing(
    shards: Path, losses: dict[int, float], tmp_path: Path, port: int
) -> None:
    server = serve_s3(port)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pictures")
    for path in shards.iterdir():
        client.upload_file(str(path), "pictures", f"digits/{path.name}")
    client.close()
    process = start(words("s3://pictures/digits", "run"), tmp_path, processes=2)
    wait_until(lambda: 2 in train_records(tmp_path / "run"), process)
    server.stop()
    logs = [tmp_path / "run" / "logs" / f"rank-{rank}.log" for rank in range(2)]
    wait_until(lambda: any("retrying" in log.read_text() for log in logs), process)
    server = serve_s3(port)
    ended = finish(process)
    server.stop()
    assert ended.code == 0, ended.err
    assert losses_of(tmp_path / "run") == losses
    [event] = events(tmp_path / "run", "remote")
    assert sum(each["num_shards"] for each in event["ranks"]) == 19
    assert sum(each["num_retries"] for each in event["ranks"]) > 0
    check_nowhere(tmp_path, ended)


def test_fetched_beforehand_it_trains_without_a_network(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve(shards) as served:
        command = [str(word) for word in words(served.url, "run")]
        assert run_command(["fetch", *command]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        images = f"shards: 1,797 images of 10 classes, {served.url}, cached in data/remote, at most 50 GiB"
        assert last == f"{images}: 19 of 19 shards fetched"
        assert run_command(["fetch", *command]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"{images}: already here, nothing to fetch"
        assert run_command(["fetch", *command, "data.remote_cache_gib=0.0008"]) == 2
        assert "0.0008 is too small for" in capsys.readouterr().err
    trained = train(*command, "train.epochs=4st", cwd=tmp_path)
    assert f"shards {served.url}, cached in data/remote, at most 50 GiB" in trained.out
    assert "uses the manifest cached earlier" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()


def test_a_password_in_a_recipe_is_refused_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    for url in (
        f"https://me:{SECRET}@host/x",
        f"https://{SECRET}@host/x",
        f"s3://me:{SECRET}@x",
        f"https://h/x?sig={SECRET}",
    ):
        assert run_command(["check", *map(str, words(url, "run"))]) == 2
        error = capsys.readouterr().err
        assert error == (
            "launcher: command line: data.dir: has a user, password or signature; put them in the environment or "
            "fsspec's configuration\n"
        )
