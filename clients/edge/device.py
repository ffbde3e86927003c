"""A device that learns: from a model version and its own new examples to one update, at most, and no data."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from clients.edge.ckks import HeadEncryption
from clients.edge.device_state import read_state, write_state
from clients.edge.examples import ExampleSource
from clients.edge.logistic_head import Trainer
from clients.edge.outbox import Outbox
from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import DEFAULT_TENANT, EdgeModel, EdgeUpdate
from schemas.refusal import Refused
from udfs.federate.ciphertext import encrypted, number_quantiser
from udfs.federate.line_settings import MAX_CLIP, MIN_CLIP
from udfs.privacy.client_update import privatise
from udfs.privacy.terms import Mode, Terms

KEY_BYTES: Final = 32
CONSENT: Final = "personalization"


class Policy(NamedTuple):
    """What the owner of a device agrees to, whatever a model version asks for.

    Attributes
    ----------
    modes
        Where noise may be added. Local alone by default: nobody is trusted with an unnoised change.
    budget_epsilon, delta
        Budget of an epoch, of this device: it does not know the user's others. In local mode, where the loss
        happens on sending, mu squared of all devices adds up; the job's ledger only stops what is learnt.
    epoch_ms
        Its length.
    least_examples
        New examples below which a training is not worth its privacy.
    """

    modes: tuple[Mode, ...] = (Mode.LOCAL,)
    budget_epsilon: float = 4.0
    delta: float = 1e-5
    epoch_ms: int = 30 * 86_400_000
    least_examples: int = 1


class Device:
    """The edge client.

    **Protects** what `Mode` says of the mode in use: in local mode the user's contributions from everybody; in
    central mode nothing from the operator; in distributed mode it rests on a secure sum and on the other
    devices. In no mode does it hide that the user takes part. The examples never leave.

    **Stores** its ledger before its update, and the update before the first send. A crash between two steps
    wastes budget or repeats the same bytes; it never sends two noises for one contribution.

    Parameters
    ----------
    folder
        Where ledger and outbox are; one device each.
    user_id, client_id
        Pseudonyms: of the enrolled user, whose budget it is, and of the device.
    trainer, examples
        What learns, and from what.
    policy
        What the owner agrees to.
    consent
        What the user has agreed to now; asked before training and before every send.
    encryption
        With the public key that the key holder gave out. Given: nothing leaves that is not encrypted with it,
        whatever a model version asks for. None: the device takes part in no line that wants it.
    clock_ms, new_key, new_id
        For tests: milliseconds since 1970 UTC, and secret random bytes and text.
    """

    def __init__(
        self,
        folder: Path,
        user_id: str,
        client_id: str,
        trainer: Trainer,
        examples: ExampleSource,
        policy: Policy,
        consent: Callable[[], str],
        *,
        tenant: str = DEFAULT_TENANT,
        encryption: HeadEncryption | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        new_key: Callable[[], bytes] = lambda: secrets.token_bytes(KEY_BYTES),
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self.key = user_key(tenant, user_id)
        self.outbox = Outbox(folder / "outbox")
        self._state_path = folder / "device.json"
        self._names = (tenant, user_id, client_id)
        self._trainer = trainer
        self._examples = examples
        self._policy = policy
        self._consent = consent
        self._encryption = encryption
        self._clock_ms = clock_ms
        self._new_key = new_key
        self._new_id = new_id

    def contribute(self, model: EdgeModel) -> str | None:
        """Train on what is new since the last contribution, and store the update.

        Returns
        -------
        str or None
            Name of the update in the outbox; None: there is nothing new, or this version, or a newer one, was
            contributed to.

        Raises
        ------
        Refused
            `consent_missing`, `wrong_terms` for a mode that the policy does not allow, another key or a clip out
            of range, `wrong_shape`, `bad_value` for a training that ran away, or `budget_spent`. Nothing is stored
            and nothing charged.
        """
        self._check_consent()
        if model.mode not in list(self._policy.modes):
            allowed = ", ".join(self._policy.modes)
            raise Refused("wrong_terms", f"mode: wanted one of {allowed}, the model asks for {model.mode}")
        key = None if self._encryption is None else self._encryption.name
        if model.encryption != key:
            raise Refused(
                "wrong_terms", f"encryption: wanted {key or 'none'}, the model asks for {model.encryption}"
            )
        terms = Terms(
            Mode(model.mode), model.next_clip_norm, model.noise_multiplier, model.delta, model.cohort_min
        )
        if not MIN_CLIP <= terms.clip_norm <= MAX_CLIP:
            raise Refused("wrong_terms", f"next_clip_norm: wanted {MIN_CLIP:g} to {MAX_CLIP:g}")
        weights = np.frombuffer(model.weights, "<f8")
        if weights.shape != (model.dimension,) or not np.isfinite(weights).all():
            raise Refused("wrong_shape", f"weights: wanted {model.dimension} finite numbers")
        epoch = self._clock_ms() // self._policy.epoch_ms
        state = read_state(self._state_path).in_epoch(epoch)
        if model.version <= state.last_versions.get(model.model_line, -1):
            return None
        found, place = self._examples.since(state.trained_until.get(model.model_line, 0))
        if len(found.labels) < self._policy.least_examples:
            return None
        if not state.epsilon(self._policy.delta, terms.mu) <= self._policy.budget_epsilon:
            raise Refused(
                "budget_spent",
                f"epsilon {state.epsilon(self._policy.delta):.3g} of {self._policy.budget_epsilon:g} is spent; "
                f"one more is {terms.claim(1)}",
            )
        how = None if self._encryption is None else number_quantiser(terms)
        made = privatise(
            self._trainer.delta(weights, found), terms, self._new_key(), b"one key, one update", how
        )
        if self._encryption is not None:
            made = encrypted(made, self._encryption.encrypt)
        tenant, user_id, client_id = self._names
        update_id = self._new_id()
        name = f"{model.version:012d}-{update_id}"  # an older version is sent first
        update = EdgeUpdate(
            update_id, tenant, user_id, client_id, model.model_line, model.version, model.mode, terms.clip_norm,
            terms.noise_multiplier, model.dimension, made.bits, made.step, made.payload,
            made.within_clip if model.adapts_clip else None, CONSENT, None, key,
        )  # fmt: skip
        value = encode(update)
        write_state(self._state_path, state.charged(terms.mu, model.model_line, model.version, place))
        self.outbox.put(name, value)
        return name

    def send(self, deliver: Callable[[str, bytes], None]) -> int:
        """Send what waits, and forget what was delivered.

        Parameters
        ----------
        deliver
            Takes Kafka key and value, returns when the brokers have them, and raises `ConnectionError` where
            they have not: the same bytes are then sent by the next call.

        Returns
        -------
        int
            Updates delivered.

        Raises
        ------
        Refused
            `consent_missing`: what waited was destroyed.
        """
        self._check_consent()
        sent = 0
        for name, value in self.outbox.waiting():
            self._check_consent()
            deliver(self.key, value)
            self.outbox.delivered(name)
            sent += 1
        return sent

    def _check_consent(self) -> None:
        given = self._consent()
        if given != CONSENT:
            self.outbox.destroy()
            raise Refused("consent_missing", f"consent: wanted {CONSENT}, got {given}; nothing is sent")
