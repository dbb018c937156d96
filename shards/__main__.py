"""`python -m shards`."""

import os
import sys

from shards.cli import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after an interrupt inside text that a library executed, Python ends by the signal all the same.
    os._exit(code)
