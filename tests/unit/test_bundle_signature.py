"""Signed bundles: with trusted keys only they serve, and the command that signs says what it needs."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flink_jobs.model_store import ModelStore
from flink_jobs.settings import Model, SettingsError, load
from tailrace.bundle_keys import new_private_key, sign_bundle, write_new_key
from tailrace.cli import app
from tailrace.errors import UserError
from tests.bundles import make_bundle
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.manifest import MANIFEST
from udfs.model.signature import SIGNATURE, KeyFormatError, public_key_of, sign


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models" / "7", epoch=7)
    return tmp_path / "models" / "7"


def key(tmp_path: Path, name: str = "mine.pem") -> tuple[Path, str]:
    file = tmp_path / name
    return file, write_new_key(file)


def refusal(folder: Path, *trusted: str) -> str:
    with pytest.raises(BundleRefused) as refused:
        Bundle.open(folder, trusted_keys=trusted)
    return refused.value.reason


def test_a_signed_bundle_serves_where_its_key_is_trusted(folder: Path, tmp_path: Path) -> None:
    file, public = key(tmp_path)
    _, other = key(tmp_path, "other.pem")
    assert refusal(folder, public) == "signature", "not signed yet"
    assert sign_bundle(folder, file) == public
    assert Bundle.open(folder, trusted_keys=[other, public]).epoch == 7
    assert refusal(folder, other) == "signature"
    assert Bundle.open(folder).epoch == 7, "no keys are trusted: anything goes, signed or not"


@pytest.mark.parametrize("damage", ["manifest", "signature", "short", "long", "empty"])
def test_what_was_changed_after_the_signature_does_not_serve(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    file, public = key(tmp_path)
    sign_bundle(folder, file)
    signed = (folder / SIGNATURE).read_bytes()
    flipped = bytes([signed[0] ^ 1]) + signed[1:]
    if damage == "manifest":
        tree = json.loads((folder / MANIFEST).read_bytes())
        (folder / MANIFEST).write_text(json.dumps(tree | {"model_version": "another"}))
        assert Bundle.open(folder).model_version == "another"
    else:
        made = {"signature": flipped, "short": signed[:-1], "long": signed + b"0", "empty": b""}[damage]
        (folder / SIGNATURE).write_bytes(made)
    assert refusal(folder, public) in ("signature", "too_large")


def test_a_signature_of_something_else_by_the_same_key_is_none_of_a_bundle(
    folder: Path, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    file, public = key(tmp_path)
    plain = load_pem_private_key(file.read_bytes(), None)
    (folder / SIGNATURE).write_bytes(plain.sign((folder / MANIFEST).read_bytes()))  # type: ignore[union-attr, call-arg]
    assert refusal(folder, public) == "signature"


def test_a_worker_with_trusted_keys_refuses_what_is_unsigned_and_the_old_one_serves_on(
    tmp_path: Path,
) -> None:
    root = tmp_path / "models"
    for epoch in (7, 8):
        make_bundle(root / str(epoch), epoch=epoch)
    file, public = key(tmp_path)
    sign_bundle(root / "7", file)
    store = ModelStore(Model(root=root, trusted_keys=(public,)))
    serving = store.bundle(7)
    assert serving is not None
    assert store.bundle(8) is None and "signature" in (store.refusal(8) or "")
    assert store.newest_held() is serving


def test_a_private_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    file, public = key(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert public_key_of(file.read_bytes()) == public and len(public) == 64
    with pytest.raises(UserError, match="TR-356"):
        write_new_key(file)


def test_the_commands_make_a_key_sign_and_say_whether_it_is_trusted_here(
    folder: Path, tmp_path: Path
) -> None:
    run, file = CliRunner(), tmp_path / "k.pem"
    made = run.invoke(app, ["models", "keygen", str(file), "--json"])
    assert made.exit_code == 0, made.output
    public = json.loads(made.output)["public_key"]
    config = tmp_path / "tailrace.toml"
    config.write_text(f'[model]\nroot = "{folder.parent}"\ntrusted_keys = ["{public}"]\n')
    listed = run.invoke(app, ["models", "ls", "--config", str(config)])
    assert "signature" in listed.output
    signed = run.invoke(app, ["models", "sign", "7", "--key", str(file), "--config", str(config), "--json"])
    assert signed.exit_code == 0, signed.output
    assert json.loads(signed.output) == {"epoch": 7, "public_key": public, "trusted_here": True}
    assert "signature" not in run.invoke(app, ["models", "ls", "--config", str(config)]).output


def test_what_is_no_key_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    with pytest.raises(UserError, match="TR-357"):
        sign_bundle(folder, tmp_path / "text.pem")
    file, _ = key(tmp_path)
    with pytest.raises(UserError, match="TR-350"):
        sign_bundle(folder.parent / "9", file)
    with pytest.raises(KeyFormatError):
        sign(b"", b"{}")
    with pytest.raises(SettingsError, match="trusted_keys"):
        load(environment={}, model={"trusted_keys": ["abc"]})
    public = public_key_of(new_private_key())
    settings = load(environment={"TAILRACE_MODEL__TRUSTED_KEYS": json.dumps([public])})
    assert settings.model.trusted_keys == (public,)
