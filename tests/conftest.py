"""One thread a test process: two cores shared by several processes of two threads each wait for one another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
