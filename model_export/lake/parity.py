"""Whether the states that lists were made from can be made again from the lake, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_export.lake.files import files_of, read
from model_export.sources.lake import SCHEMA_IDS, decoded, orders
from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import ServedList
from schemas.refusal import Refused
from schemas.topics import CREDITS, EVENTS, SERVED
from schemas.validation import effective_time
from udfs.item_factors import ItemFactors
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState
from udfs.user_vector import refresh_embedding

_SHOWN = 5


@dataclass(frozen=True)
class Parity:
    """What came of comparing.

    Parameters
    ----------
    lists
        Served lists in the lake.
    equal
        Of these, the state was made again bit for bit.
    differ
        Field of the state to how often it was another.
    not_compared
        Reason to count: users with orders or credits, whose place among the events the lake does not tell;
        lists of an epoch that is not here; lists whose newest event is not in the lake.
    examples
        User key and version of the first that differ.
    """

    lists: int
    equal: int
    differ: Mapping[str, int]
    not_compared: Mapping[str, int]
    examples: tuple[tuple[str, str], ...]

    @property
    def share_equal(self) -> float | None:
        """Of the lists that were compared; None if none was."""
        compared = self.lists - sum(self.not_compared.values())
        return self.equal / compared if compared else None


def compare(
    lake: Path,
    settings: LogicSettings,
    factors: Callable[[int], ItemFactors | None],
    generation: int,
    tell: Callable[[int], None] = lambda events: None,
) -> Parity:
    """Run the lake's events through the keyed logic, and compare with the snapshots of the lists it led to.

    Parameters
    ----------
    lake
        Its folder.
    settings
        The job's.
    factors
        Of an epoch; None where its bundle is not here.
    generation
        Lists of others are left out: they were made of other events.
    tell
        Called now and then with the number of events that ran.

    Notes
    -----
    The epoch in force at an event is not in the log. It is taken from the user's next list; where a list was made
    under another epoch than the events before it, the interests may differ.
    """
    wanted, skipped = _served(lake, generation)
    total = sum(map(len, wanted.values())) + sum(skipped.values())
    apart = {key for _, key, _ in orders(lake, Codec(SCHEMA_IDS))}
    apart |= {(record.key or b"").decode(errors="replace") for record in read(files_of(lake, CREDITS.name))}
    for key in apart & wanted.keys():
        skipped["has_orders_or_credits"] += len(wanted.pop(key))
    for key, lists in wanted.items():
        here = {place: list_ for place, list_ in lists.items() if factors(list_.epoch) is not None}
        skipped["epoch_not_here"] += len(lists) - len(here)
        wanted[key] = here
    codec, states = Codec(SCHEMA_IDS), dict[str, UserState | None]()
    equal, differ, examples = 0, Counter[str](), []
    for number, record in enumerate(read(files_of(lake, EVENTS.name))):
        if number % 20_000 == 0:
            tell(number)
        event = decoded(record, codec)
        if isinstance(event, str):
            continue
        key = user_key(event.tenant, event.user_id)
        lists = wanted.get(key)
        if not lists:
            continue
        epoch = next(iter(lists.values())).epoch
        known = factors(epoch)
        logic = UserLogic(settings, {} if known is None else {epoch: known})
        place = Position(record.partition, record.offset)
        state = logic.on_event(states.get(key), event, effective_time(event)[0], place, epoch).state
        states[key] = state
        served = lists.pop((record.partition, record.offset), None)
        if served is None or state is None or known is None:
            continue
        made = refresh_embedding(state, known, epoch)
        if made.encode() == served.snapshot:
            equal += 1
            continue
        examples.append((key, served.version))
        other = UserState.decode(served.snapshot)
        differ.update(name for name in UserState._fields if getattr(made, name) != getattr(other, name))
    skipped["event_not_in_the_lake"] += sum(map(len, wanted.values()))
    kept = {reason: count for reason, count in sorted(skipped.items()) if count}
    return Parity(total, equal, dict(differ.most_common()), kept, tuple(examples[:_SHOWN]))


def _served(lake: Path, generation: int) -> tuple[dict[str, dict[tuple[int, int], ServedList]], Counter[str]]:
    """Return user key to the place of the newest event of each list, to the list."""
    codec, found, skipped = (
        Codec({3: "ServedList"}),
        dict[str, dict[tuple[int, int], ServedList]](),
        Counter[str](),
    )
    for record in read(files_of(lake, SERVED.name)):
        try:
            served = codec.decode("ServedList", record.value or b"")
        except Refused:
            skipped["unreadable"] += 1
            continue
        assert isinstance(served, ServedList)
        if int(served.version[:4], 16) != generation:
            skipped["another_generation"] += 1
        elif not served.snapshot:
            skipped["no_snapshot"] += 1
        else:
            state = UserState.decode(served.snapshot)
            lists = found.setdefault(user_key(served.tenant, served.user_id), {})
            place = (state.newest_partition, state.newest_offset)
            if place in lists:  # ranked again from the same state, or logged again after a failure
                skipped["same_state_again"] += 1
            lists[place] = served
    return found, skipped
