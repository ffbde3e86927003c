"""The state of a random generator as numbers, so that it can be kept with what was drawn from it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = (1 << 64) - 1


def random_words(random: np.random.Generator) -> NDArray[np.uint64]:
    """Return the state of a PCG64 generator."""
    found: Any = random.bit_generator.state
    if found["bit_generator"] != "PCG64":
        raise ValueError(f"wanted the state of a PCG64, got that of a {found['bit_generator']}")
    state, step = found["state"]["state"], found["state"]["inc"]
    words = [state >> 64, state & _WORD, step >> 64, step & _WORD, found["has_uint32"], found["uinteger"]]
    return np.array(words, np.uint64)


def random_from(words: NDArray[np.uint64]) -> np.random.Generator:
    """Return the generator whose state `random_words` gave."""
    high, low, step_high, step_low, has_half, half = words.tolist()
    made = np.random.default_rng(0)
    made.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": step_high << 64 | step_low},
        "has_uint32": has_half,
        "uinteger": half,
    }
    return made
