"""Who sees which variant: a hash of user and experiment, the same after any restart and in any language.

Two hashes (XXH3, 64 bits). That of layer and user says in which of the layer's buckets the user is, so which of its
experiments the user is in. That of experiment and user says which variant, so experiments that follow one another in
the same buckets deal their users anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xxhash import xxh3_64_intdigest

from udfs.experiments.experiment import BUCKETS, Experiment, Variant


def layer_bucket(layer: str, key: str) -> int:
    """Return a user's bucket in a layer, 0 to `BUCKETS` - 1.

    Parameters
    ----------
    key
        The user's Kafka key, `schemas.ids.user_key`.

    Examples
    --------
    >>> layer_bucket("list", "default/u1")
    7297
    """
    return xxh3_64_intdigest(f"layer\0{layer}\0{key}") % BUCKETS


def variant_of(experiment: Experiment, key: str) -> Variant | None:
    """Return the variant that a user sees, None for a user who does not take part."""
    place = layer_bucket(experiment.layer, key) - experiment.first_bucket
    if not 0 <= place < experiment.buckets:
        return None
    left = xxh3_64_intdigest(f"variant\0{experiment.name}\0{key}") % sum(
        one.weight for one in experiment.variants
    )
    for variant in experiment.variants:
        left -= variant.weight
        if left < 0:
            return variant
    raise AssertionError("weights are above 0")


def assign(experiments: Iterable[Experiment], key: str) -> tuple[str, dict[str, Any]]:
    """Return what is logged with a user's list, and the settings to make it with.

    Parameters
    ----------
    experiments
        Those that run, which `check_together` lets pass.
    key
        The user's Kafka key.

    Returns
    -------
    variant
        ``experiment=variant`` of each experiment that the user is in, by name, with commas; empty: none.
    settings
        All that their variants change.

    Examples
    --------
    >>> test = Experiment("spread", "list", 0, 10_000, (Variant("a", 1, {}), Variant("b", 1, {"diversity": 0.3})))
    >>> assign([test], "default/u1"), assign([test], "default/u2")
    (('spread=b', {'diversity': 0.3}), ('spread=a', {}))
    """
    labels: list[str] = []
    settings: dict[str, Any] = {}
    for experiment in sorted(experiments, key=lambda one: one.name):
        variant = variant_of(experiment, key)
        if variant is not None:
            labels.append(f"{experiment.name}={variant.name}")
            settings.update(variant.settings)
    return ",".join(labels), settings


def read_labels(variant: str) -> dict[str, str]:
    """Return experiment → variant of what is logged with a list; what is not of that form is left out.

    Examples
    --------
    >>> read_labels("rules=new,spread=b"), read_labels(""), read_labels("b")
    ({'rules': 'new', 'spread': 'b'}, {}, {})
    """
    pairs = (part.split("=") for part in variant.split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
