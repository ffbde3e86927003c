"""A secure sum: exact for those that remain, random to whoever looks at a part, closed below the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.federate.secret_shares import FIELD
from udfs.federate.secure_member import Member
from udfs.federate.secure_sum import GROUP, SecureSumError, unmask
from udfs.privacy.noise_gate import chi_square_quantile

LABEL = b"head/3/cohort-7"
N, THRESHOLD, D = 6, 4, 40


def cohort(seed=0, count=N, threshold=THRESHOLD):
    members = [Member(n, threshold, bytes([seed, n]) * 16, LABEL) for n in range(count)]
    public = {member.number: member.public_keys() for member in members}
    for sender, shares in [(member.number, member.share(public)) for member in members]:
        for other, sealed in shares.items():
            members[other].receive(sender, sealed)
    return members, public


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(1)
    return rng.integers(-(1 << 40), 1 << 40, (N, D))


@given(gone=st.sets(st.integers(0, N - 1), max_size=N - THRESHOLD))
@settings(max_examples=8, deadline=None)
def test_the_sum_is_that_of_the_members_that_remain_whoever_is_gone(gone):
    rows = np.random.default_rng(2).integers(-(1 << 40), 1 << 40, (N, D))
    members, public = cohort()
    masked = {member.number: member.mask(rows[member.number]) for member in members}
    here = {number: vector for number, vector in masked.items() if number not in gone}
    opened = {number: members[number].open(here) for number in here}
    assert unmask(here, opened, public, THRESHOLD, LABEL).tolist() == rows[sorted(here)].sum(axis=0).tolist()


def test_any_threshold_of_the_members_that_remain_can_open(vectors):
    members, public = cohort()
    masked = {number: members[number].mask(vectors[number]) for number in (0, 1, 3, 4, 5)}
    opened = {number: members[number].open(masked) for number in (1, 3, 4, 5)}
    wanted = vectors[[0, 1, 3, 4, 5]].sum(axis=0)
    assert (unmask(masked, opened, public, THRESHOLD, LABEL) == wanted).all()


def test_below_the_threshold_nothing_opens(vectors):
    members, public = cohort()
    masked = {number: members[number].mask(vectors[number]) for number in range(N)}
    three = {number: masked[number] for number in range(THRESHOLD - 1)}
    with pytest.raises(SecureSumError, match="wanted 4 or more members"):
        members[0].open(three)
    opened = {number: members[number].open(masked) for number in range(THRESHOLD - 1)}
    with pytest.raises(SecureSumError, match="wanted 4 members or more"):
        unmask(masked, opened, public, THRESHOLD, LABEL)


def test_shares_of_too_few_members_open_nothing_with_a_guess_for_the_rest():
    """What an aggregator could do with three shares of four: a polynomial through any secret fits them."""
    members, public = cohort()
    masked = {member.number: member.mask(np.zeros(D, np.int64)) for member in members}
    opened = {number: members[number].open(masked) for number in range(THRESHOLD)}
    assert (unmask(masked, opened, public, THRESHOLD, LABEL) == 0).all()
    wrong = {number: opened[number] for number in range(THRESHOLD - 1)}
    with pytest.raises(SecureSumError, match="do not belong together"):
        unmask(masked, wrong | {9: opened[3]}, public, THRESHOLD, LABEL)


def test_a_masked_vector_is_even_random_bits_in_every_byte():
    """Recipe 13: chi-square of the bytes of one message, zeros masked; the low ones and the high ones too."""
    members, _ = cohort()
    message = members[2].mask(np.zeros(40_000, np.int64))
    bytes_of = message.view(np.uint8).reshape(-1, 8)
    low, high = (chi_square_quantile(p, 255) for p in (5e-5, 1 - 5e-5))
    for place in range(8):
        counts = np.bincount(bytes_of[:, place], minlength=256)
        assert low < float(((counts - 156.25) ** 2 / 156.25).sum()) < high


def test_pairwise_masks_alone_would_leave_a_member_bare_if_its_masks_were_opened(vectors):
    """The own mask is what protects a member whose message comes after it was taken for gone."""
    members, public = cohort()
    late = members[5].mask(vectors[5])
    masked = {number: members[number].mask(vectors[number]) for number in range(N - 1)}
    opened = {number: members[number].open(masked) for number in masked}
    total = unmask(masked, opened, public, THRESHOLD, LABEL)
    assert (total == vectors[:5].sum(axis=0)).all()
    with_late = unmask({**masked, 5: late}, {n: one._replace(seeds={**one.seeds, 5: 0}) for n, one in opened.items()},
                       public, THRESHOLD, LABEL)  # fmt: skip
    assert (with_late - total != vectors[5]).all()


def test_a_member_masks_once_and_opens_once(vectors):
    members, _ = cohort()
    members[0].mask(vectors[0])
    with pytest.raises(SecureSumError, match="masks once"):
        members[0].mask(vectors[1])
    members[0].open(range(N))
    with pytest.raises(SecureSumError, match="opens once"):
        members[0].open(range(N - 1))


def test_members_who_were_told_the_same_agree_and_others_do_not():
    members, _ = cohort()
    here, other = range(N - 1), [*range(N - 2), N - 1]
    told = {number: here if number < THRESHOLD - 1 else other for number in range(N)}
    tags = {number: members[number].echo(told[number]) for number in range(N)}
    heard = [
        {sender: made[number] for sender, made in tags.items() if sender != number} for number in range(N)
    ]
    with pytest.raises(SecureSumError, match=f"wanted {THRESHOLD} or more members that were told the same"):
        members[0].agree(here, heard[0])
    same = {number: members[number].echo(here) for number in range(1, THRESHOLD)}
    heard = {number: made[0] for number, made in same.items()}
    members[0].agree(here, heard)
    with pytest.raises(SecureSumError):
        members[0].agree(here, {1: heard[1]} | {number: bytes(16) for number in range(2, N)})
    with pytest.raises(SecureSumError):
        members[0].agree(here, dict.fromkeys(range(1, N), heard[1]))  # a tag is one member's, for one other
    with pytest.raises(SecureSumError):
        members[1].agree(here, heard)


def test_of_one_member_either_the_seed_is_opened_or_the_key():
    members, _ = cohort()
    opened = members[1].open([0, 1, 2, 4])
    assert set(opened.seeds) == {0, 1, 2, 4}
    assert set(opened.keys) == {3, 5}
    assert not set(opened.seeds) & set(opened.keys)
    with pytest.raises(SecureSumError):
        members[2].open([0, 1, 2, 77])


def test_a_share_that_was_changed_on_its_way_is_refused():
    members = [Member(n, 2, bytes([n + 1]) * 32, LABEL) for n in range(3)]
    public = {member.number: member.public_keys() for member in members}
    sealed = members[0].share(public)[1]
    members[1].share(public)
    with pytest.raises(SecureSumError, match="changed"):
        members[1].receive(0, sealed[:5] + bytes([sealed[5] ^ 1]) + sealed[6:])
    with pytest.raises(SecureSumError, match="changed"):
        members[1].receive(0, members[0].share(public)[2])
    with pytest.raises(SecureSumError, match="keys of their own"):
        members[2].share({0: public[0], 1: public[0], 2: public[2]})


def test_another_version_has_other_masks():
    one, other = (Member(0, 2, bytes(32), label).public_keys() for label in (b"head/1", b"head/2"))
    assert one != other


def test_field_and_group_are_the_primes_that_they_are_said_to_be():
    for prime in (FIELD, GROUP, (GROUP - 1) // 2):
        assert pow(3, prime - 1, prime) == 1
    assert GROUP.bit_length() == 2048
