"""The secret of central noise on the local stack: made once, kept beside the state, given to TaskManagers alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

VARIABLE: Final = "TAILRACE_FEDERATE__NOISE_KEY"
KEY_BYTES: Final = 32


def noise_key(home: Path) -> dict[str, str]:
    """Give the variable with the noise key: that of this process, else the stack's own, made if it is not there.

    Parameters
    ----------
    home
        Of the stack. The key goes with the state under it: another key is other noise for a cohort that is
        released again.

    Returns
    -------
    dict
        Name and value of one environment variable.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        path = home / "run" / "noise.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(KEY_BYTES), encoding="utf-8")
            new.rename(path)
        given = path.read_text(encoding="utf-8").strip()
    return {VARIABLE: given}
