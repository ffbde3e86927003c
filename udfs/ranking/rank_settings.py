"""How to rank: sizes, and what may be set by a deployment or a variant of an experiment."""

from dataclasses import dataclass
from typing import Final

from udfs.bandits.list_policy import ListPolicy, check_list_policies
from udfs.bandits.policy import SERVED

THOMPSON: Final = "thompson"
SHARED_CREDITS: Final = 100.0
"""Credits that an arm's shared evidence counts for at most: half as many as a user's own (`udfs.bandit.KEEP`)."""
MAX_NEW_ITEM_SHARE: Final = 0.2
ARRIVALS: Final = 1_000
"""Items unknown to an epoch that a worker ranks beside it at most, and training shows its ranker."""


@dataclass(frozen=True, slots=True)
class RankSettings:
    """How to rank; `flink_jobs.settings.Model` takes its defaults from here.

    `candidates` and `finalists` bound the stages, `diversity` is the weight of category repetition in [0, 1],
    `exploration_floor` the least probability of each of the five arms, `rebuy_after_ms` for how long a bought
    item is not shown. `exploration_policy` decides between the arms, `shared_credits` is what the evidence of all
    users counts for at an arm; `new_item_share` of the slots take an item whose interactions in training weigh at
    most `new_item_weight`. Of `list_policies` each list has one, drawn by `list_rule` with at least `list_floor`;
    empty: lists are made as everything else says.
    """

    candidates: int = 200
    finalists: int = 40
    list_size: int = 10
    diversity: float = 0.15
    exploration_floor: float = 0.01
    rebuy_after_ms: int = 86_400_000
    exploration_policy: str = THOMPSON
    shared_credits: float = SHARED_CREDITS
    new_item_share: float = 0.0
    new_item_weight: float = 20.0
    list_policies: tuple[ListPolicy, ...] = ()
    list_rule: str = THOMPSON
    list_floor: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.list_size <= self.finalists <= self.candidates <= 10_000:
            raise ValueError(
                f"wanted 1 <= list_size <= finalists <= candidates <= 10,000, got {self.list_size}, "
                f"{self.finalists}, {self.candidates}"
            )
        if not 0.0 <= self.diversity <= 1.0:
            raise ValueError(f"diversity: wanted 0 to 1, got {self.diversity}")
        if self.exploration_policy not in SERVED:
            raise ValueError(
                f"exploration_policy: wanted one of {', '.join(SERVED)}, got {self.exploration_policy!r}"
            )
        if not 0.0 <= self.new_item_share <= MAX_NEW_ITEM_SHARE:
            raise ValueError(f"new_item_share: wanted 0 to {MAX_NEW_ITEM_SHARE}, got {self.new_item_share}")
        check_list_policies(self.list_policies, self.list_rule, self.list_floor)
