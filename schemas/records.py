"""The records of the topics as tuples with names: field for field what the .avsc files say.

A decoded record holds tuples where Avro has an array; a record to encode may hold any sequence. Times are
milliseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

EVENT_TYPES: Final = (
    "unknown",
    "view",
    "click",
    "add_to_cart",
    "remove_from_cart",
    "purchase",
    "search",
    "impression",
    "rating",
    "dwell",
)
CONSENTS: Final = ("none", "essential", "personalization")
DEFAULT_TENANT: Final = "default"


class EventItem(NamedTuple):
    """One item of an impression or an order."""

    item_id: str
    position: int | None = None


class Event(NamedTuple):
    """One thing a user did."""

    event_id: str
    event_type: str
    tenant: str
    user_id: str
    session_id: str | None
    item_id: str | None
    event_time: int
    received_time: int
    rec_id: str | None
    items: tuple[EventItem, ...]
    value: float | None
    query: str | None
    context: dict[str, str]
    consent: str


class Item(NamedTuple):
    """The state of one catalogue item."""

    item_id: str
    tenant: str
    title: str
    category: str
    brand: str | None
    price: float | None
    in_stock: bool
    blocked: bool
    attributes: Mapping[str, str]
    updated_time: int


class ServedItem(NamedTuple):
    """One slot of a list."""

    item_id: str
    score: float
    source: str
    propensity: float


class ListShare(NamedTuple):
    """A list policy and the probability with which it was drawn."""

    policy: str
    probability: float


class ServedList(NamedTuple):
    """One recommendation list as it was stored for readers."""

    rec_id: str
    tenant: str
    user_id: str
    version: str
    event_time: int
    served_time: int
    epoch: int
    model_version: str
    variant: str
    index_mark: int
    items: Sequence[ServedItem]
    snapshot: bytes
    session_mark: int = 0
    weights_version: int = 0
    posterior_version: int = 0
    source_probabilities: Sequence[float] = ()
    list_policy: str = ""
    list_shares: Sequence[ListShare] = ()


class SessionDelta(NamedTuple):
    """What one event added to a session."""

    tenant: str
    user_id: str
    session_ordinal: int
    session_start: int
    position: int
    item_id: str
    event_type: str
    event_time: int
    previous_items: bytes
    partition: int
    offset: int
    n: int
    country: str = ""


class DeadLetter(NamedTuple):
    """One record that a job refused, with its original bytes."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    reason: str
    detail: str
    job: str


class Control(NamedTuple):
    """One order to the jobs."""

    control_id: str
    kind: str
    tenant: str | None
    user_id: str | None
    epoch: int | None
    consent: str | None
    issued_time: int
    reason: str
    experiments: str | None = None


class Credit(NamedTuple):
    """What one list's source earned from one user."""

    tenant: str
    user_id: str
    rec_id: str
    arm: str
    reward: float
    event_time: int
    credit_id: str
    context: Sequence[int] = ()


class ExampleItem(NamedTuple):
    """One slot of a list that the user saw, and what came of it."""

    item_id: str
    slot: int
    position: int
    source: str
    score: float
    propensity: float
    label: str
    reward: float
    clicked: bool
    carted: bool
    bought: bool
    dwell_s: float
    revenue: float


class Example(NamedTuple):
    """One list that a user saw, with the outcomes credited to its slots."""

    rec_id: str
    tenant: str
    user_id: str
    version: str
    list_time: int
    shown_time: int
    settled_time: int
    epoch: int
    model_version: str
    variant: str
    index_mark: int
    items: Sequence[ExampleItem]
    snapshot: bytes
    source_probabilities: Sequence[float] = ()
    list_policy: str = ""
    list_shares: Sequence[ListShare] = ()


class ModelPointer(NamedTuple):
    """One bundle in the life of the models."""

    model_version: str
    epoch: int
    path: str
    manifest_sha256: str
    created_time: int
    action: str


class EdgeUpdate(NamedTuple):
    """What one device adds to a model."""

    update_id: str
    tenant: str
    user_id: str
    client_id: str
    model_line: str
    base_version: int
    mode: str
    clip_norm: float
    noise_multiplier: float
    dimension: int
    bits: int
    step: int
    payload: bytes
    within_clip: bool | None
    consent: str
    secure: str | None = None
    encryption: str | None = None


class EdgeModel(NamedTuple):
    """One version of a model that devices learn, with the privacy under which it was made."""

    model_line: str
    version: int
    parent: int
    dimension: int
    weights: bytes
    mode: str
    cohort_size: int
    cohort_min: int
    cohort_digest: str
    clip_norm: float
    noise_multiplier: float
    next_clip_norm: float
    adapts_clip: bool
    delta: float
    unit: str
    adjacency: str
    mu: float
    epsilon: float
    budget_epsilon: float
    signal_to_noise: float | None
    clipped_share: float | None
    mean_staleness: float
    max_staleness: int
    seed_key_id: str
    trigger: str
    released_time: int
    encryption: str | None = None


class EdgeCohort(NamedTuple):
    """What the federate job tells those without whom a sum cannot be opened."""

    model_line: str
    cohort: int
    phase: str
    members: Sequence[str]
    threshold: int
    payload: bytes
    told_time: int
    release: bytes | None = None


class LearntPart(NamedTuple):
    """One part of what the session ranker has learnt."""

    part: str
    version: int
    clicks: int
    data: bytes


class ArmPosterior(NamedTuple):
    """The sums of one arm."""

    arm: str
    squares: Sequence[float]
    rewards: Sequence[float]


class Posterior(NamedTuple):
    """What the credits of all users of a tenant say of the arms."""

    tenant: str
    version: int
    credits: int
    newest_day: int
    arms: Sequence[ArmPosterior]


Record = (
    Event
    | Item
    | ServedList
    | SessionDelta
    | DeadLetter
    | Control
    | Credit
    | ModelPointer
    | Example
    | EdgeUpdate
    | EdgeModel
    | EdgeCohort
    | LearntPart
    | Posterior
)

# Name in the schema -> class, of every record that can stand alone in a message.
MESSAGES: Final[dict[str, type[Record]]] = {
    "Event": Event,
    "Item": Item,
    "ServedList": ServedList,
    "SessionDelta": SessionDelta,
    "DeadLetter": DeadLetter,
    "Control": Control,
    "Credit": Credit,
    "ModelPointer": ModelPointer,
    "Example": Example,
    "EdgeUpdate": EdgeUpdate,
    "EdgeModel": EdgeModel,
    "EdgeCohort": EdgeCohort,
    "LearntPart": LearntPart,
    "Posterior": Posterior,
}
# ... and of the records inside them.
PARTS: Final[dict[str, type[EventItem | ServedItem | ListShare | ExampleItem | ArmPosterior]]] = {
    "EventItem": EventItem,
    "ServedItem": ServedItem,
    "ListShare": ListShare,
    "ExampleItem": ExampleItem,
    "ArmPosterior": ArmPosterior,
}
