"""What is compared: the interface that the tasks use, and the libraries that search in this process."""
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np

from datasets import K, Dataset

THROUGHPUT_SECONDS = 3  # of one measurement

Answers = list[list[int]]


@dataclass(frozen=True)
class IndexKind:
    """An index that every contender is asked to build, and the run-time setting that trades speed for recall."""

    name: str  # hnsw or ivfflat: the access method's name
    options: dict[str, int]
    setting: str
    min_effort: int
    max_effort: int


@dataclass(frozen=True)
class Throughput:
    per_core: float  # queries per second and core
    queries: int  # asked in this measurement
    pages_read: int = 0  # by a server, from outside its shared buffers


class Contender(ABC):
    """One implementation.  Data are loaded first; then it searches exactly, or an index is built, replacing the one before."""

    name: str
    data: Dataset
    rows: int

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def load(self, data: Dataset, rows: int) -> None:
        """Take the first `rows` rows of the data set, dropping any earlier ones and their index."""

    @abstractmethod
    def prepare_exact(self, workers: int) -> bool:
        """Make search_one exact, with this many parallel workers.  False if it cannot."""

    @abstractmethod
    def supports(self, kind: IndexKind) -> bool: ...

    @abstractmethod
    def build(self, kind: IndexKind, processes: int) -> None: ...

    @abstractmethod
    def index_size(self) -> int:
        """Bytes."""

    @abstractmethod
    def set_effort(self, effort: int) -> None:
        """Set the index's run-time setting for search_one."""

    @abstractmethod
    def search_one(self, query: int) -> list[int]:
        """Ids found for one of the data set's queries."""

    @abstractmethod
    def throughput(self, effort: int, clients: int) -> Throughput:
        """Search the index for a while, as fast as it goes."""

    @abstractmethod
    def cpu_seconds(self) -> float:
        """Processor time that this contender has used so far; of a server the sessions', without its clients'."""

    def search(self, effort: int) -> Answers:
        """Ids found for every query, one query at a time."""
        self.set_effort(effort)
        return [self.search_one(query) for query in range(len(self.data.query))]


class InProcess(Contender):
    """A library called from Python: no server, no SQL, no durability; one thread searches, one query per call."""

    index: Any

    def load(self, data: Dataset, rows: int) -> None:
        self.data, self.rows, self.index = data, rows, None

    @abstractmethod
    def nearest(self, query: np.ndarray) -> np.ndarray:
        """The ids for a 1 x d query."""

    @abstractmethod
    def save(self, path: str) -> None: ...

    def index_size(self) -> int:
        """The index as the library saves it (vectors included)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self.save(str(path))
            return path.stat().st_size

    def search_one(self, query: int) -> list[int]:
        return [i for i in self.nearest(self.data.query[query : query + 1]).tolist() if i >= 0]

    def cpu_seconds(self) -> float:
        return time.process_time()

    def throughput(self, effort: int, clients: int) -> Throughput:
        self.set_effort(effort)
        count = 0
        start = time.perf_counter()
        while time.perf_counter() - start < THROUGHPUT_SECONDS:
            self.nearest(self.data.query[count % len(self.data.query)][None])
            count += 1
        return Throughput(count / (time.perf_counter() - start), count)


class Hnswlib(InProcess):
    name = "hnswlib"

    def prepare_exact(self, workers: int) -> bool:
        return False

    def version(self) -> str:
        return package_version("hnswlib")

    def supports(self, kind: IndexKind) -> bool:
        return kind.name == "hnsw"

    def build(self, kind: IndexKind, processes: int) -> None:
        self.index = hnswlib.Index("l2", self.data.dim)
        self.index.init_index(self.rows, M=kind.options["m"], ef_construction=kind.options["ef_construction"])
        self.index.add_items(self.data.base[: self.rows], num_threads=processes)
        self.index.set_num_threads(1)

    def set_effort(self, effort: int) -> None:
        self.index.set_ef(max(effort, K))

    def nearest(self, query: np.ndarray) -> np.ndarray:
        return self.index.knn_query(query, K)[0][0].astype(int)

    def save(self, path: str) -> None:
        self.index.save_index(path)


class Faiss(InProcess):
    name = "faiss"

    def version(self) -> str:
        return faiss.__version__

    def supports(self, kind: IndexKind) -> bool:
        return kind.name in ("hnsw", "ivfflat")

    def build(self, kind: IndexKind, processes: int) -> None:
        base = self.data.base[: self.rows]
        faiss.omp_set_num_threads(processes)
        if kind.name == "hnsw":
            self.index = faiss.IndexHNSWFlat(self.data.dim, kind.options["m"])
            self.index.hnsw.efConstruction = kind.options["ef_construction"]
        else:
            self.quantizer = faiss.IndexFlatL2(self.data.dim)
            self.index = faiss.IndexIVFFlat(self.quantizer, self.data.dim, kind.options["lists"])
            self.index.train(base)
        self.index.add(base)

    def prepare_exact(self, workers: int) -> bool:
        if workers > 0:  # it spreads queries over threads, not one query
            return False
        self.index = faiss.IndexFlatL2(self.data.dim)
        self.index.add(self.data.base[: self.rows])
        faiss.omp_set_num_threads(1)
        return True

    def set_effort(self, effort: int) -> None:
        faiss.omp_set_num_threads(1)
        if isinstance(self.index, faiss.IndexHNSWFlat):
            self.index.hnsw.efSearch = effort
        else:
            self.index.nprobe = effort

    def nearest(self, query: np.ndarray) -> np.ndarray:
        return self.index.search(query, K)[1][0]

    def save(self, path: str) -> None:
        faiss.write_index(self.index, path)
