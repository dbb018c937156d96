"""The documents, the commands in them, and how a user types these."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.harness.runs import ROOT, Ended, environment, free_port, run

DOCS = ROOT / "docs"
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md", "slurm/README.md")),
    *sorted(DOCS.glob("*.md")),
)
PROMPT = "$ "
"""Before a command whose output the page shows."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str = r"\w*") -> list[str]:
    """Code blocks in that language; `sh`: commands that a test runs in their order; none: that it only reads."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[str]:
    """With lines that end in a backslash joined."""
    return block.replace("\\\n", " ").splitlines()


def launcher_commands(page: Path) -> Iterator[list[str]]:
    """Arguments of every `launcher` in a code block, however it is started. Not those with [placeholders]."""
    for block in blocks(page):
        for line in lines_of(block):
            is_meant = re.match(r"(\$ )?(launcher|accelerate|torchrun|python|ACCELERATE_USE_CPU=\S+) ", line)
            if is_meant and "[key" not in line and " [--" not in line:
                words = shlex.split(line.removeprefix(PROMPT).partition(" > ")[0], comments=True)
                if words[0] == "launcher":
                    yield words[1:]
                elif "launcher" in words and words[words.index("launcher") - 1] == "-m":
                    yield words[words.index("launcher") + 1 :]


def type_command(line: str, folder: Path) -> Ended:
    """`launcher` by a fork that has imported everything, anything else by a shell."""
    words = shlex.split(line)
    if words[0] != "launcher":
        return type_in_shell(line, folder)
    arguments, to = (words[1:-2], words[-1]) if words[-2] == ">" else (words[1:], "")
    expanded = [path for word in arguments for path in _expand(word, folder)]
    ended = run(*expanded, cwd=folder)
    if to:
        (folder / to).write_text(ended.out)
    return ended


def _expand(word: str, folder: Path) -> list[str]:
    """As a shell does with `*`."""
    if "*" not in word:
        return [word]
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(word)) or [word]


def type_in_shell(line: str, folder: Path) -> Ended:
    """With this environment's programs, and a port that no other test has."""
    line = line.replace("accelerate launch", f"accelerate launch --main_process_port {free_port()}")
    shell = {**environment(), "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    del shell["ACCELERATE_USE_CPU"]
    ended = subprocess.run(line, shell=True, cwd=folder, env=shell, capture_output=True, text=True, timeout=240)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def run_page(page: Path, folder: Path) -> None:
    """All `sh` commands of a page, one after the other, in a folder with `recipes` and what the page tells to make."""
    for block in blocks(page, "sh"):
        for line in lines_of(block):
            ended = type_command(line, folder)
            assert ended.code == 0, f"{name_of(page)}: {line}\n{ended.out}{ended.err}"
