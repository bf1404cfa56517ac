"""The contenders that are PostgreSQL extensions: each in a database of its own, since their type and access method names are
the same."""
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg

from contenders import THROUGHPUT_SECONDS, Contender, IndexKind, Throughput
from datasets import K, Dataset, copy_binary

PROGRESS_SECONDS = 10
TOAST_THRESHOLD = 2000  # bytes of row above which the server moves a vector out of line, a little less than the real one
TOASTED_ROW = 2100  # bytes that a row gets, by a further column, if its vector is to be moved out of line but too short

KNN = f"SELECT id FROM items ORDER BY v <-> (SELECT v FROM query WHERE id = {{}}) LIMIT {K}"
INSERT_SCRIPT = r"""\set n :n + 1
\set row :first + :n * :clients + :client_id
INSERT INTO items (id, v) VALUES (:row, (SELECT v FROM spare WHERE id = :row));
"""


@dataclass(frozen=True)
class Inserts:
    """One run of single-row inserts, all clients together."""

    per_second: float
    wal_bytes: float  # per row
    wal_images: float  # full page images per row


def program(name: str) -> str:
    """Path of a program of the PostgreSQL version under test."""
    pg_config = os.environ.get("PG_CONFIG", "pg_config")
    folder = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    return str(Path(folder) / name)


