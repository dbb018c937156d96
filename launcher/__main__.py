"""`python -m launcher`, `accelerate launch -m launcher` and the console script `launcher`: the same program."""

from __future__ import annotations

import os
import sys

from launcher.cli.main import run
from launcher.malloc import keep_freed_memory


def main() -> None:
    """Run the command line and end the process.

    By `os._exit`: after a group of gloo processes has been left, the interpreter's own way out aborts now and then
    (torch 2.14), and a W&B thread that hangs would keep a finished run from ending.
    """
    keep_freed_memory()
    code = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
