"""A process of its own that mirrors a journal to W&B and reports how that went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher.run.wandb import Mode
from tests.harness.runs import Ended
from tests.run.wandb_server import WandbServer

KEY = "0123456789" * 4
PATIENT = 40.0, 40.0, 90.0
"""Seconds to wait for W&B to start, to upload and to finish: a busy machine takes its time."""
IMPATIENT = 2.0, 2.0, 40.0
"""For a server that fails from the beginning."""
DIES_LATER = 40.0, 2.0, 40.0
FREE_S = 1.0
"""Seconds that a record may take, much less than a wait for a server."""
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
import launcher.run.mirror as module
import launcher.run.wandb
from launcher.run.journal import Journal
from launcher.recipe.schema import Wandb

folder, mode, timeouts_s = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
launcher.run.wandb.INIT_TIMEOUT_S, module.UPLOAD_TIMEOUT_S, module.FINISH_TIMEOUT_S = timeouts_s
section = Wandb(project="birds", group="g", job_type="tune", tags=("a", "b"))
config = {"optim": {"lr": 0.1}, "run": {"seed": 3}}
mirror = module.WandbMirror(launcher.run.wandb.RunMetadata("abcd1234", folder, section, config), mode)
journal = Journal(folder, 10, mirror.log)
journal.write("event", 0, name="started", wandb_id="abcd1234")

def log(*steps):
    slowest_s = 0.0
    for step in steps:
        start = time.perf_counter()
        journal.write("train", step, loss=1.0 / step, lr=0.1)
        slowest_s = max(slowest_s, time.perf_counter() - start)
    return slowest_s

def wait_for_mirror():
    while not (mirror._mode_used and mirror._queue.empty()):
        time.sleep(0.05)

def service():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if int(words[1].split()[1]) == os.getpid() and "wandb-core" in words[0]:
            return int(stat.parent.name)

def end(**more):
    start = time.perf_counter()
    failures = mirror.finish(0)
    seconds = time.perf_counter() - start
    print(json.dumps({"failures": failures, "mode": mirror.mode, "finish_s": seconds, "service": service(), **more}))
"""


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """This process's, without variables that W&B reads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "NETRC"))}
    return kept | {"HOME": str(home), "TMPDIR": str(home)} | more


def spawn(
    folder: Path, mode: Mode, body: str, timeouts_s: tuple[float, float, float] = PATIENT, /, **environment: str
) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + body, str(folder), mode, json.dumps(timeouts_s)],
        env=clean_environment(folder.parent, **environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The result that the program printed; nothing else may be printed."""
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    return result


def online(server: WandbServer) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}


def launch(*words: str | Path, cwd: Path, **environment: str) -> Ended:
    """The command line, in a process of its own, which waits a short time for a server."""
    program = (
        "import os, sys, launcher.run.wandb as w, launcher.commands.runs.sync as s; from launcher.cli.main import run; "
        "w.INIT_TIMEOUT_S, w.API_TIMEOUT_S, s.UPLOAD_TIMEOUT_S = 2.0, 2, 20.0; code = run(sys.argv[1:]); "
        "sys.stdout.flush(); sys.stderr.flush(); os._exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=cwd,
        env=clean_environment(cwd, COLUMNS="200", **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