def process_times(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def pgbench(database: str, script: str, clients: int, options: list[str], settings: dict[str, str]) -> tuple[float, int]:
    """Run a script from prepared sessions with the given settings; transactions per second, and their number."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        sessions = ["-c", str(clients), "-j", str(min(clients, os.cpu_count() or 1))]
        command = [program("pgbench"), "-n", "-M", "prepared", "--random-seed=1", *sessions, *options, "-f", file.name]
        environment = os.environ | {"PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in settings.items())}
        run = subprocess.run([*command, database], env=environment, capture_output=True, text=True, check=False)
    rate = re.search(r"^tps = ([0-9.]+)", run.stdout, re.MULTILINE)
    count = re.search(r"^number of transactions actually processed: (\d+)", run.stdout, re.MULTILINE)
    if run.returncode != 0 or rate is None or count is None:
        raise RuntimeError(f"pgbench failed in {database}:\n{run.stdout}{run.stderr}")
    return float(rate.group(1)), int(count.group(1))


class Server(Contender):
    """An extension, driven through SQL.  Tables: items (the rows), spare (rows to insert), query; all vectors but the items'
    are stored inline."""

    inline = True  # how the items' vectors are stored: within the row or TOASTed

    def __init__(self, name: str, extension: str):
        self.name = name
        self.database = f"bench_{name}"
        with psycopg.connect(dbname="postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {self.database}")
            connection.execute(f"CREATE DATABASE {self.database}")
        self.connection = psycopg.connect(dbname=self.database, autocommit=True)
        self.sql("CREATE EXTENSION pg_prewarm")
        self.sql(f"CREATE EXTENSION {extension}")
        self.extension = extension
        self.kind: IndexKind | None = None

    @staticmethod
    def available(extension: str) -> bool:
        with psycopg.connect(dbname="postgres") as connection:
            query = "SELECT 1 FROM pg_available_extensions WHERE name = %s"
            return connection.execute(query, (extension,)).fetchone() is not None

    def sql(self, statement: str) -> None:
        self.connection.execute(statement)

    def value(self, query: str):
        """The first column of a query's first row."""
        return self.connection.execute(query).fetchone()[0]

    def version(self) -> str:
        return self.value(f"SELECT extversion FROM pg_extension WHERE extname = '{self.extension}'")

    def supports(self, kind: IndexKind) -> bool:
        return self.value(f"SELECT count(*) FROM pg_am WHERE amname = '{kind.name}'") == 1

    def load(self, data: Dataset, rows: int) -> None:
        self.data, self.rows, self.kind = data, rows, None
        self.sql("RESET ALL")
        for table in ("items", "spare", "query"):
            self.sql(f"DROP TABLE IF EXISTS {table}")
            self.sql(f"CREATE TABLE {table} (id int4 NOT NULL, v vector({data.dim}) NOT NULL)")
            self.sql(f"ALTER TABLE {table} ALTER v SET STORAGE PLAIN")
        if not self.inline:
            self.sql("ALTER TABLE items ALTER v SET STORAGE EXTERNAL")
            pad = TOASTED_ROW - 4 * data.dim
            if pad > 0:
                self.sql(f"ALTER TABLE items ADD pad text DEFAULT repeat('x', {pad}), ALTER pad SET STORAGE PLAIN")
        self.copy("items", np.arange(rows), data.base[:rows])
        self.copy("spare", np.arange(rows, len(data.base)), data.base[rows:])
        self.copy("query", np.arange(len(data.query)), data.query)
        if (self.value("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'items'") == 0) != self.inline:
            raise RuntimeError(f"{self.name}: the vectors are not stored as asked for")
        self.sql("ALTER TABLE items SET (parallel_workers = 64)")  # that is, as many as the settings allow
        for table in ("spare", "query"):
            self.sql(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
        for table in ("items", "spare", "query"):
            self.sql(f"VACUUM (FREEZE, ANALYZE) {table}")
        self.sql("SELECT pg_prewarm('items')")
        self.sql("SELECT pg_prewarm(nullif(reltoastrelid, 0)) FROM pg_class WHERE oid = 'items'::regclass")

    def copy(self, table: str, ids: np.ndarray, vectors: np.ndarray) -> None:
        with self.connection.cursor().copy(f"COPY {table} (id, v) FROM STDIN (FORMAT binary)") as copy:
            for chunk in copy_binary(ids, vectors):
                copy.write(chunk)

    def plan(self) -> str:
        return "\n".join(line for (line,) in self.connection.execute("EXPLAIN " + KNN.format(1)))

    def require_plan(self, expected: str) -> None:
        if expected not in self.plan():
            raise RuntimeError(f"{self.name}: the plan has no {expected}:\n{self.plan()}")

    def prepare_exact(self, workers: int) -> bool:
        self.sql(f"SET max_parallel_workers_per_gather = {workers}")
        for cost in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
            self.sql(f"SET {cost} = 0")
        self.require_plan(f"Workers Planned: {workers}\n" if workers else "Seq Scan on items")
        return True

    def search_one(self, query: int) -> list[int]:
        return [i for (i,) in self.connection.execute(KNN.format("%s::int4"), (query,), prepare=True)]

    def build(self, kind: IndexKind, processes: int) -> None:
        self.create_index(kind, kind.options, processes)

    def create_index(self, kind: IndexKind, options: Mapping[str, int | str], processes: int) -> None:
        """Replace the index by one of this kind, with options that may be this extension's own."""
        settings = ", ".join(f"{name} = {value}" for name, value in options.items())
        self.sql("DROP INDEX IF EXISTS items_v_idx")
        self.sql(f"SET max_parallel_maintenance_workers = {processes - 1}")
        with self.progress(f"{self.name} {kind.name} build"):
            self.sql(f"CREATE INDEX items_v_idx ON items USING {kind.name} (v vector_l2_ops) WITH ({settings})")
        self.kind = kind

    def index_size(self) -> int:
        return self.value("SELECT pg_relation_size('items_v_idx')")

    def prepare_index(self) -> None:
        self.sql("SET enable_seqscan = off")
        self.require_plan("items_v_idx")
        self.sql("SELECT pg_prewarm('items_v_idx')")

    @contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """Print the server's own account of a long command now and then."""
        query = "SELECT phase, tuples_done FROM pg_stat_progress_create_index WHERE datname = %s"
        done = threading.Event()

        def report() -> None:
            start = time.monotonic()
            with psycopg.connect(dbname="postgres", autocommit=True) as connection:
                while not done.wait(PROGRESS_SECONDS):
                    row = connection.execute(query, (self.database,)).fetchone()
                    if row:
                        elapsed = time.monotonic() - start
                        print(f"  {what}: {elapsed:.0f} s, {row[0]}, {row[1]:,} rows", file=sys.stderr)

        thread = threading.Thread(target=report)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def set_effort(self, effort: int) -> None:
        self.sql(f"SET {self.kind.setting} = {effort}")

    def cpu_seconds(self) -> float:
        """This session's time, and that of the sessions and parallel workers of the cluster that have ended."""
        self.wait_until_alone()
        pid = self.connection.info.backend_pid
        own = process_times(pid)
        postmaster = process_times(int(own[1]))
        ticks = sum(map(int, own[11:13] + postmaster[13:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def throughput(self, effort: int, clients: int) -> Throughput:
        script = f"\\set id random(0, {len(self.data.query) - 1})\n{KNN.format(':id')};\n"
        settings = {self.kind.setting: str(effort), "enable_seqscan": "off"}
        before = self.pages_read()
        rate, count = pgbench(self.database, script, clients, ["-T", str(THROUGHPUT_SECONDS)], settings)
        return Throughput(rate / min(clients, os.cpu_count() or 1), count, self.pages_read() - before)

    def pages_read(self) -> int:
        """Pages that all sessions so far did not find in shared buffers, of tables and indexes."""
        self.wait_until_alone()
        return self.value("SELECT blks_read FROM pg_stat_database WHERE datname = current_database()")

    def insert(self, first: int, rows: int, clients: int, synchronous: bool) -> Inserts:
        """Insert the spare rows first .. first + rows - 1 right after a checkpoint, one row a transaction."""
        self.checkpoint()
        wal = "SELECT wal_bytes::float8, wal_fpi FROM pg_stat_wal"
        before = self.connection.execute(wal).fetchone()
        options = ["-t", str(rows // clients), "-D", "n=-1", "-D", f"first={first}", "-D", f"clients={clients}"]
        settings = {"synchronous_commit": "on" if synchronous else "off"}
        rate, _ = pgbench(self.database, INSERT_SCRIPT, clients, options, settings)
        self.wait_until_alone()
        after = self.connection.execute(wal).fetchone()
        return Inserts(rate, (after[0] - before[0]) / rows, (after[1] - before[1]) / rows)

    def wait_until_alone(self) -> None:
        """A session's statistics, and its processor time, are complete once it has gone."""
        others = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        while self.value(others) > 0:
            time.sleep(0.01)
        time.sleep(0.05)  # it leaves that view a little before it ends

    def set_full_page_writes(self, on: bool) -> None:
        self.sql(f"ALTER SYSTEM SET full_page_writes = {'on' if on else 'off'}")
        self.sql("SELECT pg_reload_conf()")
        time.sleep(1)  # the checkpointer applies it when the signal arrives

    def delete(self, condition: str) -> None:
        self.sql(f"DELETE FROM items WHERE {condition}")

    def vacuum(self) -> None:
        """Of the table, its TOAST table and the index, without parallel workers."""
        self.sql("VACUUM (INDEX_CLEANUP ON, PARALLEL 0) items")

    def checkpoint(self) -> None:
        self.sql("CHECKPOINT")

    def live_ids(self) -> np.ndarray:
        return np.array([i for (i,) in self.connection.execute("SELECT id FROM items ORDER BY id")])
