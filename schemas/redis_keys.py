"""Names of the keys in Redis, and the version string that orders a user's lists.

The braces are literal: Redis Cluster hashes what is between the first pair only, so that a user's keys share
a slot. Ids are percent-encoded like in `schemas.ids.user_key`; other tenants than the default are prefixed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.ids import escape_id
from schemas.records import DEFAULT_TENANT

MODEL_CURRENT: Final = "model:current"
MODEL_WORKERS: Final = "model:workers"
SIMILARITY_ITEMS: Final = "similarity:items"
SIMILARITY_LIVE: Final = "similarity:live"
VERSION_WIDTH: Final = 32


class UserKeys(NamedTuple):
    """A user's four keys, in the order in which the list store's function takes them."""

    rec: str
    meta: str
    session: str
    features: str


def _prefix(tenant: str) -> str:
    return "" if tenant == DEFAULT_TENANT else f"t:{escape_id(tenant)}:"


def _tagged(escaped_id: str, hash_tags: bool) -> str:
    return f"{{{escaped_id}}}" if hash_tags else escaped_id


def user_keys(tenant: str, user_id: str, hash_tags: bool = True) -> UserKeys:
    """The keys of a user.

    Examples
    --------
    >>> user_keys("default", "u1").rec, user_keys("acme", "u1", hash_tags=False).meta
    ('usr:rec:{u1}', 't:acme:usr:rec:meta:u1')
    """
    return _user_keys(_prefix(tenant), escape_id(user_id), hash_tags)


def keys_of_user_key(key: str, hash_tags: bool = True) -> UserKeys:
    """The same from a Kafka key (`schemas.ids.user_key`), whose parts are percent-encoded already.

    Examples
    --------
    >>> keys_of_user_key("acme/a%2Fb") == user_keys("acme", "a/b")
    True
    """
    tenant, _, escaped_id = key.partition("/")
    return _user_keys("" if tenant == DEFAULT_TENANT else f"t:{tenant}:", escaped_id, hash_tags)


def _user_keys(prefix: str, escaped_id: str, hash_tags: bool) -> UserKeys:
    tagged = _tagged(escaped_id, hash_tags)
    return UserKeys(
        f"{prefix}usr:rec:{tagged}",
        f"{prefix}usr:rec:meta:{tagged}",
        f"{prefix}user_session:{tagged}",
        f"{prefix}user_features:{tagged}",
    )


def item_sim_key(tenant: str, item_id: str, hash_tags: bool = True) -> str:
    """ZSET of similar items.

    Examples
    --------
    >>> item_sim_key("default", "i/1")
    'item:sim:{i%2F1}'
    """
    return f"{_prefix(tenant)}item:sim:{_tagged(escape_id(item_id), hash_tags)}"


def item_bought_key(tenant: str, item_id: str, hash_tags: bool = True) -> str:
    """ZSET of what is bought in one session with an item: P(bought too | item bought)."""
    return f"{_prefix(tenant)}item:bought:{_tagged(escape_id(item_id), hash_tags)}"


def item_features_key(tenant: str, item_id: str, hash_tags: bool = True) -> str:
    """HASH of an item's features, with `in_stock`."""
    return f"{_prefix(tenant)}item_features:{_tagged(escape_id(item_id), hash_tags)}"


def trending_key(scope: str, tenant: str = DEFAULT_TENANT) -> str:
    """ZSET of decayed popularity; scope `overall`, a category or a country.

    Examples
    --------
    >>> trending_key("overall")
    'trending:overall'
    """
    return f"{_prefix(tenant)}trending:{escape_id(scope)}"


def edge_budget_key(key: str, topic_prefix: str = "", hash_tags: bool = True) -> str:
    """HASH of what a user of the federate job has spent, from the Kafka key (`schemas.ids.user_key`).

    Examples
    --------
    >>> edge_budget_key("default/u1"), edge_budget_key("acme/u1", "test-", hash_tags=False)
    ('edge:budget:{default/u1}', 'edge:budget:test-acme/u1')
    """
    return f"edge:budget:{topic_prefix}{_tagged(key, hash_tags)}"


def stats_key(job: str, topic_prefix: str = "") -> str:
    """HASH of a job's counters, in the deployment whose topics have this prefix.

    Examples
    --------
    >>> stats_key("recommend"), stats_key("recommend", "test-")
    ('stats:recommend', 'stats:test-recommend')
    """
    return f"stats:{topic_prefix}{job}"


class Version(NamedTuple):
    """What orders a user's lists, most significant first."""

    generation: int
    offset: int
    control_seq: int


def format_version(generation: int, offset: int, control_seq: int) -> str:
    """`_v`: hexadecimal of fixed width, so that newer is greater as a string.

    Parameters
    ----------
    generation
        0 to 2^16 - 1, raised by the operator for a reprocess.
    offset
        Kafka offset of the user's newest event, 0 to 2^63 - 1.
    control_seq
        Counts the orders and refreshes since that event, 0 to 2^48 - 1.

    Examples
    --------
    >>> format_version(1, 255, 2)
    '000100000000000000ff000000000002'
    """
    if not (0 <= generation < 1 << 16 and 0 <= offset < 1 << 63 and 0 <= control_seq < 1 << 48):
        raise ValueError(
            f"version: wanted generation < 2^16, offset < 2^63, control_seq < 2^48, none negative, "
            f"got {generation}, {offset}, {control_seq}"
        )
    return f"{generation:04x}{offset:016x}{control_seq:012x}"


def parse_version(version: str) -> Version:
    """The parts of a `_v`.

    Examples
    --------
    >>> parse_version("000100000000000000ff000000000002")
    Version(generation=1, offset=255, control_seq=2)
    """
    if len(version) != VERSION_WIDTH:
        raise ValueError(f"version: wanted {VERSION_WIDTH} hexadecimal digits, got {version!r}")
    return Version(int(version[:4], 16), int(version[4:20], 16), int(version[20:], 16))
