"""Thompson sampling with a linear Gaussian posterior an arm: each is played as likely as it is the best here.

In one context the arms' rewards are independent normal variables, and that one of them is the greatest is an
integral over one dimension. It is summed, not sampled: at `CELLS` midpoints over +-6.5 standard deviations. The
integrand is log-concave, so it rises and falls once, and its peak is at most .399: the sum is off by at most
.399 * 13 / CELLS = .0026, before the sum over all arms is brought to 1. It comes near that only where one posterior
is far narrower than another. What is drawn is drawn from these numbers: a logged propensity is exact all the same.

Source: Agrawal and Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udfs.bandits.linear_arms import LinearArms, LinearPolicy
from udfs.bandits.shares import mix_with_floor
from udfs.kernel_cache import kernel

CELLS: Final = 2_048
_REACH: Final = 6.5
_LEAST: Final = 1e-9  # a spread: narrower ones are all the same step


@dataclass(frozen=True)
class ThompsonLinear(LinearPolicy):
    """The policy, with the parameters of `LinearPolicy`: `width` is the paper's v, `ridge` the prior's precision.

    Parameters
    ----------
    cells
        Of the sum; fewer cost less and are coarser, see above.

    Examples
    --------
    >>> policy = ThompsonLinear(2, dim=1, floor=0.0)
    >>> policy.probabilities(policy.start(), np.ones(1)).tolist()
    [0.5, 0.5]
    """

    width: float = 0.3
    cells: int = CELLS

    def probabilities(self, state: LinearArms, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `udfs.bandits.policy.Policy`."""
        mean, spread = state.scores(context, self.ridge)
        spread = np.maximum(self.width * spread, _LEAST)
        rows = greatest_rows(mean.reshape(-1, self.arms), spread.reshape(-1, self.arms), self.cells)
        return mix_with_floor(rows.reshape(mean.shape), self.floor)


@kernel
def greatest(mean: NDArray[np.float64], spread: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Return how likely each of K independent normal variables is the greatest, up to a common factor near 1.

    Parameters
    ----------
    mean, spread
        float64 (K,); spreads above 0.
    cells
        Midpoints of the sum.
    """
    arms = len(mean)
    step = 2.0 * _REACH / cells
    result = np.zeros(arms)
    for cell in range(cells):
        z = -_REACH + (cell + 0.5) * step
        density = math.exp(-0.5 * z * z) * step / math.sqrt(2.0 * math.pi)
        for arm in range(arms):
            product = density
            at = mean[arm] + spread[arm] * z
            for other in range(arms):
                if other != arm:
                    product *= 0.5 * math.erfc((mean[other] - at) / (spread[other] * math.sqrt(2.0)))
            result[arm] += product
    return result


@kernel
def greatest_rows(mean: NDArray[np.float64], spread: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Return `greatest` of each row, float64 (U, K)."""
    result = np.empty(mean.shape)
    for row in range(len(mean)):
        result[row] = greatest(mean[row], spread[row], cells)
    return result


def greatest_slowly(
    mean: NDArray[np.float64], spread: NDArray[np.float64], cells: int
) -> NDArray[np.float64]:
    """Return what `greatest` does, in the words of the formula."""
    edges = np.linspace(-_REACH, _REACH, cells + 1)
    z = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    normal = np.vectorize(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2)
    result = []
    for arm in range(len(mean)):
        x = mean[arm] + spread[arm] * z
        below = [normal((x - mean[other]) / spread[other]) for other in range(len(mean)) if other != arm]
        result.append((density * np.prod(below, axis=0)).sum() * (z[1] - z[0]))
    return np.array(result)
