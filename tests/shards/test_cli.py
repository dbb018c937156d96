from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.cli import main, parse_split
from shards.manifest import ShardsError, read_manifest
from tests.shards.made import as_json, image_bytes, labelled, make_folder, make_tar


def test_pack_check_and_info_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "in", {"1.ant": 9, "2.bee": 8, "3.cat": 7})
    dest = str(tmp_path / "out")
    options = ["--classes", "cat,bee", "--split", "train=5,valid=1,test=rest", "--images-per-shard", "6"]
    assert main(["pack", f"imagefolder:{tmp_path / 'in'}", dest, *options, "--seed", "3", "--max-side", "8"]) == 0
    output = capsys.readouterr()
    assert "train" in output.out
    assert "pack train: 10 of 10" in output.err
    manifest = read_manifest(tmp_path / "out")
    assert manifest.classes == ("cat", "bee")
    assert manifest.class_counts == {"train": (5, 5), "valid": (1, 1), "test": (1, 2)}
    assert [shard.num_images for shard in manifest.shards_of("train")] == [6, 4]
    assert main(["info", dest]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    total = sum(path.stat().st_size for path in (tmp_path / "out").glob("train-*.tar"))
    assert ["train", "2", "10", f"{total:,}", "2"] in rows
    assert any(row[:1] == ["mean"] and row[1:] == [f"{value:.4f}" for value in manifest.mean] for row in rows)
    assert main(["check", dest]) == 0
    capsys.readouterr()
    (tmp_path / "out" / "test-00000.tar").unlink()
    assert main(["check", dest]) == 1
    assert capsys.readouterr().out.startswith("test-00000.tar: missing shard\n")


def test_index_reads_field_and_classes(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", {"a.jpg": image_bytes(0), "a.json": as_json(kind="bee")})
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    for classes in (str(tmp_path / "names.txt"), "ant,bee"):
        assert main(["index", str(tmp_path), "--label-field", "kind", "--classes", classes]) == 0
        assert read_manifest(tmp_path).class_counts == {"train": (0, 1)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pak", "digits", "OUT"], 'Did you mean "pack"'),
        (["pack", "digit", "OUT"], "did you mean digits"),
        (["pack", "digits"], "DEST requires an argument"),
        (["pack", "digits", "OUT", "--sed", "1"], "Did you mean --seed"),
        (["pack", "digits", "OUT", "--seed", "one"], 'Invalid value for --seed: unable to convert "one"'),
        (["pack", "digits", "OUT", "--classes", "1,11"], "no class '11'; did you mean '1'"),
        (["pack", "digits", "OUT", "--split", "train=lots"], "'train=lots' must be NAME=COUNT"),
        (["pack", "torchvision:CIFAR10", "OUT", "--root", "OUT", "--no-download"], "pass root=FOLDER (--root)"),
        (["info", "OUT"], "no manifest.json here"),
        (["check", "OUT"], "no manifest.json here"),
        (["index", "OUT"], "no .tar files here"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([str(tmp_path / "out") if word == "OUT" else word for word in arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("shards: ")
    assert output.err.count("\n") == 1
    assert words in output.err


@pytest.mark.parametrize("text", ["train", "train=", "train=1,train=2", "=0.5,train=x"])
def test_parse_split_refuses_wrong_shares(text: str) -> None:
    with pytest.raises(ShardsError, match="split"):
        parse_split(text)


def test_module_runs_as_a_program(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", labelled(0, 0))
    run = subprocess.run(
        [sys.executable, "-m", "shards", "index", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "train" in run.stdout
    wrong = subprocess.run([sys.executable, "-m", "shards", "inf"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_control_c_is_one_line_and_130(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shards", "pack", "synthetic:10x1000", str(tmp_path / "out")]
    # Processes that a shell starts in the background ignore it, others may have blocked it, and so would the child.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGINT, inherited)
    with process:
        while not list(tmp_path.glob("out.partial/*.tar")) and process.poll() is None:
            time.sleep(0.05)
        while process.poll() is None:  # as somebody who presses the keys again
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "shards: interrupted"
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_control_c_in_executed_text_is_130_too(tmp_path: Path) -> None:
    """Some libraries execute text on import; Python then dies of the signal, whatever its exit code."""
    (tmp_path / "interrupted.py").write_text(
        "import runpy, shards.write\n"
        "shards.write.pack = lambda *_: exec('raise KeyboardInterrupt')\n"
        "runpy.run_module('shards', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-m", "interrupted", "pack", "digits", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": f".:{tmp_path}"})
    assert (run.returncode, run.stderr) == (130, "shards: interrupted\n")
