"""`launcher fetch` from servers on this machine that are then shut down: training must work without them."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save

from launcher.cli.main import run
from launcher.models.zoo import build_model
from launcher.recipe.backbone import Backbone
from tests.harness.runs import DIGITS, free_port
from tests.recipe.right import write

NAME = "shufflenet_v2_x0_5"
SHARDS = ("source: digits", "source: synthetic:3x8x16")


class Server(ThreadingHTTPServer):
    """Serves `files`, path -> content, as a web server and as Hugging Face's hub, and records the paths `sent`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is not None:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.path in self.server.files:
            self.server.sent.append(self.path)
            self.wfile.write(self.server.files[self.path])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's folder for weights: empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def saved_weights() -> bytes:
    stream = io.BytesIO()
    torch.manual_seed(5)
    torch.save(torchvision.models.get_model(NAME, weights=None).state_dict(), stream)
    return stream.getvalue()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Download the weights from `url`."""
    monkeypatch.setattr(torchvision.models.get_model_weights(NAME)["DEFAULT"].value, "url", url)


def recipe_of(folder: Path, weights: str = "DEFAULT", name: str = NAME) -> list[str]:
    return [str(write(folder, ("resnet18", name), ("DEFAULT", weights), SHARDS)), f"data.dir={folder / 'shards'}"]


def test_fetch_does_nothing_where_all_is_there(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in digits.iterdir()}
    assert run(["fetch", str(DIGITS), f"data.dir={digits}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "weights: none, nothing to fetch",
        f"shards: 1,797 images of 10 classes already in {digits}, nothing to fetch",
    ]
    assert {path: path.stat().st_mtime_ns for path in digits.iterdir()} == before


def test_fetched_weights_are_enough_without_network(
    tmp_path: Path, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = saved_weights()
    file = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[f"/models/{file}"] = content
    point_at(monkeypatch, f"{server.url}/models/{file}")
    assert run(["fetch", *recipe_of(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"weights: {NAME} DEFAULT fetched to {cache / file}",
        f"shards: 24 images of 3 classes packed into {tmp_path / 'shards'}",
    ]
    assert [path.name for path in cache.iterdir()] == [file]
    assert run(["fetch", *recipe_of(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"weights: {NAME} DEFAULT already in {cache / file}, nothing to fetch",
        f"shards: 24 images of 3 classes already in {tmp_path / 'shards'}, nothing to fetch",
    ]
    assert server.sent == [f"/models/{file}"]
    point_at(monkeypatch, f"http://127.0.0.1:{free_port()}/models/{file}")
    built = build_model(Backbone(name=NAME, weights="DEFAULT"), 3).model.state_dict()
    saved = torch.load(cache / file, weights_only=True)
    assert [key for key in saved if not torch.equal(saved[key], built[key])] == ["fc.weight", "fc.bias"]


def test_weights_file_needs_no_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.pt"
    file.touch()
    assert run(["fetch", *recipe_of(tmp_path, str(file))]) == 0
    assert capsys.readouterr().out.startswith(f"weights: {file}, nothing to fetch\nshards: 24 images")


def test_missing_network_is_one_line(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point_at(monkeypatch, f"http://127.0.0.1:{free_port()}/net-01234567.pth")
    assert run(["fetch", *recipe_of(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"launcher: backbone.weights: {NAME} DEFAULT cannot be downloaded to {cache} "
        "(<urlopen error [Errno 111] Connection refused>); "
        "run launcher fetch where there is a network, or set backbone.weights=none\n"
    )
    assert list(cache.iterdir()) == []


def test_damaged_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/net-01234567.pth"] = b"other"
    point_at(monkeypatch, f"{server.url}/net-01234567.pth")
    assert run(["fetch", *recipe_of(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'invalid hash value (expected "01234567"' in error
    assert error.startswith("launcher: backbone.weights: ")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ("backbone.name=resnet81", "no such model 'resnet81'; did you mean 'resnet18'?"),
        ("backbone.weights=IMAGENET", "has no weights 'IMAGENET'"),
        ("data={dir: nowhere}", "nowhere"),
        ("data={source: 'imagefolder:nowhere', dir: new}", "nowhere"),
    ],
)
def test_unknown_model_weights_or_data_is_one_line(
    changes: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = "weights: DEFAULT" if changes.startswith("backbone") else "weights: none"
    assert run(["fetch", str(write(tmp_path, ("weights: DEFAULT", weights))), changes]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert len(error.splitlines()) == 1


def fetch_timm(folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Run fetch as a process: huggingface_hub reads its environment when it is imported."""
    set_by_us = {"HF_HOME": str(folder / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "launcher", "fetch", *recipe_of(folder, name="timm/test_resnet.r160_in1k")],
        env={**os.environ, **set_by_us},
        capture_output=True,
        text=True,
    )


def test_fetch_of_timm_weights(tmp_path: Path, server: Server) -> None:
    timm = pytest.importorskip("timm")
    repository = "timm/test_resnet.r160_in1k"
    path = f"/{repository}/resolve/main/model.safetensors"
    server.files[path] = save(timm.create_model("test_resnet").state_dict())
    ended = fetch_timm(tmp_path, server.url)
    assert ended.returncode == 0, ended.stderr
    words, _, file = ended.stdout.splitlines()[0].partition(" fetched to ")
    assert words == f"weights: {repository} DEFAULT"
    assert Path(file).is_relative_to(tmp_path / "hf")
    assert Path(file).read_bytes() == server.files[path]
    again = fetch_timm(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert again.stdout.splitlines()[0] == f"weights: {repository} DEFAULT already in {file}, nothing to fetch"
    assert len(server.sent) == 1


def test_timm_without_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm")

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("no connection\nmore")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    assert run(["fetch", *recipe_of(tmp_path, name="timm/test_resnet.r160_in1k")]) == 2
    assert capsys.readouterr().err == (
        "launcher: backbone.weights: timm/test_resnet.r160_in1k DEFAULT cannot be loaded (no connection); "
        "run launcher fetch where there is a network, or set backbone.weights=none\n"
    )
