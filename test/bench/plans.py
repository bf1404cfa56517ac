"""Queries under one plan or another: which plan the server chooses, what it is expected to cost, and the processor time it takes."""
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg

from datasets import Dataset, copy_binary

SWITCHES = ("enable_seqscan", "enable_bitmapscan", "enable_indexscan", "ann.enable_annscan")


@dataclass(frozen=True)
class Plan:
    """A plan without what differs from query to query."""

    shape: str  # its nodes with the indexes they read, from the top down
    cost: float

    def uses(self, index: str) -> bool:
        return index in re.findall(r"\w+", self.shape)


@dataclass
class Timing:
    """What executions of one plan took and returned."""

    best: dict[int, float] = field(default_factory=dict)  # microseconds of processor time, by query
    answers: dict[int, list[int]] = field(default_factory=dict)  # ids of rows, by query

    @property
    def microseconds(self) -> float:
        return float(np.mean(list(self.best.values())))


def shape_of(node: dict) -> str:
    name = node.get("Custom Plan Provider") or node["Node Type"]
    index = node.get("Index Name") or node.get("Index")
    children = [shape_of(n) for n in node.get("Plans", []) if n["Parent Relationship"] not in ("InitPlan", "SubPlan")]
    return " ".join([name] + ([index] if index else []) + [f"({c})" for c in children])


class Session:
    """One connection, and the clock of the process that serves it."""

    def __init__(self) -> None:
        self.connection = psycopg.connect("", autocommit=True, prepare_threshold=None)
        self.sql("CREATE EXTENSION IF NOT EXISTS ann")
        self.sql("SELECT '[1]'::vector")  # its library brings settings
        self.clock = Path(f"/proc/{self.connection.info.backend_pid}/schedstat")
        # Parallel workers would have clocks of their own.
        for setting in ("jit = off", "max_parallel_workers_per_gather = 0", "plan_cache_mode = force_generic_plan"):
            self.sql(f"SET {setting}")
        self.has_annscan = self.value("SELECT count(*) FROM pg_settings WHERE name = 'ann.enable_annscan'") == 1

    def sql(self, statement: str) -> None:
        self.connection.execute(statement)

    def rows(self, query: str) -> list[tuple]:
        return self.connection.execute(query).fetchall()

    def value(self, query: str):
        return self.rows(query)[0][0]

    def nanoseconds(self) -> int:
        """Time on a processor so far; complete while the process waits for a statement."""
        return int(self.clock.read_text().split()[0])

    def set_switches(self, on: Sequence[str]) -> None:
        for switch in SWITCHES:
            if switch != "ann.enable_annscan" or self.has_annscan:
                self.sql(f"SET {switch} = {'on' if switch in on else 'off'}")

    @contextmanager
    def only_indexes(self, table: str, names: Sequence[str]) -> Iterator[None]:
        """The planner sees no other indexes of the table."""
        hidden = f"""indrelid = '{table}'::regclass AND indexrelid::regclass::text <> ALL ('{{{",".join(names)}}}')"""
        self.sql(f"UPDATE pg_index SET indisvalid = false WHERE {hidden}")
        try:
            yield
        finally:
            self.sql(f"UPDATE pg_index SET indisvalid = true WHERE indrelid = '{table}'::regclass")

    def prepare(self, query: str) -> Plan:
        """Plan a query of one parameter, its number, for execute()."""
        self.sql("DEALLOCATE ALL")
        self.sql(f"PREPARE q (int) AS {query}")
        node = self.value("EXPLAIN (FORMAT json) EXECUTE q (0)")[0]["Plan"]
        return Plan(shape_of(node), node["Total Cost"])

    def execute(self, query: int) -> tuple[float, list[int]]:
        """Microseconds of processor time, and the ids."""
        start = self.nanoseconds()
        rows = self.connection.execute(f"EXECUTE q ({query})").fetchall()
        return (self.nanoseconds() - start) / 1000, [row[0] for row in rows]

    def time(self, timing: Timing, queries: int, budget: float) -> None:
        """Execute what was prepared, once for each of so many queries, or fewer, but two, if that takes more than the budget, in seconds
        of processor time; a later call executes what the first did."""
        spent = 0.0
        self.execute(0)
        for query in list(timing.best) or range(queries):
            if spent > budget * 1e6 and query > 1 and len(timing.best) < queries and query not in timing.best:
                break
            took, timing.answers[query] = self.execute(query)
            timing.best[query] = min(took, timing.best.get(query, took))
            spent += took

    def load(self, table: str, data: Dataset, inline: bool, columns: dict[str, np.ndarray]) -> None:
        """A table of the base vectors with further integer columns, and TABLE_query of the query vectors."""
        self.sql(f"DROP TABLE IF EXISTS {table}, {table}_query")
        more = "".join(f", {column} int4 NOT NULL" for column in columns)
        self.sql(f"CREATE TABLE {table} (id int4 NOT NULL, v vector({data.dim}) NOT NULL{more})")
        self.sql(f"CREATE TABLE {table}_query (id int4 PRIMARY KEY, v vector({data.dim}) NOT NULL)")
        self.sql(f"ALTER TABLE {table} ALTER v SET STORAGE {'PLAIN' if inline else 'EXTERNAL'}")
        self.sql(f"ALTER TABLE {table}_query ALTER v SET STORAGE PLAIN")
        self.copy(table, data.base, *columns.values())
        self.copy(f"{table}_query", data.query)
        for name in (table, f"{table}_query"):
            self.sql(f"VACUUM (FREEZE, ANALYZE) {name}")
        toasted = self.value(f"SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = '{table}'::regclass")
        if bool(toasted) == inline:
            raise RuntimeError(f"{table}: the vectors are not stored as asked for")

    def copy(self, table: str, vectors: np.ndarray, *columns: np.ndarray) -> None:
        with self.connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            for chunk in copy_binary(np.arange(len(vectors)), vectors, *columns):
                copy.write(chunk)
