"""The `tailrace` command: the local stack, jobs, lists and checks."""

import os
from pathlib import Path

# One folder of compiled kernels for the command and the local workers: training compiles what ranking needs,
# and the first list does not wait for it. Numba reads the variable when it is imported.
os.environ.setdefault(
    "NUMBA_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "tailrace" / "numba"),
)
