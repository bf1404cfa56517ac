"""Data sets of the benchmark, and the exact answers that recall is measured against."""
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

K = 10  # neighbours asked for, everywhere
TIE = 1e-5  # relative: kernels sum in float32, so two rows whose distances differ by less are both right
RANDOM_ELEMENTS = 38_400_000  # size of a random data set: 100,000 rows of 384, 25,000 of 1536
RANDOM_QUERIES = 100
COPY_CHUNK = 4096  # rows encoded at a time


@dataclass(frozen=True)
class Dataset:
    """Vectors (float32); the row number is the id."""

    name: str
    base: np.ndarray
    query: np.ndarray

    @property
    def dim(self) -> int:
        return self.base.shape[1]


def open_dataset(name: str, folder: Path, rows: int | None) -> Dataset:
    """A data set made by make_data.py, or for the name random<d> normally distributed vectors; at most `rows` rows."""
    random = re.fullmatch(r"random(\d+)", name)
    if random:
        dim = int(random.group(1))
        rng = np.random.default_rng(dim)
        base = rng.standard_normal((rows or RANDOM_ELEMENTS // dim, dim), np.float32)
        return Dataset(name, base, rng.standard_normal((RANDOM_QUERIES, dim), np.float32))
    base_file = folder / f"{name}.base.npy"
    if not base_file.exists():
        raise SystemExit(f"no data set {name} in {folder}: run test/bench/make_data.py {folder} {name}")
    base = np.load(base_file, mmap_mode="r")[:rows]
    return Dataset(name, np.ascontiguousarray(base), np.load(folder / f"{name}.query.npy"))


def squared_distances(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared L2 distances of one query to some rows, in double precision."""
    difference = rows.astype(np.float64) - query.astype(np.float64)
    return np.einsum("ij,ij->i", difference, difference)


class Truth:
    """The true distance of the K-th neighbour of the first `queries` queries (all) among the rows with the ids `live`."""

    def __init__(self, data: Dataset, live: np.ndarray, queries: int | None = None):
        self.data = data
        query = data.query[:queries]
        index = faiss.IndexFlatL2(data.dim)
        index.add(data.base[live])
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        nearest = live[index.search(query, K)[1]]
        self.limit = np.array(
            [squared_distances(q, data.base[ids]).max() for q, ids in zip(query, nearest, strict=True)]
        ) * (1 + TIE) ** 2

    def recall(self, answers: Sequence[Sequence[int]]) -> float:
        """Mean share of the K rows that are right: no farther than the true K-th one.  A row counts once."""
        right = 0
        query = self.data.query[: len(self.limit)]
        for q, limit, ids in zip(query, self.limit, answers, strict=True):
            right += np.count_nonzero(squared_distances(q, self.data.base[np.unique(ids).astype(int)]) <= limit)
        return right / (K * len(answers))


def copy_binary(ids: np.ndarray, vectors: np.ndarray, *columns: np.ndarray) -> Iterator[bytes]:
    """Rows (id int4, v vector, further columns int4) in the format of COPY ... (FORMAT binary)."""
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("id_length", ">i4"),
            ("id", ">i4"),
            ("v_length", ">i4"),
            ("dim", ">i2"),
            ("unused", ">i2"),
            ("x", ">f4", vectors.shape[1]),
            *[field for i in range(len(columns)) for field in ((f"length{i}", ">i4"), (f"column{i}", ">i4"))],
        ]
    )
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(ids), COPY_CHUNK):
        chunk = slice(start, start + COPY_CHUNK)
        out = np.zeros(len(ids[chunk]), row)
        out["fields"] = 2 + len(columns)
        out["id_length"] = 4
        out["id"] = ids[chunk]
        out["v_length"] = 4 + 4 * vectors.shape[1]
        out["dim"] = vectors.shape[1]
        out["x"] = vectors[chunk]
        for i, column in enumerate(columns):
            out[f"length{i}"] = 4
            out[f"column{i}"] = column[chunk]
        yield out.tobytes()
    yield b"\xff\xff"
