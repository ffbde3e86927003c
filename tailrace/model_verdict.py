"""The gate's verdict beside the bundle: `<root>/<epoch>.gate.json`, signed where bundles are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flink_jobs.settings import Settings
from tailrace.errors import ExitCode, UserError
from udfs.model.gate import Verdict
from udfs.model.refusal import BundleRefused
from udfs.model.signature import VERDICT_CONTEXT, KeyFormatError, check_signature, sign

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle

VERDICT_BYTES = 1 << 20


def verdict_file(settings: Settings, epoch: int) -> Path:
    """Return where the verdict on an epoch lies; its signature lies there with the ending ``.sig``."""
    return settings.model.root / f"{epoch}.gate.json"


def write_verdict(settings: Settings, verdict: Verdict, key_file: Path | None = None) -> Path:
    """Write a verdict, in place of an earlier one, and sign it if there is a key.

    Raises
    ------
    UserError
        TR-357 when the file holds no key.
    """
    file, text = verdict_file(settings, verdict.epoch), verdict.to_json()
    signature = file.with_suffix(".sig")
    signed = b""
    if key_file is not None:
        try:
            signed = sign(key_file.read_bytes(), text, VERDICT_CONTEXT)
        except KeyFormatError as error:
            raise UserError(
                "TR-357",
                f"{key_file}: {error}",
                "the file is another key, or has a password",
                "tailrace models keygen FILE",
            ) from error
    for path, content in ((signature, signed), (file, text)):
        building = path.with_name(f".{path.name}")
        building.write_bytes(content)
        building.rename(path)
    if not signed:
        signature.unlink()
    return file


def require_passed(settings: Settings, bundle: Bundle, active: int | None) -> Verdict:
    """Return the verdict on exactly this bundle, measured beside what serves, which is passed.

    Raises
    ------
    UserError
        TR-380 without one, TR-381 for one of another bundle, altered, or not signed by a trusted key, TR-382 for
        one that is not passed, TR-384 for one measured beside another than the active epoch.
    """
    epoch, file = bundle.epoch, verdict_file(settings, bundle.epoch)
    measure = f"tailrace models gate {epoch} --data FILE; or --force, if you know better"
    try:
        with file.open("rb") as opened:
            text = opened.read(VERDICT_BYTES)
    except OSError as error:
        raise UserError(
            "TR-380",
            f"epoch {epoch}: no verdict of the gate, {file}",
            "it was not measured yet, or the verdict was not copied with the bundle",
            measure,
            ExitCode.USAGE,
        ) from error
    signature = file.with_suffix(".sig")
    try:
        signed = signature.read_bytes() if signature.is_file() else None
        check_signature(settings.model.trusted_keys, text, signed, VERDICT_CONTEXT)
        verdict = Verdict.from_json(text)
        if (verdict.epoch, verdict.manifest_sha256) != (epoch, bundle.manifest_sha256):
            raise ValueError(
                f"it is of epoch {verdict.epoch}, manifest {verdict.manifest_sha256:.12}; this bundle is of epoch "
                f"{epoch}, manifest {bundle.manifest_sha256:.12}"
            )
    except (BundleRefused, ValueError) as error:
        raise UserError(
            "TR-381",
            f"{file}: {error}",
            "the bundle or the verdict was made or changed after the gate, or no trusted key has signed it",
            f"{measure}; with --key where keys are trusted",
        ) from error
    if not verdict.passed:
        raise UserError(
            "TR-382",
            f"epoch {epoch} did not pass the gate: {'; '.join(verdict.failures())}",
            "it is worse than what serves, or than a limit of the settings' section [gate]",
            "tailrace train, with more or newer data; or --force, if you know better",
        )
    if active is not None and active not in (epoch, verdict.against):
        raise UserError(
            "TR-384",
            f"epoch {epoch} was measured beside {verdict.against or 'nothing'}, and epoch {active} serves",
            "another bundle was promoted since",
            measure,
            ExitCode.USAGE,
        )
    return verdict
