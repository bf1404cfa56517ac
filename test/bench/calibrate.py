#!/usr/bin/python3
"""What the planner's constants come from: the processor time of one step after another, beside the cost that the planner expects.  Each
line is the difference between two queries that differ in the number of one thing.  See README; started by `run`."""
import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from datasets import open_dataset
from plans import SWITCHES, Session, Timing

TABLES = (("syn128", 50_000, True), ("syn768", 20_000, True), ("syn768", 20_000, False), ("syn1536", 10_000, False))
QUERIES = 20
REPEATS = 4
BUDGET = 2.0  # seconds for each query
NARROW_ROWS = 1_000_000


@dataclass(frozen=True)
class Query:
    """A query of some kind under these settings, and the number of things it deals with."""

    sql: str
    number: float
    settings: dict[str, str | int]
    switches: tuple[str, ...] = SWITCHES


class Calibration:
    def __init__(self, out: Path, data_folder: Path, most_rows: int):
        out.parent.mkdir(parents=True, exist_ok=True)
        self.file = out.open("w")
        self.data_folder, self.most_rows = data_folder, most_rows
        self.session = Session()
        self.lines: list[tuple[str, float, float]] = []

    def measure(self, query: Query) -> tuple[float, float]:
        """Microseconds and cost."""
        s = self.session
        s.set_switches(query.switches)
        for name, value in query.settings.items():
            s.sql(f"SET {name} = {value}")
        plan = s.prepare(query.sql)
        timing = Timing()
        for _ in range(REPEATS):
            s.time([(plan, timing)], QUERIES, BUDGET)
        return timing.microseconds, plan.cost

    def difference(self, what: str, less: Query, more: Query) -> None:
        us, cost = (b - a for a, b in zip(self.measure(less), self.measure(more), strict=True))
        number = more.number - less.number
        self.lines.append((what, us / number, cost / number))
        self.file.write(json.dumps({"what": what, "us": us / number, "cost": cost / number}) + "\n")
        print(f"{what:58}{us / number:10.3f}{cost / number:12.5f}{us / cost:12.2f}", flush=True)

    def run(self) -> None:
        print(f"{'':58}{'us':>10}{'cost':>12}{'us / cost':>12}")
        self.narrow()
        for dataset, rows, inline in TABLES:
            self.vectors(dataset, min(rows, self.most_rows), inline)
        units = [us / cost for _, us, cost in self.lines]
        print(f"\na cost unit: median {statistics.median(units):.2f} us, {min(units):.2f} to {max(units):.2f}")

    def narrow(self) -> None:
        s = self.session
        s.sql("DROP TABLE IF EXISTS narrow")
        s.sql(f"""CREATE TABLE narrow AS SELECT i AS id, hashint4(i) & 1048575 AS dice, i & 1048575 AS place
            FROM generate_series(1, {NARROW_ROWS}) i""")
        s.sql("CREATE INDEX ON narrow (dice)")
        s.sql("VACUUM (FREEZE, ANALYZE) narrow")
        scan = "SELECT count(*) FROM narrow WHERE place + $1 < {} AND id <= 0"
        plain = Query("SELECT count(*) FROM narrow WHERE $1 < 0", 0, {}, ("enable_seqscan",))
        self.difference("a row of a sequential scan", plain, Query(scan.format(1), NARROW_ROWS, {}, ("enable_seqscan",)))
        count = "SELECT count(id) FROM narrow WHERE $1 >= 0 AND dice < {}"
        for switch, what in (("enable_bitmapscan", "a row of a bitmap scan"), ("enable_indexscan", "a row of an index scan")):
            few, many = (Query(count.format(n), n * NARROW_ROWS / 1048576, {}, (switch,)) for n in (1000, 20000))
            self.difference(what, few, many)

    def vectors(self, dataset: str, rows: int, inline: bool) -> None:
        s = self.session
        data = open_dataset(dataset, self.data_folder, rows)
        name = f"{data.dim} dimensions{'' if inline else ', TOASTed'}"
        s.load("items", data, inline, {})
        search = "SELECT id FROM items ORDER BY v <-> (SELECT v FROM items_query WHERE id = $1) LIMIT {}"
        half = f"SELECT id FROM items WHERE id < {rows // 10} ORDER BY v <-> (SELECT v FROM items_query WHERE id = $1) LIMIT 10"
        self.difference(f"{name}: a row ranked exactly", Query(half, rows / 10, {}, ("enable_seqscan",)),
                        Query(search.format(10), rows, {}, ("enable_seqscan",)))
        s.sql("SET maintenance_work_mem = '1GB'")
        index = ("enable_indexscan",)
        for quantizer in ("auto", "none"):
            options = f"quantizer = {quantizer}"
            s.sql(f"CREATE INDEX items_v ON items USING hnsw (v vector_l2_ops) WITH ({options}, ef_construction = 32)")
            few, many = (Query(search.format(1), ef, {"hnsw.ef_search": ef}, index) for ef in (20, 120))
            self.difference(f"{name}: hnsw, quantizer {quantizer}: a visit", few, many)
            few, many = (Query(search.format(k), k, {"hnsw.ef_search": 40}, index) for k in (20, 400))
            self.difference(f"{name}: hnsw, quantizer {quantizer}: a row returned", few, many)
            s.sql("DROP INDEX items_v")
            s.sql(f"CREATE INDEX items_v ON items USING ivfflat (v vector_l2_ops) WITH ({options}, lists = 200)")
            few, many = (Query(search.format(1), probes * rows / 200, {"ivfflat.probes": probes}, index) for probes in (20, 200))
            self.difference(f"{name}: ivfflat, quantizer {quantizer}: an entry", few, many)
            few, many = (Query(search.format(k), k, {"ivfflat.probes": 200}, index) for k in (10, 400))
            self.difference(f"{name}: ivfflat, quantizer {quantizer}: a row returned", few, many)
            s.sql("DROP INDEX items_v")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="file for the results, JSON lines")
    parser.add_argument("--rows", type=int, default=max(rows for _, rows, _ in TABLES), help="of a table of vectors, at the most")
    args = parser.parse_args()
    Calibration(args.out, args.data, args.rows).run()


if __name__ == "__main__":
    main()
