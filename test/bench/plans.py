"""Queries under one plan or another: which plan the server chooses, what it is expected to cost, and the processor time it takes."""
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg

from datasets import Dataset, copy_binary

REPEATS = 3
SWITCHES = ("enable_seqscan", "enable_bitmapscan", "enable_indexscan", "ann.enable_annscan", "ann.enable_late_bitmap")


@dataclass(frozen=True)
class Plan:
    """A plan without what differs from query to query."""

    name: str  # under which it is prepared
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
    if "Bitmap" in node:
        name = f"late {name}"
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
        self.prepared = 0
        # Parallel workers would have clocks of their own.
        for setting in ("jit = off", "max_parallel_workers_per_gather = 0", "plan_cache_mode = force_generic_plan"):
            self.sql(f"SET {setting}")

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

    def forget(self) -> None:
        """All plans that were prepared."""
        self.sql("DEALLOCATE ALL")

    def prepare(self, query: str) -> Plan:
        """Plan a query of one parameter, its number.  The plan stays as it is when settings change, or the indexes that are seen: the
        server plans again if a table changes, not if an index does."""
        self.prepared += 1
        name = f"plan{self.prepared}"
        self.sql(f"PREPARE {name} (int) AS {query}")
        return self.explain(name)

    def explain(self, name: str) -> Plan:
        node = self.value(f"EXPLAIN (FORMAT json) EXECUTE {name} (0)")[0]["Plan"]
        return Plan(name, shape_of(node), node["Total Cost"])

    def execute(self, plan: Plan, query: int) -> tuple[float, list[int]]:
        """Microseconds of processor time, and the ids."""
        start = self.nanoseconds()
        rows = self.connection.execute(f"EXECUTE {plan.name} ({query})").fetchall()
        return (self.nanoseconds() - start) / 1000, [row[0] for row in rows]

    def time(self, runs: Sequence[tuple[Plan, Timing]], queries: int, budget: float) -> None:
        """Execute every plan for each of so many queries; for fewer, but two, if that takes more than the budget, in seconds of processor
        time for a plan.  Plans take turns query by query, so that they meet the same moods of the machine; short executions are
        repeated, since what ran before them has filled the caches."""
        spent = [0.0] * len(runs)
        for query in range(queries):
            for i, (plan, timing) in enumerate(runs):
                if query > 1 and spent[i] > budget * 1e6 and query not in timing.best:
                    continue
                for _ in range(REPEATS):
                    took, timing.answers[query] = self.execute(plan, query)
                    timing.best[query] = min(took, timing.best.get(query, took))
                    spent[i] += took
                    if REPEATS * took > budget * 1e6 / queries:
                        break
        for plan, _ in runs:
            if self.explain(plan.name) != plan:
                raise RuntimeError(f"{plan}: the server has made another plan, {self.explain(plan.name)}")

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
