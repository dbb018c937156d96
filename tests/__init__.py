"""Tests of all. Imported before anything that imports torch."""

import os

# Several run beside one another: threads of torch for every core in each of them would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
