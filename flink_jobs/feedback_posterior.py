"""The second step of the feedback job: sums of credits in, each tenant's posterior out.

**State** (keyed by the tenant's shard, RocksDB)
    `tenants`: tenant → version published last and sums by day, at most `udfs.bandits.credit_sums.MAX_BYTES` each.
**Forgets**
    A day of credits, `udfs.bandits.credit_sums.KEPT_DAYS` before the newest.
**Order**
    None: sums are whole numbers by day of the credit, and weighed when they are published.
**On replay**
    State comes from the checkpoint; a version published after it was never committed, and is made again.

Each window of sums makes one version, so how often one is published is the window's length. No timer.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from flink_jobs.keyed_shell import KeyedShell, map_state
from schemas.codec import encode
from schemas.records import Posterior
from udfs.bandits.credit_sums import CreditSums

BATCH_TYPE = Types.ROW(
    [Types.OBJECT_ARRAY(Types.STRING()), Types.OBJECT_ARRAY(Types.PRIMITIVE_ARRAY(Types.BYTE()))]
)
"""Tenants of one shard and window, and their sums."""

OUTPUT_TYPE = Types.ROW_NAMED(["key", "payload"], [Types.STRING(), Types.PRIMITIVE_ARRAY(Types.BYTE())])
"""Tenant; the record."""

_VERSION = Struct("<q")


class PosteriorShell(KeyedShell):
    """Add up the credits of a shard's tenants."""

    def open(self, runtime_context: RuntimeContext) -> None:
        """Open state."""
        self._tenants = map_state(runtime_context, "tenants")

    def process_element(self, value: Any, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Add the sums of one window (`BATCH_TYPE`), and publish."""
        more: dict[str, CreditSums] = {}
        for tenant, packet in zip(*value, strict=True):
            more[tenant] = more.get(tenant, CreditSums()).merge(CreditSums.decode(packet))
        for tenant, sums in sorted(more.items()):
            data = self._tenants.get(tenant)
            version = 1
            if data is not None:
                version += _VERSION.unpack_from(data)[0]
                sums = CreditSums.decode(data[_VERSION.size :]).merge(sums)
            self._tenants.put(tenant, _VERSION.pack(version) + sums.encode())
            arms = sums.posterior(self._settings.feedback.posterior_half_life_days)
            yield Row(tenant, encode(Posterior(tenant, version, sums.credits, sums.newest_day, arms)))
