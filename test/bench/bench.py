#!/usr/bin/python3
"""Compare ann with pgvector on one server and with hnswlib and faiss in this process.  See README; started by `run`."""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np
import psycopg

from contenders import Contender, Faiss, Hnswlib, IndexKind, Throughput
from datasets import K, Dataset, Truth, open_dataset
from server import TOAST_THRESHOLD, Inserts, Server

ROUNDS = 3
TARGETS = (0.95, 0.99)
EXACT_SECONDS = 1.0
EXACT_WORKERS = (0, 2)
EXACT_CHECKED = 5  # queries whose exact answers are verified
DELETED = "id % 5 = 0"
EXTENSIONS = {"ann": "ann", "pgvector": "vector"}
LIBRARIES = {"hnswlib": Hnswlib, "faiss": Faiss}
CONTENDERS = (*EXTENSIONS, *LIBRARIES)
TASKS = ("exact", "hnsw", "ivfflat", "size")
PARTS = ("build", "search", "insert", "vacuum")
SMALLER = {  # options of ann's that make an index smaller
    "hnsw": ({"refine_type": "sq8"}, {"quantizer": "none", "refine_type": "sq8"}),
    "ivfflat": ({"refine_type": "sq8"},),
}
STORAGES = {"inline": "vectors inline", "toast": "vectors TOASTed"}


@dataclass(frozen=True)
class Scope:
    """How much of an index is measured."""

    parts: Sequence[str]  # of PARTS
    processes: Sequence[int]  # that build together, one build for each number
    clients: Sequence[int]  # that ask or insert at a time, one measurement for each number


@dataclass(frozen=True)
class InsertMode:
    """How single-row inserts are made; `wal` names the measure of the WAL they write, if it is one of its own."""

    name: str
    synchronous_commit: bool
    full_page_writes: bool
    wal: str | None


INSERT_MODES = (
    InsertMode("synchronous_commit off", False, True, "after a checkpoint"),
    InsertMode("synchronous_commit on", True, True, None),
    InsertMode("full_page_writes off", False, False, "full_page_writes off"),
)

C = TypeVar("C", bound=Contender)
T = TypeVar("T")


class Report:
    """Prints one table per task and keeps every raw number in a file of JSON lines."""

    def __init__(self, file: TextIO, machine: dict):
        self.file = file
        self.write(machine)

    def write(self, record: dict) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def begin(self, task: str, title: str, contenders: Sequence[Contender]) -> None:
        self.task, self.title = task, title
        self.names = [c.name for c in contenders]
        self.cells: dict[str, dict[str, str]] = {}
        progress(title)

    def add(self, metric: str, contender: Contender, values: float | Sequence[float], form: str = "{:,.0f}") -> None:
        """One row's value for one contender: a number, or the numbers of all rounds, of which the median is shown."""
        raw = [values] if isinstance(values, (int, float)) else list(values)
        median = statistics.median(raw)
        self.cells.setdefault(metric, {})[contender.name] = form.format(median)
        data = contender.data
        where = {"task": self.task, "title": self.title, "dataset": data.name, "rows": contender.rows, "dim": data.dim}
        self.write(where | {"metric": metric, "contender": contender.name, "median": median, "values": raw})

    def end(self) -> None:
        width = max(map(len, self.cells)) + 2
        print(f"\n{self.title}\n\n{'':{width}}" + "".join(f"{name:>12}" for name in self.names))
        for metric, cells in self.cells.items():
            print(f"{metric:{width}}" + "".join(f"{cells.get(name, '-'):>12}" for name in self.names))
        print(flush=True)


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def interleaved(contenders: Sequence[C], measure: Callable[[C, int], T]) -> dict[C, list[T]]:
    """Measure every contender in turn, ROUNDS times over, so that the machine's moods meet all of them."""
    values: dict[C, list[T]] = {c: [] for c in contenders}
    for turn in range(ROUNDS):
        for c in contenders:
            values[c].append(measure(c, turn))
    return values


def with_cpu(c: Contender, work: Callable[[], T]) -> tuple[T, float]:
    """The result of some work of the contender, and the processor seconds that it took."""
    before = c.cpu_seconds()
    result = work()
    return result, c.cpu_seconds() - before


def report_time(report: Report, what: str, c: Contender, work: Callable[[], None]) -> None:
    """Do some work once and report its elapsed and its processor seconds."""

    def clocked() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    seconds, cpu = with_cpu(c, clocked)
    report.add(f"{what} (s)", c, seconds, "{:,.2f}")
    report.add(f"{what}: CPU (s)", c, cpu, "{:,.2f}")


