"""The optional sequential network of a bundle: a user's last items in, a vector out, as an ONNX graph.

Its answers must not depend on who else is ranked, and a matrix product may group its additions by the number of
rows. So it is always run with `GROUP` rows: `check` compares a row in every place of a group, bit for bit.

Source: Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.model.onnx_graph import read_graph
from udfs.model.refusal import BundleRefused
from udfs.ranking.inner_product import padded_columns
from udfs.ranking.onnx_session import CPU, PROVIDERS, open_session

LENGTH = 20
"""Items of a user that it reads, the newest."""
GROUP = 16
MOST_ITEMS = 8_000
"""Items that it knows, so that scoring all of them stays cheap."""
MAX_WIDTH = 256
TOLERANCE = 1e-5
OPERATORS = frozenset({":GRU", ":Gather", ":Squeeze", ":Transpose"})
_EXACT = {"CUDAExecutionProvider": {"use_tf32": "0"}}  # else products keep 10 bits


class SequenceArrays(NamedTuple):
    """What a bundle holds of a network beside its graph.

    Attributes
    ----------
    rows
        int32 (v,): the items that it knows, as rows of the epoch, ascending.
    vectors
        float32 (v, h): an item's score is its inner product with the network's output.
    canary_tokens, canary_lengths, canary_states
        int64 (q, 20), int32 (q,), float32 (q, h): what the trainer's own library answers.
    """

    rows: NDArray[np.int32]
    vectors: NDArray[np.float32]
    canary_tokens: NDArray[np.int64]
    canary_lengths: NDArray[np.int32]
    canary_states: NDArray[np.float32]


class SequenceNetwork:
    """One loaded graph, and the vectors of the items that it knows.

    Parameters
    ----------
    model
        A serialised graph, already verified by its hash: ``tokens`` int64 (rows, 20), the items' places plus 1,
        oldest first, 0 behind the last; ``lengths`` int32 (rows,), at least 1. One output, float (rows, h).
    rows
        int32 (v,): the items' rows in the epoch, ascending.
    vectors
        float32 (v, h): an item's score is its inner product with the output.
    items
        n of the epoch.
    providers
        ONNX Runtime's execution providers in order of preference; those this machine lacks are left out.

    Raises
    ------
    BundleRefused
        For another graph than that, or rows out of order.
    """

    def __init__(
        self,
        model: bytes,
        rows: NDArray[np.int32],
        vectors: NDArray[np.float32],
        items: int,
        providers: tuple[str, ...] = PROVIDERS,
    ) -> None:
        if not 1 <= len(rows) <= MOST_ITEMS or vectors.shape[1] > MAX_WIDTH:
            raise BundleRefused(
                "too_large",
                f"sequence: wanted 1 to {MOST_ITEMS} items of {MAX_WIDTH} at most, got {vectors.shape}",
            )
        if rows[0] < 0 or rows[-1] >= items or (np.diff(rows) <= 0).any():
            raise BundleRefused("order", f"sequence_rows: must ascend within 0 to {items - 1}")
        read_graph(model, OPERATORS)
        self._session = open_session(model, providers, _EXACT, "sequence: ")
        self.provider: str = self._session.get_providers()[0]
        inputs = {found.name: (found.type, len(found.shape)) for found in self._session.get_inputs()}
        wanted = {"tokens": ("tensor(int64)", 2), "lengths": ("tensor(int32)", 1)}
        if inputs != wanted or len(self._session.get_outputs()) != 1:
            raise BundleRefused("shape", f"sequence: wanted inputs {wanted} and one output, got {inputs}")
        self.rows = rows
        self.vectors = vectors
        self.transposed = padded_columns(np.asarray(vectors, np.float32))
        """float32 (h, padded v): the vectors as `udfs.ranking.inner_product.score_all` wants them."""
        self.tokens = np.zeros(items, np.int64)
        """int64 (n,): what the graph calls each item of the epoch, 0: unknown to it."""
        self.tokens[rows] = np.arange(1, len(rows) + 1)

    def states(self, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return float32 (U, h) for int64 (U, 20) and int32 (U,); a user without items is read as unknown."""
        users = len(lengths)
        padded = -(-users // GROUP) * GROUP
        filled = np.zeros((padded, LENGTH), np.int64)
        filled[:users] = tokens
        counts = np.ones(padded, np.int32)
        counts[:users] = np.maximum(lengths, 1)
        found = np.empty((padded, self.vectors.shape[1]), np.float32)
        for start in range(0, padded, GROUP):
            part = slice(start, start + GROUP)
            result: Any = self._session.run(None, {"tokens": filled[part], "lengths": counts[part]})[0]
            if result.shape != (GROUP, self.vectors.shape[1]):
                raise BundleRefused("shape", f"sequence: wanted {GROUP} vectors, got {result.shape}")
            found[part] = result
        return found[:users]

    def check(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int32], wanted: NDArray[np.float32]
    ) -> float:
        """Compare with what the trainer's own library answers.

        Parameters
        ----------
        tokens, lengths
            int64 (q, 20) and int32 (q,).
        wanted
            float32 (q, h).

        Returns
        -------
        float
            The greatest difference.

        Raises
        ------
        BundleRefused
            ``canary`` beyond `TOLERANCE`, or where a row's answer depends on its place in a group; ``order`` for
            tokens that the graph does not have.
        """
        if tokens.min() < 0 or tokens.max() > len(self.rows) or lengths.min() < 1 or lengths.max() > LENGTH:
            raise BundleRefused(
                "order", f"sequence: wanted tokens 0 to {len(self.rows)} and 1 to {LENGTH} items"
            )
        got = self.states(tokens, lengths)
        worst = float(np.abs(got.astype(np.float64) - wanted).max())
        if not worst <= TOLERANCE:  # NaN too
            raise BundleRefused("canary", f"sequence: vectors differ by {worst:.3g}, allowed {TOLERANCE:g}")
        for shift in range(1, GROUP):
            moved = self.states(np.roll(tokens, shift, axis=0), np.roll(lengths, shift))
            if not np.array_equal(np.roll(moved, -shift, axis=0), got):
                raise BundleRefused("canary", "sequence: a vector depends on the rows beside it")
        return worst


def open_network(
    model: bytes, arrays: SequenceArrays, items: int, providers: tuple[str, ...] = PROVIDERS
) -> SequenceNetwork:
    """Return a network that answers as its trainer's library did, on the CPU where another provider does not.

    Raises
    ------
    BundleRefused
        As for `SequenceNetwork` and its `check`.
    """
    network = SequenceNetwork(model, arrays.rows, arrays.vectors, items, providers)
    try:
        network.check(*arrays[2:])
    except BundleRefused:
        if network.provider in CPU:
            raise
        network = SequenceNetwork(model, arrays.rows, arrays.vectors, items, CPU)
        network.check(*arrays[2:])
    return network
