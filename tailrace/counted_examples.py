"""What variants of experiments earned, example by example: each list once, and each user's own totals beside."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from xxhash import xxh3_64_intdigest

from schemas.ids import user_key
from schemas.records import Example
from udfs.experiments.variant_sums import Label, UserTotals, VariantSums, count


class CountedExamples:
    """The sums of variants, and what is kept so that another example can be added to them.

    Parameters
    ----------
    names
        Of the experiments that count; None: all.
    most_users
        Users who come later are not taken in, of any variant. Each is some 250 bytes. None: all are.
    most_ids
        Lists that are known to be counted, the newest: a repeat behind as many others counts again. None: all.

    Attributes
    ----------
    sums
        Experiment and variant to what it earned.
    """

    def __init__(
        self,
        names: Collection[str] | None = None,
        most_users: int | None = None,
        most_ids: int | None = None,
    ) -> None:
        self.sums: dict[Label, VariantSums] = {}
        self._names, self._most_users, self._most_ids = names, most_users, most_ids
        self._users: dict[int, dict[Label, UserTotals]] = {}
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def take(self, example: Example) -> None:
        """Add an example, if it is one of an experiment that counts and its list is new."""
        names = self._names
        if names is not None and not any(name in example.variant for name in names):
            return  # of no other is anything kept
        if not self._is_new(xxh3_64_intdigest(example.rec_id)):
            return
        user = xxh3_64_intdigest(user_key(example.tenant, example.user_id))
        if user not in self._users and len(self._users) == self._most_users:
            return
        totals, changes = count(example, self._users.get(user, {}))
        own = {label: one for label, one in totals.items() if names is None or label[0] in names}
        if own:
            self._users[user] = own
        for label in own.keys() & changes.keys():
            self.sums[label] = self.sums.get(label, VariantSums()).merge(changes[label])

    def _is_new(self, rec_id: int) -> bool:
        if rec_id in self._seen:
            return False
        self._seen.add(rec_id)
        if self._most_ids is not None:
            self._order.append(rec_id)
            if len(self._order) > self._most_ids:
                self._seen.discard(self._order.popleft())
        return True


def sum_variants(examples: Iterable[Example]) -> dict[Label, VariantSums]:
    """Return what each variant of each experiment earned."""
    counted = CountedExamples()
    for example in examples:
        counted.take(example)
    return counted.sums