def run_exact(data: Dataset, storage: str, contenders: Sequence[Contender], report: Report) -> None:
    """Rows per second of a full scan that keeps the K nearest."""
    rows = len(data.base)
    able = []
    for c in contenders:
        c.load(data, rows)
        if c.prepare_exact(0):
            able.append(c)
    report.begin("exact", f"exact search, {data.name}: {rows:,} x {data.dim}, {STORAGES[storage]}", able)
    truth = Truth(data, np.arange(rows), EXACT_CHECKED)

    def scan(c: Contender) -> tuple[int, float]:
        """Rows scanned, and seconds."""
        count = 0
        start = time.perf_counter()
        while time.perf_counter() - start < EXACT_SECONDS:
            c.search_one(count % len(data.query))
            count += 1
        return rows * count, time.perf_counter() - start

    def measure(c: Contender, _turn: int) -> tuple[float, float]:
        """Million rows per second, and nanoseconds of processor time per row."""
        (scanned, seconds), cpu = with_cpu(c, lambda: scan(c))
        return scanned / seconds / 1e6, cpu / scanned * 1e9

    for workers in EXACT_WORKERS:
        active = [c for c in able if c.prepare_exact(workers)]
        for c in active:
            if truth.recall([c.search_one(query) for query in range(EXACT_CHECKED)]) < 1:
                raise RuntimeError(f"{c.name}: exact search is not exact")
        how = f"{workers} workers" if workers else "serial"
        for c, measured in interleaved(active, measure).items():
            report.add(f"{how}: million rows/s", c, [rate for rate, _ in measured], "{:.3f}")
            report.add(f"{how}: CPU ns/row", c, [cpu for _, cpu in measured])
    report.end()


