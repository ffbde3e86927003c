"""The key holder of encrypted heads: its files, and the sums that it opens. Apart from the job and whoever runs it.

Beside the secret key lies a journal of which sum was opened for which version. A version has one sum: two sums of one
version may differ by one head.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

from clients.edge.ckks import EncryptionError, Keys, SumOpening, make_keys
from clients.edge.device_state import write_whole
from clients.edge.sender import EdgeSender
from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import Settings
from schemas.codec import Codec, encode
from schemas.records import EdgeCohort, EdgeModel
from schemas.topics import EDGE_COHORTS, EDGE_MODELS
from tailrace.connections import QUIET
from tailrace.edge_models import published
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import TopicReader, broker_unreachable
from udfs.federate.encrypted_line import SEALED
from udfs.federate.line_settings import LineSettings
from udfs.federate.opened_sum import SealedSumError, opened_version, sealed_record

VARIABLE: Final = "TAILRACE_FED_SECRET"
_OTHERS: Final = 0o077
_Made = TypeVar("_Made")


def new_keys(folder: Path) -> Keys:
    """Write a new pair: `heads.public` for devices, and `heads.secret`, which its owner alone may read.

    Raises
    ------
    UserError
        TR-762 where there is a key already: sums under it could not be opened any more.
    """
    secret, public = folder / "heads.secret", folder / "heads.public"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UserError(
            "TR-762", f"{secret}: there is a key already", fix="another --out", exit_code=ExitCode.USAGE
        ) from error
    keys = _encrypted(make_keys)
    with os.fdopen(handle, "wb") as file:
        file.write(keys.secret)
    public.write_bytes(keys.public)
    return keys


def open_sums(settings: Settings, line: str, secret: Path) -> list[EdgeModel]:
    """Open what sums of a line are sealed and not yet opened, in order, and publish their versions.

    Raises
    ------
    UserError
        TR-763 for a secret key or line that cannot be used, TR-764 for a sum that must not be opened; what was before
        it is published.
    """
    found = model_lines(settings.federate).get(line)
    if found is None or not found.encryption_key:
        raise UserError(
            "TR-763",
            f"line {line!r}: wanted a line with encryption_key in the settings",
            fix=f"name it in [federate.lines.{line}]",
            exit_code=ExitCode.USAGE,
        )
    opening = _encrypted(lambda: SumOpening(_read_secret(secret)))
    if opening.name != found.encryption_key:
        raise UserError(
            "TR-763",
            f"{secret}: is the key {opening.name}, the line wants {found.encryption_key}",
            fix="--secret with the key of the line",
            exit_code=ExitCode.USAGE,
        )
    versions = [model for model in published(settings) if model.model_line == line]
    kafka = settings.kafka
    try:
        with EdgeSender(
            kafka.bootstrap_servers, topic_prefix=kafka.topic_prefix, config=QUIET, topic=EDGE_MODELS
        ) as sender:
            return list(
                opened(
                    found,
                    opening,
                    versions,
                    sealed_sums(settings, line),
                    secret.with_suffix(".opened"),
                    sender.deliver,
                )
            )
    except ConnectionError as error:
        raise broker_unreachable(kafka.bootstrap_servers, str(error)) from error


def opened(
    line: LineSettings,
    opening: SumOpening,
    versions: Iterable[EdgeModel],
    sealed: Iterable[EdgeCohort],
    journal: Path,
    deliver: Callable[[str, bytes], None],
) -> Iterator[EdgeModel]:
    """Open sums in order and deliver their versions; a sum is noted in the journal before it is opened.

    Parameters
    ----------
    versions
        What was published of the line.
    sealed
        What the job told of it, committed.
    journal
        Version to the SHA-256 of its sum; made if it is not there.
    deliver
        Takes Kafka key and value.

    Raises
    ------
    UserError
        TR-764 for a sum that must not be opened.
    """
    parent = max(versions, key=lambda model: model.version, default=None)
    noted: dict[str, str] = json.loads(journal.read_bytes()) if journal.exists() else {}
    for told in sorted(sealed, key=lambda one: one.cohort):
        try:
            mark = sha256(encode(told)).hexdigest()
            if noted.get(str(told.cohort), mark) != mark:
                raise SealedSumError(
                    f"{line.name}/{told.cohort}: a second sum of one version is never opened"
                )
            if parent is not None and told.cohort <= parent.version:
                continue
            record = sealed_record(told, parent, line)
            assert parent is not None
            noted[str(told.cohort)] = mark
            write_whole(journal, json.dumps(noted).encode())
            model = opened_version(record, parent, opening.open(told.payload, line.dimension), line)
        except (SealedSumError, EncryptionError) as error:
            raise UserError(
                "TR-764", f"not opened: {error}", fix="see docs/federate.md, Heads under encryption"
            ) from error
        deliver(f"{model.model_line}/{model.version}", encode(model))
        yield model
        parent = model


def sealed_sums(settings: Settings, line: str) -> list[EdgeCohort]:
    """Give the committed sums of a line that the topic still has."""
    codec = Codec(settings.kafka.schema_ids)
    found = []
    with TopicReader(settings, EDGE_COHORTS.name) as reader:
        for record in reader.read_all():
            if (record.key or b"").startswith(f"{line}/".encode()) and record.value is not None:
                told = codec.decode("EdgeCohort", record.value)
                assert isinstance(told, EdgeCohort)
                if told.phase == SEALED and told.model_line == line:
                    found.append(told)
    return found


def _read_secret(path: Path) -> bytes:
    """Read a secret key that nobody else can read."""
    try:
        mode = path.stat().st_mode
        if mode & _OTHERS:
            raise UserError(
                "TR-763", f"{path}: others may read it", fix=f"chmod 600 {path}", exit_code=ExitCode.USAGE
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            "TR-763",
            f"{path}: {error.strerror}",
            fix=f"--secret FILE, or {VARIABLE}",
            exit_code=ExitCode.USAGE,
        ) from error


def _encrypted(make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except EncryptionError as error:
        raise UserError("TR-763", str(error), exit_code=ExitCode.ENVIRONMENT) from error
