"""`python -m launcher`, `accelerate launch -m launcher` and the console script `launcher`: the same program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launcher.cli.main import run
from launcher.malloc import keep_freed_memory


def main() -> None:
    """Run the command line and end the process.

    By `os._exit`: the interpreter's own exit aborts now and then after a gloo process group was left (torch 2.14), and
    would wait for a W&B thread that hangs.
    """
    keep_freed_memory()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as by `>&-`
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