def find_effort(target: float, kind: IndexKind, recall: Callable[[int], float]) -> int | None:
    """The smallest effort, to within 2 %, whose recall reaches the target; recall grows with effort.

    Doubles until the target is bracketed.  Then interpolates, since the share of misses falls about as a power of the
    effort, and halves the bracket at every third step in case it does not.
    """
    low, high = kind.min_effort, kind.min_effort
    while recall(high) < target:
        if high == kind.max_effort:
            return None
        low, high = high, min(2 * high, kind.max_effort)
    step = 0
    while high - low > (tolerance := max(1, low // 50)):
        step += 1
        middle = (low + high) // 2
        if step % 3:
            misses = [max(1 - r, 1e-4) for r in (recall(low), target, recall(high))]
            share = math.log(misses[0] / misses[1]) / math.log(misses[0] / misses[2])
            middle = round(low * (high / low) ** share)
            middle = min(max(middle, low + tolerance), high - tolerance)
        if recall(middle) < target:
            low = middle
        else:
            high = middle
    return high


def measure_builds(kind: IndexKind, contenders: Sequence[Contender], scope: Scope, report: Report) -> None:
    """Build times, once each; the last build stays.  Unless builds are what is asked for, that by all cores alone."""
    for processes in scope.processes if "build" in scope.parts else [os.cpu_count() or 1]:
        for c in contenders:
            progress(f"building {kind.name}, {processes} process(es): {c.name}")
            report_time(report, f"build, {processes} process(es)", c, lambda c=c: c.build(kind, processes))
    for c in contenders:
        report.add("index size (MB)", c, c.index_size() / 1e6, "{:,.1f}")
        if isinstance(c, Server):
            c.checkpoint()
            c.prepare_index()


class Efforts:
    """The effort at which each contender reaches a recall, and what was measured on the way."""

    def __init__(self, kind: IndexKind, truth: Truth):
        self.kind, self.truth = kind, truth
        self.memory: dict[tuple[Contender, int], float] = {}

    def recall(self, c: Contender, effort: int) -> float:
        if (c, effort) not in self.memory:
            self.memory[c, effort] = self.truth.recall(c.search(effort))
        return self.memory[c, effort]

    def find(self, contenders: Sequence[Contender], target: float) -> dict[Contender, int]:
        """Of the contenders that reach it."""
        progress(f"looking for the {self.kind.setting} that reaches recall {target}")
        found = {c: find_effort(target, self.kind, lambda effort, c=c: self.recall(c, effort)) for c in contenders}
        return {c: effort for c, effort in found.items() if effort is not None}


def measure_searches(efforts: Efforts, contenders: Sequence[Contender], scope: Scope, report: Report) -> None:
    """Throughput at the recall targets, by each number of clients."""
    kind = efforts.kind
    for target in TARGETS:
        found = efforts.find(contenders, target)
        for c in contenders:
            report.add(f"recall {target}: {kind.setting}", c, found.get(c, kind.max_effort))
            report.add(f"recall {target}: measured", c, efforts.recall(c, found.get(c, kind.max_effort)), "{:.4f}")
        for clients in scope.clients:
            # A library in this process has one thread, whatever the number of clients.
            asked = [c for c in found if isinstance(c, Server) or clients == scope.clients[0]]
            where = f"recall {target}: " + (f"{clients} clients, " if len(scope.clients) > 1 else "")

            def search(c: Contender, _turn: int, clients=clients, found=found) -> tuple[Throughput, float]:
                return with_cpu(c, lambda: c.throughput(found[c], clients))

            for c, runs in interleaved(asked, search).items():
                report.add(f"{where}queries/s per core", c, [t.per_core for t, _ in runs])
                report.add(f"{where}CPU us/query", c, [cpu / t.queries * 1e6 for t, cpu in runs])
                if isinstance(c, Server):
                    report.add(f"{where}pages read/query", c, [t.pages_read / t.queries for t, _ in runs], "{:,.1f}")
    for c in contenders:
        by_effort = {effort: r for (d, effort), r in efforts.memory.items() if d is c}
        report.write({"recall_by_effort": by_effort, "contender": c.name})


def measure_inserts(servers: Sequence[Server], per_run: int, scope: Scope, report: Report) -> None:
    """Single-row inserts, each run right after a checkpoint."""
    number = 0
    for clients in scope.clients:
        who = f", {clients} clients" if len(scope.clients) > 1 else ""
        for mode in INSERT_MODES:
            progress(f"inserting{who}, {mode.name}")
            servers[0].set_full_page_writes(mode.full_page_writes)

            def insert(c: Server, turn: int, number=number, clients=clients, mode=mode) -> tuple[Inserts, float]:
                first = c.rows + (number * ROUNDS + turn) * per_run
                return with_cpu(c, lambda: c.insert(first, per_run, clients, mode.synchronous_commit))

            for c, runs in interleaved(servers, insert).items():
                report.add(f"inserts/s{who}, {mode.name}", c, [i.per_second for i, _ in runs])
                report.add(f"CPU us/insert{who}, {mode.name}", c, [cpu / per_run * 1e6 for _, cpu in runs])
                if mode.wal:
                    report.add(f"WAL bytes/insert{who}, {mode.wal}", c, [i.wal_bytes for i, _ in runs])
                    report.add(f"page images/insert{who}, {mode.wal}", c, [i.wal_images for i, _ in runs], "{:.1f}")
            number += 1
    servers[0].set_full_page_writes(True)


def measure_changes(
    servers: Sequence[Server], efforts: Efforts, per_run: int, data: Dataset, scope: Scope, report: Report
) -> None:
    """Inserts, deletions, VACUUM, and the recall that they leave behind."""
    effort = {c: efforts.kind.max_effort for c in servers} | efforts.find(servers, TARGETS[0])

    def report_recall(when: str) -> None:
        live = [c.live_ids() for c in servers]
        truth = Truth(data, live[0])
        for c, ids in zip(servers, live, strict=True):
            if not np.array_equal(ids, live[0]):
                raise RuntimeError(f"{c.name} holds other rows than {servers[0].name}")
            report.add(f"recall {when}, same effort", c, truth.recall(c.search(effort[c])), "{:.4f}")

    for c in servers:
        report.add("recall before changes", c, efforts.recall(c, effort[c]), "{:.4f}")
    if "insert" in scope.parts:
        measure_inserts(servers, per_run, scope, report)
        report_recall("after inserts")
    if "vacuum" in scope.parts:
        for c in servers:
            progress(f"VACUUM: {c.name}")
            c.delete(DELETED)
            c.checkpoint()
            report_time(report, "VACUUM after deleting 20 %", c, c.vacuum)
        report_recall("after VACUUM")


def run_index(
    kind: IndexKind, data: Dataset, storage: str, contenders: Sequence[Contender], scope: Scope, report: Report
) -> None:
    """One kind of index on one data set."""
    contenders = [c for c in contenders if c.supports(kind)]
    servers = [c for c in contenders if isinstance(c, Server)]
    runs = len(INSERT_MODES) * ROUNDS * len(scope.clients) if "insert" in scope.parts else 0
    every = math.lcm(*scope.clients)
    per_run = min(1000, len(data.base) // 10 // max(runs, 1)) // every * every
    rows = len(data.base) - runs * per_run
    options = ", ".join(f"{name} = {value}" for name, value in kind.options.items())
    title = f"{kind.name} ({options}), {data.name}: {rows:,} x {data.dim}, {STORAGES[storage]}"
    report.begin(kind.name, title, contenders)
    for c in contenders:
        c.load(data, rows)
    measure_builds(kind, contenders, scope, report)
    if scope.parts != ["build"]:
        efforts = Efforts(kind, Truth(data, np.arange(rows)))
        if "search" in scope.parts:
            measure_searches(efforts, contenders, scope, report)
        if servers and {"insert", "vacuum"} & set(scope.parts):
            measure_changes(servers, efforts, per_run, data, scope, report)
    report.end()


def run_sizes(data: Dataset, servers: Sequence[Server], lists: int | None, report: Report) -> None:
    """Bytes of index a row, as it comes and with the options that make ann's smaller."""
    rows = len(data.base)
    for c in servers:
        c.load(data, rows)
    for name, smaller in SMALLER.items():
        kind = index_kind(name, rows, lists)
        report.begin("size", f"size of {name}, {data.name}: {rows:,} x {data.dim}", servers)
        for c in servers:
            for options in ({}, *smaller) if c.name == "ann" else ({},):
                progress(f"building {name}: {c.name} {options or ''}")
                c.create_index(kind, kind.options | options, os.cpu_count() or 1)
                what = ", ".join(f"{key} = {value}" for key, value in options.items()) or "default"
                report.add(f"bytes/row, {what}", c, c.index_size() / rows)
        report.end()


def index_kind(name: str, rows: int, lists: int | None) -> IndexKind:
    """The index to compare, with the options that pgvector has by default or advises."""
    if name == "hnsw":
        return IndexKind("hnsw", {"m": 16, "ef_construction": 64}, "hnsw.ef_search", K, 1000)
    lists = lists or round(rows**0.5)
    return IndexKind("ivfflat", {"lists": lists}, "ivfflat.probes", 1, lists)


def describe_machine(contenders: Sequence[Contender]) -> dict:
    """Commit, CPU, memory (kB), kernel, versions and the server's settings that are not defaults."""
    lscpu = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    fields = dict(line.split(":", 1) for line in lscpu.splitlines() if ":" in line)
    cpu = {name: fields[name].strip() for name in fields if name == "Model name" or name.endswith("cache")}
    memory = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    with psycopg.connect(dbname="postgres") as connection:
        version = connection.execute("SELECT version()").fetchone()[0]
        query = "SELECT name, current_setting(name) FROM pg_settings WHERE source = 'configuration file'"
        settings = dict(connection.execute(query).fetchall())
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip(),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_kb": int(memory),
        "kernel": platform.release(),
        "server": version,
        "settings": settings,
        "versions": {"numpy": np.__version__} | {c.name: c.version() for c in contenders},
    }


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to write")
    parser.add_argument("--dataset", type=words, default=["deb384"], help="names, separated by commas")
    parser.add_argument("--what", type=words, default=["exact", "hnsw", "ivfflat"], help="tasks: exact,hnsw,ivfflat,size")
    parser.add_argument("--storage", type=words, default=[], help="inline,toast; default: what the server would do")
    parser.add_argument("--rows", type=int, help="use only so many rows")
    parser.add_argument("--parts", type=words, default=list(PARTS), help="of an index: build,search,insert,vacuum")
    parser.add_argument("--lists", type=numbers, default=[], help="lists of ivfflat; default: the square root of the rows")
    every = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--processes", type=numbers, default=every, help="that build; default: 1, and as many as cores")
    parser.add_argument("--clients", type=numbers, default=[2], help="that ask and insert; default: 2")
    parser.add_argument("--contenders", type=words, default=list(CONTENDERS), help="ann,pgvector,hnswlib,faiss")
    args = parser.parse_args()
    known_words = ((args.what, TASKS), (args.storage, STORAGES), (args.parts, PARTS), (args.contenders, CONTENDERS))
    for given, known in known_words:
        if not set(given) <= set(known):
            parser.error(f"{','.join(given)}: choose from {', '.join(known)}")
    return args


def main() -> None:
    args = parse_arguments()
    servers = [
        Server(name, extension)
        for name, extension in EXTENSIONS.items()
        if name in args.contenders and Server.available(extension)
    ]
    contenders = [*servers, *(library() for name, library in LIBRARIES.items() if name in args.contenders)]
    scope = Scope(args.parts, args.processes, args.clients)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w") as file:
        report = Report(file, describe_machine(contenders))
        for name in args.dataset:
            data = open_dataset(name, args.data, args.rows)
            natural = "toast" if 4 * data.dim > TOAST_THRESHOLD else "inline"
            for storage in args.storage or [natural]:
                for c in servers:
                    c.inline = storage == "inline"
                for task in args.what:
                    if task == "exact":
                        run_exact(data, storage, contenders, report)
                    elif task == "size":
                        run_sizes(data, servers, next(iter(args.lists), None), report)
                    else:
                        for lists in args.lists if task == "ivfflat" and args.lists else [None]:
                            kind = index_kind(task, len(data.base), lists)
                            run_index(kind, data, storage, contenders, scope, report)
    print(f"raw numbers: {args.out}")


if __name__ == "__main__":
    main()
