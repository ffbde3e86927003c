"""The privacy budget of one enrolled user: state and step.

Keyed by the pseudonym under which a user enrolled, not by the device: five devices of a user share one budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import ceil, floor, isfinite
from struct import Struct
from typing import Final, NamedTuple

from schemas.records import Control, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.line_settings import LineSettings
from udfs.privacy.gaussian import epsilon_of, mu_of
from udfs.recency_set import find

FORMAT: Final = 1
MAX_LINES: Final = 16
MAX_RECENT: Final = 32
RECENT_BYTES: Final = 8
MU_SQUARE_UNITS: Final = 1 << 40
"""Mu squared is counted in whole units and rounded up: no drift, the same sum in any order, never too low."""
_UNLIMITED: Final = (1 << 62) - 1

_HEADER: Final = Struct("<BBBBqQQI")
_MARK: Final = Struct("<8sq")
MAX_LEDGER_BYTES: Final = _HEADER.size + MAX_LINES * _MARK.size + MAX_RECENT * RECENT_BYTES


class BudgetLedger(NamedTuple):
    """What one user has spent.

    Attributes
    ----------
    epoch
        Budget epoch, counted from 1970 in the length of an epoch.
    spent, spent_ever
        Mu squared in `MU_SQUARE_UNITS`, in this epoch and since the row was made.
    contributions
        Accepted in this epoch.
    revoked
        Whether the user took consent back.
    last_versions
        Hash of a line (8 bytes) and the newest base version contributed to.
    recent
        8-byte names of the newest accepted updates, oldest first.
    """

    epoch: int
    spent: int = 0
    spent_ever: int = 0
    contributions: int = 0
    revoked: bool = False
    last_versions: tuple[tuple[bytes, int], ...] = ()
    recent: bytes = b""

    def encode(self) -> bytes:
        """Versioned bytes, at most `MAX_LEDGER_BYTES`.

        Examples
        --------
        >>> ledger = BudgetLedger(3, 5, 9, 1, True, ((b"linehash", 7),), b"recent01")
        >>> BudgetLedger.decode(ledger.encode()) == ledger, len(ledger.encode())
        (True, 56)
        """
        header = _HEADER.pack(
            FORMAT,
            self.revoked,
            len(self.last_versions),
            len(self.recent) // RECENT_BYTES,
            self.epoch,
            self.spent,
            self.spent_ever,
            self.contributions,
        )
        return header + b"".join(_MARK.pack(*mark) for mark in self.last_versions) + self.recent

    @classmethod
    def decode(cls, blob: bytes) -> BudgetLedger:
        """Read a blob.

        Raises
        ------
        ValueError
            For bytes of another format, or of another length than they say.
        """
        if blob[:1] != bytes([FORMAT]):
            raise ValueError(f"budget ledger: wanted format {FORMAT}, got {blob[:1].hex() or 'nothing'}")
        _, revoked, n_lines, n_recent, epoch, spent, spent_ever, contributions = _HEADER.unpack_from(blob)
        middle = _HEADER.size + n_lines * _MARK.size
        if len(blob) != middle + n_recent * RECENT_BYTES:
            raise ValueError(
                f"budget ledger: wanted {middle + n_recent * RECENT_BYTES} bytes, got {len(blob)}"
            )
        marks = tuple((mark, version) for mark, version in _MARK.iter_unpack(blob[_HEADER.size : middle]))
        return cls(epoch, spent, spent_ever, contributions, bool(revoked), marks, blob[middle:])


class LedgerStep(NamedTuple):
    """What a step made.

    Attributes
    ----------
    ledger
        The next state; None: nothing is known of the user.
    accepted
        Whether the update goes on to its model line.
    refused
        Why not, for the dead letters; None for a repeat, which is dropped.
    counts
        Names of counters to raise by one.
    """

    ledger: BudgetLedger | None
    accepted: bool = False
    refused: Refused | None = None
    counts: tuple[str, ...] = ()


class BudgetLogic:
    """The keyed logic of one user's budget.

    **State** `BudgetLedger`, at most `MAX_LEDGER_BYTES` bytes.

    **Forgets** a row one whole epoch after its epoch ended, never before; the next update finds the same,
    whether a timer fired or not. A revoked row is never forgotten, for it keeps later updates out. An erased
    user's row is revoked, not deleted, or a new enrolment under the same pseudonym would spend the budget
    twice. No state time-to-live may be set on it.

    **Order** At most one contribution of a user to a line and base version, and none to an older one: two of
    a user in one sum would double its sensitivity. So an update that comes again can never count twice, also
    behind the `MAX_RECENT` repeats that are told from refusals. Charges are whole numbers, and the epoch
    never goes back: a late update is charged to the epoch that is open.

    **Charges** on acceptance, also if the line then refuses the update or its cohort is never released. In
    local mode the loss happens on the device, when it sends: this ledger limits what is learnt, the device's
    own (`clients.edge.budget`) limits what is lost.

    Parameters
    ----------
    lines
        The model lines; all spend from one budget, since budgets side by side add up.
    budget_epsilon, delta
        The budget of one epoch; infinite: all is accepted.
    epoch_ms
        Length of an epoch in event time. Over n epochs a user's mu squared may be n times that of one.
    """

    def __init__(
        self, lines: Mapping[str, LineSettings], budget_epsilon: float, delta: float, epoch_ms: int
    ) -> None:
        if len(lines) > MAX_LINES:
            raise ValueError(f"lines: wanted at most {MAX_LINES}, got {len(lines)}")
        self.delta = delta
        self.budget_epsilon = budget_epsilon
        self._epoch_ms = epoch_ms
        self._lines = {name: (_name8(name.encode()), charge_of(line.mu)) for name, line in lines.items()}
        self._terms = {name: (str(line.mode), line.noise_multiplier) for name, line in lines.items()}
        self._budget = (
            floor(mu_of(budget_epsilon, delta) ** 2 * MU_SQUARE_UNITS)
            if isfinite(budget_epsilon)
            else _UNLIMITED
        )

    def on_update(self, ledger: BudgetLedger | None, update: EdgeUpdate, at_ms: int) -> LedgerStep:
        """Charge an update that `check_update` let through, or refuse it.

        Parameters
        ----------
        at_ms
            Time of the Kafka record as the broker stamped it; a device must not choose its epoch.
        """
        if update.consent != "personalization":
            return _refuse(
                ledger, "consent_missing", f"consent: wanted personalization, got {update.consent}"
            )
        if ledger is not None and ledger.revoked:
            return _refuse(ledger, "revoked", "the user took consent back")
        known = self._lines.get(update.model_line)
        if known is None:
            return _refuse(
                ledger, "unknown_line", f"model_line: wanted one of {', '.join(sorted(self._lines))}"
            )
        if (update.mode, update.noise_multiplier) != self._terms[update.model_line]:
            return _refuse(ledger, "wrong_terms", "mode or noise: not those of the line")
        ledger = self._in_epoch(ledger, at_ms)
        line, charge = known
        name = _name8(f"{update.client_id}\0{update.base_version}\0{update.update_id}".encode())
        if find(ledger.recent, name) >= 0:
            return LedgerStep(ledger, counts=("duplicate",))
        versions = dict(ledger.last_versions)
        if update.base_version <= versions.get(line, -1):
            return _refuse(
                ledger,
                "already_contributed",
                f"base_version: wanted above {versions[line]}, got {update.base_version}",
            )
        if ledger.spent + charge > self._budget and self._budget != _UNLIMITED:
            return _refuse(
                ledger, "budget_spent", f"epsilon of the epoch: wanted at most {self.budget_epsilon:g}"
            )
        versions[line] = update.base_version
        charged = ledger._replace(
            spent=min(ledger.spent + charge, _UNLIMITED),
            spent_ever=min(ledger.spent_ever + charge, _UNLIMITED),
            contributions=ledger.contributions + 1,
            last_versions=tuple(versions.items()),
            recent=(ledger.recent + name)[-RECENT_BYTES * MAX_RECENT :],
        )
        return LedgerStep(charged, True, None, ("accepted",))

    def on_control(self, ledger: BudgetLedger | None, control: Control, at_ms: int) -> LedgerStep:
        """Obey an order about this user: consent taken back or given again, or the user erased.

        What was spent stays spent. What lies in a sum stays there: a sum cannot tell whose is whose, and the
        charge covers it.
        """
        takes_back = control.kind == "erase_user" or (
            control.kind == "set_consent" and control.consent != "personalization"
        )
        if takes_back:
            return LedgerStep(
                self._in_epoch(ledger, at_ms)._replace(revoked=True), counts=("consent_revoked",)
            )
        if control.kind == "set_consent" and ledger is not None and ledger.revoked:
            return LedgerStep(ledger._replace(revoked=False), counts=("consent_given",))
        return LedgerStep(ledger)

    def on_wake(self, ledger: BudgetLedger | None, clock_ms: int) -> LedgerStep:
        """Forget a row whose epoch is long over. When this runs changes no later verdict."""
        if ledger is not None and not ledger.revoked and clock_ms // self._epoch_ms > ledger.epoch + 1:
            return LedgerStep(None, counts=("forgotten",))
        return LedgerStep(ledger)

    def forget_at_ms(self, ledger: BudgetLedger) -> int:
        """When to call `on_wake`."""
        return (ledger.epoch + 2) * self._epoch_ms

    def epsilon_spent(self, ledger: BudgetLedger) -> float:
        """Epsilon at delta of this epoch's contributions, never below what they cost."""
        return epsilon_of((ledger.spent / MU_SQUARE_UNITS) ** 0.5, self.delta)

    def _in_epoch(self, ledger: BudgetLedger | None, at_ms: int) -> BudgetLedger:
        epoch = at_ms // self._epoch_ms
        if ledger is None or (epoch > ledger.epoch + 1 and not ledger.revoked):  # as `on_wake` forgets
            return BudgetLedger(epoch)
        if epoch > ledger.epoch:
            return ledger._replace(epoch=epoch, spent=0, contributions=0)
        return ledger


def charge_of(mu: float) -> int:
    """Whole units of mu squared, rounded up.

    Examples
    --------
    >>> charge_of(0.25) / MU_SQUARE_UNITS
    0.0625
    """
    return min(ceil(mu * mu * MU_SQUARE_UNITS), _UNLIMITED) if isfinite(mu) else _UNLIMITED


def _name8(text: bytes) -> bytes:
    return blake2b(text, digest_size=RECENT_BYTES).digest()


def _refuse(ledger: BudgetLedger | None, reason: str, detail: str) -> LedgerStep:
    return LedgerStep(ledger, False, Refused(reason, detail), (reason,))
