-- order: by elements, then by dimensions; -0 equals 0
CREATE TEMP TABLE v (t text);
INSERT INTO v VALUES ('[0,0,0]'), ('[-0,0,-0]'), ('[1]'), ('[1,2]'), ('[1,2,3]'), ('[1,2,2.9]'), ('[-1,5]'), ('[2]'), ('[-1]'), ('[0]'), ('[1e-6]'), ('[-1e-6]'), ('[6e4,1]');
SELECT array_agg(t ORDER BY t::vector, t) AS vector FROM v;
SELECT array_agg(t ORDER BY t::halfvec, t) AS halfvec FROM v;
SELECT array_agg(t ORDER BY t::vector::sparsevec, t) AS sparsevec FROM v;

-- all operators agree with the comparison of arrays, which orders in the same way
SELECT type, count(*),
	bool_and(lt = (cmp < 0)) AS lt, bool_and(le = (cmp <= 0)) AS le, bool_and(eq = (cmp = 0)) AS eq,
	bool_and(ne = (cmp <> 0)) AS ne, bool_and(ge = (cmp >= 0)) AS ge, bool_and(gt = (cmp > 0)) AS gt, bool_and(own = cmp) AS cmp
FROM (SELECT a.t::vector AS a, b.t::vector AS b, btarraycmp(a.t::vector::real[], b.t::vector::real[]) AS cmp FROM v a, v b) p,
	LATERAL (VALUES
		('vector', a < b, a <= b, a = b, a <> b, a >= b, a > b, vector_cmp(a, b)),
		('halfvec', a::halfvec < b::halfvec, a::halfvec <= b::halfvec, a::halfvec = b::halfvec, a::halfvec <> b::halfvec,
			a::halfvec >= b::halfvec, a::halfvec > b::halfvec, halfvec_cmp(a, b)),
		('sparsevec', a::sparsevec < b::sparsevec, a::sparsevec <= b::sparsevec, a::sparsevec = b::sparsevec, a::sparsevec <> b::sparsevec,
			a::sparsevec >= b::sparsevec, a::sparsevec > b::sparsevec, sparsevec_cmp(a, b))) o(type, lt, le, eq, ne, ge, gt, own)
GROUP BY type ORDER BY type;

-- equal values have equal hashes, 32 bits of the 64 at seed 0; others differ
SELECT type, count(*), bool_and((ha = hb) = eq) AS hash, bool_and((xa = xb) = eq) AS extended,
	bool_and(ha::bit(32) = x0::bit(32)) AS seed_0, bool_and(xa <> x0) AS seeds_matter
FROM (SELECT a.t::vector AS a, b.t::vector AS b FROM v a, v b) p,
	LATERAL (VALUES
		('vector', a = b, vector_hash(a), vector_hash(b), vector_hash_extended(a, 77), vector_hash_extended(b, 77), vector_hash_extended(a, 0)),
		('halfvec', a::halfvec = b::halfvec, halfvec_hash(a), halfvec_hash(b), halfvec_hash_extended(a, 77), halfvec_hash_extended(b, 77), halfvec_hash_extended(a, 0)),
		('sparsevec', a::sparsevec = b::sparsevec, sparsevec_hash(a), sparsevec_hash(b), sparsevec_hash_extended(a, 77), sparsevec_hash_extended(b, 77),
			sparsevec_hash_extended(a, 0))) o(type, eq, ha, hb, xa, xb, x0)
GROUP BY type ORDER BY type;

-- b-tree and hash indexes, merge and hash joins, hashed and sorted grouping
CREATE TEMP TABLE rows AS
SELECT i, ARRAY[i % 10, -(i % 7), 0.0, i % 3]::real[]::vector AS v FROM generate_series(1, 2000) i;
INSERT INTO rows SELECT i + 2000, (v * '[1,1,-1,1]')::vector FROM rows;
ALTER TABLE rows ADD h halfvec, ADD s sparsevec;
UPDATE rows SET h = v, s = v;
ANALYZE rows;
SET enable_sort = off;
EXPLAIN (COSTS off) SELECT v, count(*) FROM rows GROUP BY v;
SELECT count(DISTINCT v), (SELECT count(*) FROM (SELECT v FROM rows GROUP BY v) s) AS v,
	(SELECT count(*) FROM (SELECT h FROM rows GROUP BY h) s) AS h, (SELECT count(*) FROM (SELECT s FROM rows GROUP BY s) s) AS s FROM rows;
