"""Encrypted heads: what the aggregator adds is the sum, and only the key holder reads it, and only of enough."""

from __future__ import annotations

import numpy as np
import pytest

from clients.edge import encrypted_sum
from clients.edge.encrypted_sum import ERROR, EncryptedSum, EncryptionError, KeyHolder, encrypt, make_keys


@pytest.fixture(scope="module")
def keys():
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: the extra `encryption`")
    return make_keys()


def summed(rows, keys):
    total = EncryptedSum(keys.public)
    for row in rows:
        total.add(encrypt(row, keys.public))
    return total


@pytest.mark.parametrize("dimension", [1, 64, 4_095])
def test_the_sum_that_the_key_holder_opens_is_that_of_the_heads(keys, dimension):
    rows = np.random.default_rng(1).standard_normal((30, dimension))
    count, values = KeyHolder(keys.secret, 30).open(summed(rows, keys).ciphertext())
    assert count == 30
    assert np.abs(values - rows.sum(axis=0)).max() < ERROR


def test_a_sum_of_too_few_heads_stays_closed(keys):
    rows = np.ones((3, 8))
    with pytest.raises(EncryptionError, match="wanted 4 heads or more, got 3"):
        KeyHolder(keys.secret, 4).open(summed(rows, keys).ciphertext())


def test_the_aggregator_has_no_key_and_cannot_decrypt(keys):
    total = summed(np.ones((2, 8)), keys)
    with pytest.raises(ValueError, match="secret"):
        total._total.decrypt()
    with pytest.raises(EncryptionError, match="public one"):
        EncryptedSum(keys.secret)
    assert b"1.0" not in total.ciphertext()


def test_two_encryptions_of_one_head_have_nothing_in_common(keys):
    one, other = (np.frombuffer(encrypt(np.zeros(8), keys.public)[1_000:100_000], np.uint8) for _ in range(2))
    assert (one == other).mean() < 0.02


def test_what_is_no_head_is_refused_with_a_reason(keys):
    total = summed(np.ones((2, 8)), keys)
    for bad in (b"", b"nothing of the kind", encrypt(np.ones(9), keys.public)):
        with pytest.raises(EncryptionError, match="ciphertext"):
            total.add(bad)
    for values in (np.zeros(0), np.zeros(4_096), np.array([np.nan]), np.zeros((2, 2))):
        with pytest.raises(EncryptionError, match="head"):
            encrypt(values, keys.public)
    with pytest.raises(EncryptionError, match="nothing was added"):
        EncryptedSum(keys.public).ciphertext()


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(encrypted_sum, "tenseal", None)
    with pytest.raises(EncryptionError, match=r"tailrace\[encryption\]"):
        make_keys()
