#!/usr/bin/python3
"""Does the planner choose well?  For every cell of a grid of queries, the processor time of the plan that is chosen over that of the
best plan there is.  See README; started by `run`."""
import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets import TIE, Dataset, open_dataset, squared_distances
from plans import SWITCHES, Plan, Session, Timing

SCALE = 1_000_000  # of the filter columns: a row's value is its place in some order, 0 to SCALE - 1
QUERIES = 20
ROUNDS = 5
CHUNK = 16_384  # rows that distances are computed for at once
CONTENDER = 2.0  # a plan that takes so many times the fastest one's time in a round is out, unless it is chosen
LIMIT_REGRET = 1.5
RECALL_LOSS = 0.02
RECALL_FLOOR = 0.95  # not to be fallen below where the search without a filter reaches it
RECALL_SAMPLE = 50  # rows a cell must have been asked for, over its queries, before its recall says anything
WANTED = {"median": 1.0, "above": 0.05, "worst": 3.0}


@dataclass(frozen=True)
class Table:
    dataset: str
    rows: int
    inline: bool

    @property
    def name(self) -> str:
        return f"{self.dataset}_{self.rows}_{'inline' if self.inline else 'toast'}"


@dataclass(frozen=True)
class Filter:
    share: float  # of the rows that pass
    kind: str  # none, independent, near or far: of the queries
    condition: str


@dataclass
class Grid:
    tables: list[Table]
    ks: list[int]
    shares: list[float]
    kinds: tuple[str, ...] = ("independent", "near", "far")

    def filters(self) -> Iterator[Filter]:
        for share in self.shares:
            if share == 1:
                yield Filter(1, "none", "true")
                continue
            for kind in self.kinds:
                if kind == "far":
                    condition = f"place >= {round((1 - share) * SCALE)}"
                else:
                    condition = f"{'place' if kind == 'near' else 'dice'} < {round(share * SCALE)}"
                yield Filter(share, kind, condition)


GRIDS = {
    "quick": Grid([Table("syn128", 10_000, True), Table("syn768", 50_000, False)], [1, 10, 100], [1, 0.1, 0.01, 0.001]),
    "full": Grid(
        [
            *(Table("syn128", rows, True) for rows in (10_000, 50_000, 200_000)),
            *(Table("deb384", rows, True) for rows in (10_000, 50_000)),
            *(Table("syn768", rows, False) for rows in (10_000, 50_000, 200_000)),
            Table("syn768", 50_000, True),
            Table("syn1536", 50_000, False),
        ],
        [1, 10, 100, 1000],
        [1, 0.5, 0.1, 0.01, 0.001, 0.0001],
    ),
    "large": Grid([Table("syn128", 500_000, True)], [1, 10, 100, 1000], [1, 0.5, 0.1, 0.01, 0.001, 0.0001]),
}

# The indexes that a cell's table has.
FILTERS = ("dice_btree", "place_btree")
INDEX_SETS = {
    "none": (),
    "btree": FILTERS,
    "hnsw": ("v_hnsw",),
    "ivfflat": ("v_ivfflat",),
    "btree+hnsw": (*FILTERS, "v_hnsw"),
    "btree+ivfflat": (*FILTERS, "v_ivfflat"),
    "all": (*FILTERS, "v_hnsw", "v_ivfflat"),
}
WITHOUT_OURS = ("none", "btree")  # where the server chooses between plans of its own
# Ways to force a plan: indexes that are there, switches that are on (enable_indexscan and enable_bitmapscan count for AnnScan too).
# What comes of them is looked at, not assumed.
FORCED = [
    ((), ("enable_seqscan",)),
    (FILTERS, ("enable_bitmapscan",)),
    (FILTERS, ("enable_indexscan",)),
    *(
        forced
        for index in ("v_hnsw", "v_ivfflat")
        for forced in (
            ((index,), ("enable_indexscan",)),
            ((index,), ("enable_indexscan", "ann.enable_annscan")),
            ((*FILTERS, index), ("enable_indexscan", "enable_bitmapscan", "ann.enable_annscan")),
            ((*FILTERS, index), ("enable_indexscan", "enable_bitmapscan", "ann.enable_annscan", "ann.enable_late_bitmap")),
        )
    ),
]


