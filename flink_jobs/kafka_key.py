"""A Kafka key as text on its way through SQL and back to its bytes, whatever these are.

SQL carries a key as text, and a row that goes from the JVM to Python loses what is no UTF-8. Such a key travels as
`MARK` and hexadecimal digits. No id has a control character, so it equals no user's key and its record is
refused; the dead letter then has the bytes.
"""

from __future__ import annotations

MARK = "\x01"
_MARK_SQL, _NUL_SQL = "U&'\\0001'", "U&'\\0000'"


def key_sql(column: str) -> str:
    """Give the SQL expression that makes text of the STRING column of a raw key; '' of none.

    The column holds Kafka's bytes as they are, so its text has other bytes where these are no UTF-8. NUL would end
    the text between JVM and Python. `HEX` takes text, and ISO-8859-1 makes one letter of each byte.
    """
    as_bytes = f"CAST({column} AS BYTES)"
    return (
        f"COALESCE(CASE WHEN ENCODE({column}, 'UTF-8') = {as_bytes} AND POSITION({_NUL_SQL} IN {column}) = 0"
        f" AND POSITION({_MARK_SQL} IN {column}) <> 1 THEN {column}"
        f" ELSE {_MARK_SQL} || HEX(DECODE({as_bytes}, 'ISO-8859-1')) END, '')"
    )


def key_text(key: bytes | None) -> str:
    r"""Give what `key_sql` does.

    Examples
    --------
    >>> key_text(b"default/u1"), key_text(b"a\xff"), key_text(None)
    ('default/u1', '\x0161C3BF', '')
    """
    raw = key or b""
    text = raw.decode("utf-8", "replace")
    if text.encode() == raw and "\0" not in text and not text.startswith(MARK):
        return text
    return MARK + raw.decode("latin-1").encode().hex().upper()


def key_bytes(text: str) -> bytes:
    r"""Give the bytes of the key that became this text.

    Examples
    --------
    >>> key_bytes("\x0161C3BF")
    b'a\xff'
    """
    if not text.startswith(MARK):
        return text.encode()
    return bytes.fromhex(text.removeprefix(MARK)).decode().encode("latin-1")
