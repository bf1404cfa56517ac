#!/usr/bin/python3
"""Make the benchmark vectors of one data set.

  make_data.py OUT_DIR deb384    about 62,000 x 384, text: latent semantic analysis of the Debian package index (apt's own
                                 lists), with deb384.meta.json (section, size, priority, maintainer: real filter
                                 columns); has many equal vectors
  make_data.py OUT_DIR syn128    1,000,000 x 128, synthetic manifold of intrinsic dimension 24
  make_data.py OUT_DIR syn768    200,000 x 768, intrinsic dimension 32
  make_data.py OUT_DIR syn1536   100,000 x 1536, intrinsic dimension 40

Writes NAME.base.npy and NAME.query.npy (float32) and NAME.gt.npy (int32: ids of the 100 nearest, exact L2).  Needs Debian's
python3-numpy and python3-faiss; for deb384 also python3-sklearn, apt-utils' lists (`apt-get update`) and apt-cache.
"""
import argparse
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

QUERIES = 1000
NEIGHBOURS = 100
CHUNK = 100_000  # rows made at a time; part of the data sets' definition, since it orders the random numbers


@dataclass(frozen=True)
class Manifold:
    """A synthetic data set: clusters on a curved surface of low intrinsic dimension, plus noise."""

    rows: int
    dim: int
    intrinsic: int
    clusters: int
    seed: int
    noise: float = 0.05


MANIFOLDS = {
    "syn128": Manifold(1_000_000, 128, 24, 500, 1),
    "syn768": Manifold(200_000, 768, 32, 200, 2),
    "syn1536": Manifold(100_000, 1536, 40, 200, 3),
}


def make_manifold(m: Manifold) -> tuple[np.ndarray, np.ndarray]:
    """Base and query vectors: a random two-layer network applied to a mixture of Gaussians."""
    rng = np.random.default_rng(m.seed)
    hidden = max(4 * m.intrinsic, 128)
    w1 = rng.standard_normal((m.intrinsic, hidden)).astype(np.float32) / np.sqrt(m.intrinsic)
    w2 = rng.standard_normal((hidden, m.dim)).astype(np.float32) / np.sqrt(hidden)
    centre = rng.standard_normal((m.clusters, m.intrinsic)).astype(np.float32)
    bias = rng.standard_normal(hidden).astype(np.float32)
    weight = rng.gamma(1.0, 1.0, m.clusters)
    weight /= weight.sum()

    total = m.rows + QUERIES
    out = np.empty((total, m.dim), np.float32)
    for start in range(0, total, CHUNK):
        end = min(start + CHUNK, total)
        z = centre[rng.choice(m.clusters, end - start, p=weight)]
        z = z + 0.7 * rng.standard_normal((end - start, m.intrinsic)).astype(np.float32)
        x = np.tanh(1.5 * z @ w1 + bias) @ w2
        out[start:end] = x + m.noise * rng.standard_normal(x.shape).astype(np.float32)
    out = out[rng.permutation(total)]
    return out[: m.rows], out[m.rows :]


def package_records() -> Iterator[dict[str, str]]:
    """The paragraphs of the Debian package index that describe a package, continuation lines joined."""
    command = ["apt-cache", "dumpavail"]
    dump = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
    for paragraph in dump.split("\n\n"):
        record: dict[str, str] = {}
        last = None
        for line in paragraph.split("\n"):
            field = re.match(r"^([A-Za-z0-9-]+): ?(.*)", line)
            if field:
                last = field.group(1)
                record[last] = field.group(2)
            elif line.startswith(" ") and last:
                record[last] += " " + line.strip()
        if "Package" in record:
            yield record


def package_text(record: dict[str, str]) -> str:
    """The words of one package: name twice, description three times, then tags, section, source and dependencies."""
    name = re.sub(r"[-_.+]", " ", record["Package"])
    description = record.get("Description", "") or record.get("Description-en", "")
    depends = re.sub(r"[(|,:].*?[),]|[|,]", " ", record.get("Depends", ""))
    rest = [record.get("Tag", ""), record.get("Section", ""), record.get("Source", ""), depends]
    return " ".join([name] * 2 + [description] * 3 + rest)


def package_meta(record: dict[str, str]) -> dict[str, str | int | None]:
    """The filter columns of one package; size in kB."""
    return {
        "name": record["Package"],
        "section": record.get("Section"),
        "size": int(record.get("Installed-Size", 0)),
        "priority": record.get("Priority"),
        "maintainer": record.get("Maintainer"),
    }


def make_packages(dim: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Base and query vectors of unit length, and the filter columns of the base rows."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    records = list(package_records())
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=3, max_df=0.3, token_pattern=r"(?u)\b[\w:+-]+\b")
    terms = tfidf.fit_transform(map(package_text, records))
    x = TruncatedSVD(dim, random_state=0, n_iter=3).fit_transform(terms).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-9
    order = np.random.default_rng(0).permutation(len(x))
    query, base = order[:QUERIES], order[QUERIES:]
    return x[base], x[query], [package_meta(records[i]) for i in base]


def exact_neighbours(base: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Ids of each query's nearest base rows by exact L2 distance, nearest first."""
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base)
    return index.search(query, NEIGHBOURS)[1].astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=["deb384", *MANIFOLDS])
    args = parser.parse_args()

    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.name == "deb384":
        base, query, meta = make_packages(384)
        (args.out / f"{args.name}.meta.json").write_text(json.dumps(meta))
    else:
        base, query = make_manifold(MANIFOLDS[args.name])
    np.save(args.out / f"{args.name}.gt.npy", exact_neighbours(base, query))
    np.save(args.out / f"{args.name}.query.npy", query)
    np.save(args.out / f"{args.name}.base.npy", base)
    print(f"{args.name}: {base.shape[0]} x {base.shape[1]} in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
