"""Compiled steps of the item embeddings: session vectors, similarities, and AdaGrad on the rows that a batch touched.

Dot products may be regrouped by the compiler, for speed: the vectors are learnt where they are used and a replay
learns them anew, so no guarantee rests on their last bit.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel
from udfs.neighbours.scan_arrays import Queries
from udfs.neighbours.scan_kernel import latest_distinct


@kernel
def session_items(
    items: NDArray[np.int32], start: NDArray[np.int64], stop: NDArray[np.int64], out: NDArray[np.int32]
) -> None:
    """Write each session's latest distinct items, newest first, -1 behind them.

    Parameters
    ----------
    items, start, stop
        As in `Queries`.
    out
        int32 (Q, K).
    """
    for q in range(len(start)):
        count = latest_distinct(items, start[q], stop[q], out.shape[1], out[q])
        out[q, count:] = -1


@kernel(fastmath={"reassoc", "contract"})
def session_vectors(
    vectors: NDArray[np.float32],
    weights: NDArray[np.float32],
    sessions: NDArray[np.int32],
    out: NDArray[np.float32],
    shares: NDArray[np.float32],
) -> None:
    """Write the weighted mean of each session's item vectors.

    Parameters
    ----------
    vectors
        float32 (n, d).
    weights
        float32 (K, K): positive weight of the item at a place, newest first, in a session of as many items.
    sessions
        int32 (Q, K): from `session_items`.
    out
        float32 (Q, d).
    shares
        float32 (Q, K): the weights that were used; they add up to one.
    """
    for q in range(len(sessions)):
        count = 0
        while count < sessions.shape[1] and sessions[q, count] >= 0:
            count += 1
        total = np.float32(0.0)
        for k in range(count):
            total += weights[count - 1, k]
        out[q] = 0.0
        shares[q] = 0.0
        for k in range(count):
            share = weights[count - 1, k] / total
            shares[q, k] = share
            row = sessions[q, k]
            for i in range(vectors.shape[1]):
                out[q, i] += share * vectors[row, i]


@kernel(fastmath={"reassoc", "contract"})
def inverse_lengths(vectors: NDArray[np.float32], rows: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """Write one over the length of some vectors.

    Parameters
    ----------
    vectors
        float32 (n, d).
    rows
        int32 (m,): whose length changed; -1: nobody's.
    out
        float32 (n,).
    """
    for row in rows:
        if row < 0:
            continue
        total = np.float32(1e-12)
        for i in range(vectors.shape[1]):
            total += vectors[row, i] * vectors[row, i]
        out[row] = 1.0 / np.sqrt(total)


@kernel(fastmath={"reassoc", "contract"})
def similarities(
    vectors: NDArray[np.float32],
    inverse: NDArray[np.float32],
    sessions: NDArray[np.int32],
    means: NDArray[np.float32],
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    """Write four features a candidate: cosine with session and with last item, and how far each is below the best.

    Parameters
    ----------
    vectors, inverse
        float32 (n, d) and (n,): item vectors, one over their lengths.
    sessions, means
        int32 (Q, K) and float32 (Q, d): from `session_items` and `session_vectors`.
    rows, counts
        int32 (Q, N) and (Q,): candidates.
    out
        float32 (Q, N, 4).
    """
    d = vectors.shape[1]
    for q in range(len(counts)):
        last = sessions[q, 0]
        if last < 0:
            continue
        length = np.float32(1e-12)
        for i in range(d):
            length += means[q, i] * means[q, i]
        scale = np.float32(1.0) / np.sqrt(length)
        most, most_last = np.float32(-2.0), np.float32(-2.0)
        for j in range(counts[q]):
            row = rows[q, j]
            cosine, cosine_last = np.float32(0.0), np.float32(0.0)
            for i in range(d):
                cosine += means[q, i] * vectors[row, i]
                cosine_last += vectors[last, i] * vectors[row, i]
            cosine *= scale * inverse[row]
            cosine_last *= inverse[last] * inverse[row]
            most, most_last = max(most, cosine), max(most_last, cosine_last)
            out[q, j, 0], out[q, j, 1] = 2.0 * cosine, 2.0 * cosine_last
        for j in range(counts[q]):
            out[q, j, 2] = out[q, j, 0] - 2.0 * most
            out[q, j, 3] = out[q, j, 1] - 2.0 * most_last


@kernel(fastmath={"reassoc", "contract"})
def step_rows(
    vectors: NDArray[np.float32],
    squares: NDArray[np.float32],
    rows: NDArray[np.int32],
    gradients: NDArray[np.float32],
    learning_rate: float,
) -> None:
    """Take one AdaGrad step for each row, one second moment a row.

    Parameters
    ----------
    vectors, squares
        float32 (n, d) and (n,): changed.
    rows, gradients
        int32 (m,) and float32 (m, d).
    learning_rate
        Longest step.
    """
    d = vectors.shape[1]
    for m in range(len(rows)):
        row = rows[m]
        square = np.float32(0.0)
        for i in range(d):
            square += gradients[m, i] * gradients[m, i]
        squares[row] += square / d
        step = np.float32(learning_rate) / np.sqrt(squares[row])
        for i in range(d):
            vectors[row, i] -= step * gradients[m, i]


@kernel(fastmath={"reassoc", "contract"})
def step_sessions(
    vectors: NDArray[np.float32],
    squares: NDArray[np.float32],
    sessions: NDArray[np.int32],
    shares: NDArray[np.float32],
    gradients: NDArray[np.float32],
    learning_rate: float,
    place_gradients: NDArray[np.float32],
) -> None:
    """Hand each session vector's gradient to its items, and add up the gradient of the log weights of their places.

    Parameters
    ----------
    vectors, squares
        float32 (n, d) and (n,): changed.
    sessions, shares
        int32 and float32 (B, K): from `session_items` and `session_vectors`.
    gradients
        float32 (B, d): of the session vectors.
    learning_rate
        Longest step.
    place_gradients
        float32 (K, K): added to.
    """
    d, k_most = vectors.shape[1], sessions.shape[1]
    along = np.empty(k_most, np.float32)
    for q in range(len(sessions)):
        square = np.float32(0.0)
        for i in range(d):
            square += gradients[q, i] * gradients[q, i]
        count, mean = 0, np.float32(0.0)
        while count < k_most and sessions[q, count] >= 0:
            row = sessions[q, count]
            value = np.float32(0.0)
            for i in range(d):
                value += gradients[q, i] * vectors[row, i]
            along[count] = value
            mean += shares[q, count] * value
            count += 1
        for k in range(count):
            share, row = shares[q, k], sessions[q, k]
            place_gradients[count - 1, k] += share * (along[k] - mean)
            squares[row] += square * share * share / d
            step = np.float32(learning_rate) * share / np.sqrt(squares[row])
            for i in range(d):
                vectors[row, i] -= step * gradients[q, i]


@kernel
def mask_twins(
    cosines: NDArray[np.float32], clicked: NDArray[np.int32], rows: NDArray[np.int32], temperature: float
) -> None:
    """Divide cosines by the temperature, less the best of their click; the clicked item elsewhere is no negative.

    Parameters
    ----------
    cosines
        float32 (B, M): of each click's session with each row; changed.
    clicked, rows
        int32 (B,) and (M,): column b is click b's own item.
    temperature
        Of the softmax.
    """
    warmth = np.float32(temperature)
    for b in range(len(clicked)):
        most = np.float32(-np.inf)
        for m in range(len(rows)):
            value = cosines[b, m] / warmth
            if rows[m] == clicked[b] and m != b:
                value = np.float32(-np.inf)
            cosines[b, m] = value
            most = max(most, value)
        for m in range(len(rows)):
            cosines[b, m] -= most


@kernel(fastmath={"reassoc"})
def to_errors(weights: NDArray[np.float32], temperature: float) -> None:
    """Make the softmax's weights the gradient of each click's cross entropy by its cosines.

    Parameters
    ----------
    weights
        float32 (B, M): changed; column b is click b's own item.
    temperature
        Of the softmax.
    """
    warmth = np.float32(temperature)
    for b in range(len(weights)):
        total = np.float32(0.0)
        for m in range(weights.shape[1]):
            total += weights[b, m]
        scale = np.float32(1.0) / (total * warmth)
        for m in range(weights.shape[1]):
            weights[b, m] *= scale
        weights[b, b] -= np.float32(1.0) / warmth


def write_cosines(
    vectors: NDArray[np.float32],
    inverse: NDArray[np.float32],
    place_weights: NDArray[np.float32],
    queries: Queries,
    rows: NDArray[np.int32],
    counts: NDArray[np.int32],
    out: NDArray[np.float32],
) -> None:
    """Write the four features of `item_embeddings.EMBEDDING_FEATURES` by given vectors.

    Parameters
    ----------
    vectors, inverse
        float32 (n, d) and (n,): item vectors, one over their lengths.
    place_weights
        float32 (K, K): from `ItemEmbeddings.place_weights`.
    queries
        Q sessions.
    rows, counts
        int32 (Q, N) and (Q,): their candidates.
    out
        float32 (Q, N, 4).
    """
    sessions = latest_items(queries, len(place_weights))
    means, _ = session_means(vectors, place_weights, sessions)
    similarities(vectors, inverse, sessions, means, rows, counts, out)


def latest_items(queries: Queries, most: int) -> NDArray[np.int32]:
    """Return each session's latest distinct items: int32 (Q, most), newest first, -1 behind them."""
    sessions = np.empty((len(queries.start), most), np.int32)
    session_items(queries.items, queries.start, queries.stop, sessions)
    return sessions


def session_means(
    vectors: NDArray[np.float32], place_weights: NDArray[np.float32], sessions: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the session vectors float32 (Q, d), and the weights used float32 (Q, K), as `session_vectors` does."""
    means = np.empty((len(sessions), vectors.shape[1]), np.float32)
    shares = np.empty(sessions.shape, np.float32)
    session_vectors(vectors, place_weights, sessions, means, shares)
    return means, shares
