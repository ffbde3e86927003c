"""Encrypted heads: added unread, opened exactly, and only with the secret key."""

from __future__ import annotations

import numpy as np
import pytest

from clients.edge import ckks
from clients.edge.ckks import EncryptionError, HeadEncryption, Keys, SumOpening, make_keys
from schemas.refusal import Refused
from udfs.federate.ciphertext import (
    CIPHERTEXT_BYTES,
    MAX_DIMENSION,
    MAX_HEADS,
    MODULUS,
    add_ciphertexts,
    read_ciphertext,
)


@pytest.fixture(scope="module")
def keys() -> Keys:
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: the extra `encryption`")
    return make_keys()


def summed(heads: list[bytes]) -> bytes:
    total = None
    for head in heads:
        total = add_ciphertexts(total, read_ciphertext(head))
    assert total is not None
    return total.astype("<u8").tobytes()


@pytest.mark.parametrize("dimension", [1, 64, MAX_DIMENSION])
def test_the_opened_sum_is_that_of_the_whole_numbers_and_counts_the_heads(keys: Keys, dimension: int) -> None:
    rows = np.random.default_rng(1).integers(-32_767, 32_768, (30, dimension))
    device = HeadEncryption(keys.public)
    opened = SumOpening(keys.secret).open(summed([device.encrypt(row) for row in rows]), dimension)
    assert opened.tolist() == [*rows.sum(axis=0).tolist(), 30]


def test_the_largest_sum_that_a_line_may_have_is_exact(keys: Keys) -> None:
    """All numbers at their limit and equal: the constant term of the polynomial is then as large as it can be."""
    rows = np.full((4, MAX_DIMENSION), 32_767)
    rows[:, 1::2] *= np.array([1, -1, 1, 1])[:, None]
    device = HeadEncryption(keys.public)
    heads = [device.encrypt(row) for row in rows]
    total, wanted = None, np.zeros(MAX_DIMENSION, np.int64)
    for number in range(MAX_HEADS):
        total = add_ciphertexts(total, read_ciphertext(heads[number % 4]))
        wanted += rows[number % 4]
    assert total is not None
    opened = SumOpening(keys.secret).open(total.astype("<u8").tobytes(), MAX_DIMENSION)
    assert opened.tolist() == [*wanted.tolist(), MAX_HEADS]


def test_the_sum_has_the_same_bytes_in_any_order(keys: Keys) -> None:
    device = HeadEncryption(keys.public)
    heads = [device.encrypt(np.full(8, number)) for number in range(7)]
    assert len({summed(heads), summed(heads[::-1]), summed(heads[3:] + heads[:3])}) == 1


def test_a_ciphertext_looks_like_random_bits_and_never_twice_the_same(keys: Keys) -> None:
    device = HeadEncryption(keys.public)
    one, other = (read_ciphertext(device.encrypt(np.zeros(8, np.int64))) for _ in range(2))
    assert not (one == other).any()
    low = np.concatenate([one, other]).view(np.uint8).reshape(-1, 8)[:, :6]  # 54 bits, and 48 of them here
    counts = np.bincount(low.ravel(), minlength=256)
    expected = counts.sum() / 256
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 255) < 4.0 * (2 * 255) ** 0.5


def test_one_key_opens_and_the_other_does_not(keys: Keys) -> None:
    head = HeadEncryption(keys.public).encrypt(np.arange(8))
    assert SumOpening(keys.secret).open(head, 8).tolist() == [*range(8), 1]
    assert SumOpening(make_keys().secret).open(head, 8).tolist() != [*range(8), 1]
    assert SumOpening(keys.secret).name == HeadEncryption(keys.public).name == keys.name


def test_what_is_no_key_head_or_ciphertext_is_refused_with_a_reason(keys: Keys) -> None:
    for bad in (b"", b"nothing of the kind", keys.secret):
        with pytest.raises(EncryptionError, match="key"):
            HeadEncryption(bad)
    for bad in (b"", keys.public, keys.secret[:1_000]):
        with pytest.raises(EncryptionError, match="key"):
            SumOpening(bad)
    device = HeadEncryption(keys.public)
    for numbers in (
        np.zeros(0, int),
        np.zeros(MAX_DIMENSION + 1, int),
        np.array([32_768]),
        np.zeros((2, 2), int),
    ):
        with pytest.raises(EncryptionError, match="head"):
            device.encrypt(numbers)
    for payload in (
        b"",
        bytes(CIPHERTEXT_BYTES - 1),
        np.full(CIPHERTEXT_BYTES // 8, MODULUS, "<u8").tobytes(),
    ):
        with pytest.raises(Refused):
            SumOpening(keys.secret).open(payload, 8)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckks, "tenseal", None)
    with pytest.raises(EncryptionError, match=r"tailrace\[encryption\]"):
        make_keys()
