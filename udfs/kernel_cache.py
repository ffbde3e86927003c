"""Compiled kernels, cached by what their source says rather than by where it lies.

A Flink job ships its code to a new temporary folder at every start, and Numba's own cache keys a
function by its file's path: every restart would compile every kernel again, seconds in which a worker
ranks nobody. `ContentLocator` keys it by the content of the source file, so a copy anywhere finds the
machine code of the first one. Every kernel of the project is made by `kernel`.

The folder is ``NUMBA_CACHE_DIR`` where Numba has read one, else Numba's folder in the user's cache.
Each content has its own folder, so two releases that run side by side do not overwrite each other; old
ones may be deleted at any time.
"""

import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np
from numba import njit
from numba.core import config
from numba.core.caching import CacheImpl, _CacheLocator
from numba.core.dispatcher import Dispatcher
from numba.misc.appdirs import AppDirs

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_OURS = "_tailrace_kernel"


class ContentLocator(_CacheLocator):
    """Where Numba keeps the machine code of one kernel: a folder named by the content of its source.

    It takes only functions made by `kernel`; those of other libraries keep Numba's own rules.

    Parameters
    ----------
    function
        The Python function to be compiled.
    source_file
        The file it was defined in.
    """

    def __init__(self, function: Callable[..., object], source_file: str) -> None:
        self._py_file = source_file  # Numba reads this name for its warnings
        self._line = function.__code__.co_firstlineno
        self._stamp = content_stamp(function)
        default = AppDirs(appname="numba", appauthor=False).user_cache_dir  # type: ignore[no-untyped-call]
        root = Path(getattr(config, "CACHE_DIR", "") or default)
        self._folder = root / "tailrace" / f"{Path(source_file).stem}_{self._stamp[:32]}"

    @classmethod
    def from_function(cls, function: Callable[..., object], source_file: str) -> "ContentLocator | None":
        """Return the locator of one of our kernels, None for other functions or an unwritable folder."""
        if not hasattr(function, _OURS) or not Path(source_file).exists():
            return None
        locator = cls(function, source_file)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator

    def ensure_cache_path(self) -> None:
        """Make the folder and try to write in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=self._folder).close()

    def get_cache_path(self) -> str:
        """Return the folder of the cache files."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return what must be equal for a cached file to be used."""
        return self._stamp

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name in one file apart: the line."""
        return str(self._line)


def content_stamp(function: Callable[..., object]) -> str:
    """Return a hash of everything the machine code of `function` is made from.

    That is its source file, the files of the kernels it calls, and the global constants it uses: Numba
    freezes a constant imported from another file into the code, and its own cache misses a change there.
    """
    digest = hashlib.sha256()
    _hash_function(function, digest, set())
    return digest.hexdigest()


def _hash_function(function: Callable[..., object], digest: Any, seen: set[object]) -> None:
    if function in seen:
        return
    seen.add(function)
    code = function.__code__
    digest.update(Path(code.co_filename).read_bytes())
    # The order of a named tuple's fields is in the machine code.
    for annotation in function.__annotations__.values():
        digest.update(repr(getattr(annotation, "_fields", None)).encode())
    for name in code.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            digest.update(name.encode())
            _hash_function(value.py_func, digest, seen)
        elif isinstance(value, bool | int | float | str | tuple | np.generic):
            digest.update(f"{name}={value!r}\n".encode())
        elif isinstance(value, np.ndarray):
            digest.update(f"{name}:{value.dtype}{value.shape}".encode() + value.tobytes())


@overload
def kernel(function: Callable[Parameters, Result], /) -> Callable[Parameters, Result]: ...
@overload
def kernel(
    *, fastmath: bool | set[str] = False
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]: ...
def kernel(function: Any = None, /, *, fastmath: bool | set[str] = False) -> Any:
    """Compile a function with Numba: without the GIL, IEEE arithmetic, cached by content.

    Division by zero gives inf or nan as in NumPy, so that no kernel can raise half way through a batch.

    Parameters
    ----------
    function
        A function in Numba's nopython subset.
    fastmath
        Which IEEE rules may be broken. Leave it off: results must not depend on how a compiler groups
        additions, because a replay repeats them bit for bit. Argue for it where you set it.

    Examples
    --------
    >>> import numpy as np
    >>> @kernel
    ... def total(values):
    ...     result = 0.0
    ...     for value in values:
    ...         result += value
    ...     return result
    >>> total(np.array([1.0, 2.0]))
    3.0
    """
    if function is None:
        return functools.partial(kernel, fastmath=fastmath)
    setattr(function, _OURS, True)
    cached = Path(function.__code__.co_filename).exists()  # a prompt or a doctest has no file to hash
    return njit(cache=cached, nogil=True, error_model="numpy", fastmath=fastmath)(function)


if ContentLocator not in CacheImpl._locator_classes:
    CacheImpl._locator_classes.insert(0, ContentLocator)