RESET enable_sort;
SET enable_hashagg = off;
SELECT (SELECT count(*) FROM (SELECT v FROM rows GROUP BY v) s) AS v,
	(SELECT count(*) FROM (SELECT h FROM rows GROUP BY h) s) AS h, (SELECT count(*) FROM (SELECT s FROM rows GROUP BY s) s) AS s;
RESET enable_hashagg;

SET enable_nestloop = off;
SET enable_mergejoin = off;
EXPLAIN (COSTS off) SELECT count(*) FROM rows a JOIN rows b USING (v);
SELECT (SELECT count(*) FROM rows a JOIN rows b USING (v)) AS v, (SELECT count(*) FROM rows a JOIN rows b USING (h)) AS h,
	(SELECT count(*) FROM rows a JOIN rows b USING (s)) AS s;
RESET enable_mergejoin;
SET enable_hashjoin = off;
EXPLAIN (COSTS off) SELECT count(*) FROM rows a JOIN rows b USING (v);
SELECT (SELECT count(*) FROM rows a JOIN rows b USING (v)) AS v, (SELECT count(*) FROM rows a JOIN rows b USING (h)) AS h,
	(SELECT count(*) FROM rows a JOIN rows b USING (s)) AS s;
RESET enable_hashjoin;
RESET enable_nestloop;
SELECT sum(2 * n * 2 * n) FROM (SELECT count(*) AS n FROM generate_series(1, 2000) i GROUP BY i % 10, i % 7, i % 3) s;

CREATE INDEX rows_v ON rows (v);
CREATE INDEX rows_h ON rows USING hash (h);
CREATE INDEX rows_s ON rows USING hash (s);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS off) SELECT count(*) FROM rows WHERE v = '[3,-2,-0,1]';
EXPLAIN (COSTS off) SELECT count(*) FROM rows WHERE h = '[3,-2,-0,1]';
SELECT (SELECT count(*) FROM rows WHERE v = '[3,-2,-0,1]') AS v, (SELECT count(*) FROM rows WHERE h = '[3,-2,-0,1]') AS h,
	(SELECT count(*) FROM rows WHERE s = '{1:3,2:-2,4:1}/4') AS s, (SELECT count(*) FROM rows WHERE v >= '[8]' AND v < '[9]') AS range;
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT count(*) FILTER (WHERE i % 10 = 3 AND i % 7 = 2 AND i % 3 = 1), count(*) FILTER (WHERE i % 10 = 8) FROM (SELECT i FROM generate_series(1, 2000) i, generate_series(1, 2)) s;

-- statistics of values of several dimensions
CREATE TEMP TABLE mixed AS SELECT t::vector AS v, t::halfvec AS h, t::vector::sparsevec AS s FROM v, generate_series(1, 10);
ANALYZE mixed;
SELECT attname, n_distinct FROM pg_stats WHERE tablename = 'mixed' ORDER BY 1;

-- uniqueness, partitions, set operations
CREATE TEMP TABLE u (v vector(2) PRIMARY KEY, h halfvec UNIQUE);
INSERT INTO u VALUES ('[0,1]', '[0]');
INSERT INTO u VALUES ('[-0,1]', '[1]');
INSERT INTO u VALUES ('[0,2]', '[-0]');
CREATE TEMP TABLE p (v vector) PARTITION BY HASH (v);
CREATE TEMP TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TEMP TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO p SELECT v FROM rows;
SELECT count(*), count(DISTINCT v) FROM p;
SELECT count(*) FROM p0 JOIN p1 USING (v);
SELECT '[1]'::vector UNION SELECT '[1]' UNION SELECT '[2]' ORDER BY 1;
