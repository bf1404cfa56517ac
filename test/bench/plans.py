"""Queries under one plan or another: which plan the server chooses, what it is expected to cost, and the processor time it takes."""
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Timing:
    """What executions of one plan took and returned."""

    microseconds: float  # of processor time: mean over the queries of the best of some executions
    answers: dict[int, list[int]]  # ids of rows, by query


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

    def time(self, queries: int, repeats: int, budget: float) -> Timing:
        """Execute what was prepared for the queries 0, 1 .. in turn; at least two of them, twice, then as many as the budget
        allows, in seconds of processor time."""
        best: dict[int, float] = {}
        answers: dict[int, list[int]] = {}
        spent = 0.0
        self.execute(0)
        for turn in range(repeats):
            for query in range(queries) if turn == 0 else list(best):
                if spent > budget * 1e6 and (turn > 1 or len(best) > 1 and (turn > 0 or query > 1)):
                    break
                took, answers[query] = self.execute(query)
                best[query] = min(took, best.get(query, took))
                spent += took
        return Timing(float(np.mean(list(best.values()))), answers)

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
