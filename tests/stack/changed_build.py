"""A later release of the recommend job: a filter more, a new sink in front of the others, one dropped.

Submitted by a test in the place of `flink_jobs.submit`; it ships with the job.
"""

from __future__ import annotations

import sys
from typing import Any

from pyflink.table import StatementSet, StreamTableEnvironment

from flink_jobs import recommend
from flink_jobs.output_rows import COUNTS, SESSION
from flink_jobs.settings import load
from flink_jobs.submit import shipped_settings

AUDIT = "recs.audit"


def main(config: str) -> None:
    """Build the job with the changes and run it."""
    settings = shipped_settings(load(config))
    add_insert = StatementSet.add_insert_sql
    create = StreamTableEnvironment.create_statement_set

    def create_with_audit(t_env: Any) -> StatementSet:
        statements = create(t_env)
        recommend.kafka_sink(t_env, settings, "audit", AUDIT)
        add_insert(
            statements,
            f"INSERT INTO audit SELECT `key`, payload FROM outputs WHERE kind = {COUNTS} AND epoch = 0",
        )
        return statements

    def add_changed(statements: StatementSet, sql: str) -> StatementSet:
        if "INSERT INTO dead_letters" in sql:
            return statements
        return add_insert(statements, sql.replace(f"kind = {SESSION}", f"kind = {SESSION} AND at_ms > 0"))

    StreamTableEnvironment.create_statement_set = create_with_audit
    StatementSet.add_insert_sql = add_changed
    recommend.build(settings).execute(recommend.JOB)


if __name__ == "__main__":
    main(sys.argv[1])
