"""`python -m shards`."""

import os
import sys

from shards.cli import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after an interrupt inside code that a library executes from text, Python dies of the signal anyway.
    os._exit(code)
