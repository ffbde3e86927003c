"""Keying a stream in the JVM: the only file that uses names internal to PyFlink (pinned to 2.3.0).

`DataStream.key_by` with a Python function adds a Python operator in front of the keyed one. The table's first
column already is the key, so the JVM's own selector takes it, and no row visits Python before it is keyed.
"""

from __future__ import annotations

from pyflink.common import Types
from pyflink.common.typeinfo import TypeInformation
from pyflink.datastream import KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment, Table


def keyed_in_jvm(t_env: StreamTableEnvironment, table: Table, value_type: TypeInformation) -> KeyedStream:
    """Turn a table of `(key INT, value ROW)` into a stream of values keyed by the first column.

    Parameters
    ----------
    table
        Append-only, two columns.
    value_type
        Type of the second column; itself a row.
    """
    stream = t_env.to_append_stream(table, Types.ROW([Types.INT(), value_type]))
    selector = get_gateway().jvm.KeyByKeySelector()
    java_keyed = stream._j_data_stream.keyBy(selector, Types.ROW([Types.INT()]).get_java_type_info())
    return KeyedStream(java_keyed, value_type, stream)