def pivot_columns(data: Dataset) -> tuple[Dataset, dict[str, np.ndarray]]:
    """The data set with only the query vectors that lie nearest to one of them, and the filter columns: `dice` has nothing to do with
    the vectors, `place` is a row's place in the order of the distance from where the queries are."""
    rng = np.random.default_rng(0)
    rows = len(data.base)
    from_first = squared_distances(data.query[0], data.query)
    query = data.query[np.argsort(from_first)[:QUERIES]]
    place = np.empty(rows, np.int64)
    place[np.argsort(all_distances(data.query[0], data.base))] = np.arange(rows) * SCALE // rows
    dice = rng.permutation(rows) * SCALE // rows
    return Dataset(data.name, data.base, np.ascontiguousarray(query)), {"dice": dice, "place": place}


def all_distances(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([squared_distances(query, rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)])


@dataclass
class Truth:
    """Exact distances from every query, computed here."""

    distances: list[np.ndarray]
    columns: dict[str, np.ndarray]
    kth: dict[tuple[Filter, int, int], tuple[int, float]] = field(default_factory=dict)

    def passes(self, f: Filter) -> np.ndarray:
        if f.kind == "none":
            return np.ones(len(self.distances[0]), bool)
        column, operator, value = f.condition.split()
        return self.columns[column] < int(value) if operator == "<" else self.columns[column] >= int(value)

    def limit(self, f: Filter, k: int, query: int) -> tuple[int, float]:
        """Rows that there are to be found, at most k, and the distance of the last of them."""
        key = (f, k, query)
        if key not in self.kth:
            distances = self.distances[query][self.passes(f)]
            count = min(k, len(distances))
            last = np.partition(distances, count - 1)[count - 1] if count else 0.0
            self.kth[key] = (count, float(last) * (1 + TIE) ** 2)
        return self.kth[key]

    def judge(self, f: Filter, k: int, answers: dict[int, list[int]]) -> tuple[float, int, int]:
        """Recall over all queries, rows asked for, and rows that are missing or should not be there."""
        right = wanted = wrong = 0
        mask = self.passes(f)
        for query, ids in answers.items():
            count, last = self.limit(f, k, query)
            unique = np.unique(np.array(ids, int))
            right += int(np.count_nonzero(self.distances[query][unique] <= last))
            wanted += count
            wrong += abs(len(ids) - count) + len(ids) - len(unique) + int(np.count_nonzero(~mask[unique]))
        return (right / wanted if wanted else 1.0), wanted, wrong


@dataclass
class Measured:
    plan: Plan
    timing: Timing = field(default_factory=Timing)
    recall: float = 0
    wanted: int = 0
    wrong: int = 0


def rivals(known: dict[str, Measured], chosen: Measured, indexes: Sequence[str]) -> list[Measured]:
    """What could be done with these indexes, by shape of plan.  A plan whose answers are worse is no better."""
    missing = set(INDEX_SETS["all"]) - set(indexes)
    return [m for m in known.values() if not any(m.plan.uses(i) for i in missing)
            and (m.recall >= chosen.recall - RECALL_LOSS or m is chosen)]


def contenders(known: dict[str, Measured], chosen: dict[str, str]) -> list[Measured]:
    """Those that are chosen for some set of indexes or may be the best one there: the others are not worth another round."""
    kept = set(chosen.values())
    for name, shape in chosen.items():
        possible = rivals(known, known[shape], INDEX_SETS[name])
        least = min(m.timing.microseconds for m in possible)
        kept.update(m.plan.shape for m in possible if m.timing.microseconds < CONTENDER * least)
    return [m for shape, m in known.items() if shape in kept]


class Bench:
    def __init__(self, out: Path, grid: Grid, data_folder: Path, budget: float):
        out.parent.mkdir(parents=True, exist_ok=True)
        self.file = out.open("w")
        self.grid, self.data_folder, self.budget = grid, data_folder, budget
        self.session = Session()
        self.cells: list[dict] = []
        self.plans: list[dict] = []
        version = self.session.value("SELECT version()")
        self.write({"machine": platform.machine(), "cpus": os.cpu_count(), "server": version, "grid": repr(grid)})

    def write(self, record: dict) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def run(self) -> None:
        for table in self.grid.tables:
            data, columns = pivot_columns(open_dataset(table.dataset, self.data_folder, table.rows))
            if len(data.base) < table.rows:
                raise SystemExit(f"{table.dataset} has only {len(data.base)} rows")
            progress(f"{table.name}: loading")
            self.load(table, data, columns)
            truth = Truth([all_distances(q, data.base) for q in data.query], columns)
            for f in self.grid.filters():
                progress(f"{table.name}: {f.share:.2%} {f.kind}")
                for k in self.grid.ks:
                    if k == 1 or table.rows * f.share >= k / 10:
                        self.run_query(table, f, k, truth)

    def load(self, table: Table, data: Dataset, columns: dict[str, np.ndarray]) -> None:
        s = self.session
        s.load("items", data, table.inline, columns)
        s.sql("SET maintenance_work_mem = '1GB'")
        for column in columns:
            s.sql(f"CREATE INDEX {column}_btree ON items ({column})")
        for am in ("hnsw", "ivfflat"):
            s.sql(f"CREATE INDEX v_{am} ON items USING {am} (v vector_l2_ops)")
        s.sql("VACUUM ANALYZE items")
        s.sql("CHECKPOINT")

    def run_query(self, table: Table, f: Filter, k: int, truth: Truth) -> None:
        s = self.session
        query = f"""SELECT id FROM items{'' if f.kind == 'none' else ' WHERE ' + f.condition}
            ORDER BY v <-> (SELECT v FROM items_query WHERE id = $1) LIMIT {k}"""
        known: dict[str, Measured] = {}
        s.forget()
        where = {"table": table.name, "rows": table.rows, "share": f.share, "kind": f.kind, "k": k}

        def look(indexes: tuple[str, ...], switches: tuple[str, ...]) -> str:
            """The plan that this leads to."""
            with s.only_indexes("items", indexes):
                s.set_switches(switches)
                plan = s.prepare(query)
            known.setdefault(plan.shape, Measured(plan))
            return plan.shape

        for indexes, switches in FORCED:
            look(indexes, switches)
        chosen_shapes = {name: look(indexes, SWITCHES) for name, indexes in INDEX_SETS.items()}
        # The machine's moods meet all of them.
        running = list(known.values())
        for _ in range(ROUNDS):
            s.time([(m.plan, m.timing) for m in running], QUERIES, self.budget)
            for m in running:
                m.recall, m.wanted, m.wrong = truth.judge(f, k, m.timing.answers)
            running = contenders(known, chosen_shapes)
        for m in known.values():
            record = {"plan": m.plan.shape, "cost": m.plan.cost, "us": m.timing.microseconds, "queries": len(m.timing.answers),
                      "recall": m.recall, "wanted": m.wanted, "wrong": m.wrong}
            self.plans.append(where | record)
            self.write(where | record)
        for name, indexes in INDEX_SETS.items():
            chosen = known[chosen_shapes[name]]
            best = min(rivals(known, chosen, indexes), key=lambda m: m.timing.microseconds)
            cell = where | {
                "indexes": name,
                "chosen": chosen.plan.shape,
                "best": best.plan.shape,
                "us": chosen.timing.microseconds,
                "best_us": best.timing.microseconds,
                "regret": chosen.timing.microseconds / best.timing.microseconds,
                "recall": chosen.recall,
                "wanted": chosen.wanted,
                "wrong": chosen.wrong,
            }
            self.cells.append(cell)
            self.write(cell)

    def shortfalls(self) -> list[dict]:
        """Cells that find less than the same index does without a filter."""
        unfiltered = {}
        for p in self.plans:
            for am in ("v_hnsw", "v_ivfflat"):
                if p["kind"] == "none" and am in p["plan"]:
                    key = p["table"], p["k"], am
                    unfiltered[key] = max(p["recall"], unfiltered.get(key, 0))
        short = []
        for c in self.cells:
            for am in ("v_hnsw", "v_ivfflat"):
                if am in c["chosen"] and c["wanted"] >= RECALL_SAMPLE:
                    wanted = unfiltered[c["table"], c["k"], am]
                    loss = wanted - c["recall"]
                    if loss > RECALL_LOSS or c["recall"] < RECALL_FLOOR <= wanted:
                        short.append(c | {"loss": loss})
        return short

    def report(self) -> bool:
        """Print the tables; whether all that is wanted is so."""
        print_table("regret by index set", self.cells, lambda c: c["indexes"])
        print_table("regret by rows that pass", self.cells, lambda c: f"{c['share']:.2%} {c['kind']}")
        print_table("regret by k", self.cells, lambda c: f"{c['k']}")
        print_table("regret by table", self.cells, lambda c: c["table"])

        scale: dict[str, list[float]] = defaultdict(list)
        for p in self.plans:
            scale[p["plan"]].append(p["us"] / p["cost"])
        print("\nmicroseconds of a cost unit, by plan" + " " * 30 + "median    least     most  plans")
        for shape, values in sorted(scale.items()):
            print(f"  {shape:62}{statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f} {len(values):6}")

        worst = sorted(self.cells, key=lambda c: -c["regret"])[:20]
        print("\nworst cells")
        for c in worst:
            print(f"  {c['regret']:6.2f}  {describe(c)}: {c['us']:.0f} us {c['chosen']}; {c['best_us']:.0f} us {c['best']}")
        wrong = [c for c in self.cells if c["wrong"]]
        print(f"\ncells short of rows or with wrong ones: {len(wrong)}")
        for c in wrong[:20]:
            print(f"  {c['wrong']} of {c['wanted']}  {describe(c)}: {c['chosen']}")
        short = self.shortfalls()
        print(f"\ncells whose recall is more than {RECALL_LOSS} below that without a filter, "
              f"or below {RECALL_FLOOR} where that is not: {len(short)}")
        for c in sorted(short, key=lambda c: -c["loss"])[:20]:
            print(f"  {c['recall']:.3f}, {c['loss']:.3f} below  {describe(c)}: {c['chosen']}")

        median, above, most = self.summary("cells", self.cells)
        self.summary("of them with an index of ours", [c for c in self.cells if c["indexes"] not in WITHOUT_OURS])
        self.write({"cells": len(self.cells), "median": median, "above": above, "worst": most, "wrong": len(wrong),
                    "short": len(short)})
        return (median <= WANTED["median"] + 0.005 and above <= WANTED["above"] and most < WANTED["worst"]
                and not wrong and not short)

    @staticmethod
    def summary(name: str, cells: list[dict]) -> tuple[float, float, float]:
        """Print and return the median, the share above the limit and the worst."""
        regrets = [c["regret"] for c in cells]
        above = sum(r > LIMIT_REGRET for r in regrets) / len(regrets)
        median = statistics.median(regrets)
        print(f"\n{len(regrets)} {name}: median {median:.2f}, above {LIMIT_REGRET} {above:.1%}, worst {max(regrets):.2f}")
        return median, above, max(regrets)


def describe(c: dict) -> str:
    return f"{c['table']} k {c['k']} {c['share']:.2%} {c['kind']}, {c['indexes']}"


def print_table(title: str, cells: list[dict], key) -> None:
    groups: dict[str, list[float]] = defaultdict(list)
    for c in cells:
        groups[key(c)].append(c["regret"])
    print(f"\n{title:40}median   above {LIMIT_REGRET}    worst  cells")
    for name, regrets in groups.items():
        above = sum(r > LIMIT_REGRET for r in regrets) / len(regrets)
        print(f"  {name:36}{statistics.median(regrets):8.2f} {above:10.1%} {max(regrets):8.2f} {len(regrets):6}")


def progress(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="file for the raw results, JSON lines")
    parser.add_argument("--grid", choices=GRIDS, default="quick")
    parser.add_argument("--tables", help="DATASET:ROWS:inline|toast, several with commas, in place of the grid's")
    parser.add_argument("--ks", help="LIMITs, with commas, in place of the grid's")
    parser.add_argument("--shares", help="shares of the rows that pass, with commas, in place of the grid's")
    parser.add_argument("--budget", type=float, default=0.1, help="seconds of processor time for a plan, in each round")
    args = parser.parse_args()
    grid = GRIDS[args.grid]
    if args.tables:
        fields = [t.split(":") for t in args.tables.split(",")]
        grid = Grid([Table(name, int(rows), storage == "inline") for name, rows, storage in fields], grid.ks, grid.shares)
    if args.ks:
        grid.ks = [int(k) for k in args.ks.split(",")]
    if args.shares:
        grid.shares = [float(share) for share in args.shares.split(",")]
    bench = Bench(args.out, grid, args.data, args.budget)
    bench.run()
    if not bench.report():
        sys.exit(3)


if __name__ == "__main__":
    main()
