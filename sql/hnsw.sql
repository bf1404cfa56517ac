-- hnsw: every operator class against exact search, and what a scan owes in the corner cases
SET client_min_messages = warning;
SET jit = off;
SELECT setseed(0.5);

\set am hnsw
\getenv abs_srcdir PG_ABS_SRCDIR
\set shared :abs_srcdir '/sql/shared/rows.sql'
\set ECHO none
\i :shared
\set ECHO all

SET hnsw.ef_search = 60;
SELECT t.* FROM (VALUES
	('vector_l2_ops', 'v', '<->'), ('vector_ip_ops', 'v', '<#>'), ('vector_cosine_ops', 'v', '<=>'), ('vector_l1_ops', 'v', '<+>'),
	('halfvec_l2_ops', 'h', '<->'), ('halfvec_ip_ops', 'h', '<#>'), ('halfvec_cosine_ops', 'h', '<=>'), ('halfvec_l1_ops', 'h', '<+>'),
	('sparsevec_l2_ops', 's', '<->'), ('sparsevec_ip_ops', 's', '<#>'), ('sparsevec_cosine_ops', 's', '<=>'), ('sparsevec_l1_ops', 's', '<+>'),
	('bit_hamming_ops', 'b', '<~>'), ('bit_jaccard_ops', 'b', '<%>')) o (opclass, col, op), LATERAL hnsw_try(opclass, col, op) t;
SELECT t.* FROM (VALUES ('quantizer = rabitq'), ('quantizer = none'), ('refine_type = full'), ('refine_type = half'), ('refine_type = sq8'),
	('quantizer = none, refine_type = half'), ('quantizer = none, refine_type = sq8'), ('m = 5, ef_construction = 100'), ('m = 48')) o (options),
	(VALUES ('vector_l2_ops', 'v', '<->'), ('vector_ip_ops', 'v', '<#>'), ('vector_cosine_ops', 'v', '<=>'), ('halfvec_cosine_ops', 'h', '<=>')) k (opclass, col, op),
	LATERAL hnsw_try(opclass, col, op, 'WITH (' || options || ')') t
ORDER BY 1;
RESET hnsw.ef_search;

-- An unbounded scan returns every row once, NULLs last, zero vectors (no cosine distance) before them.
CREATE TABLE hnsw_all (id int, v vector(40));
INSERT INTO hnsw_all SELECT id, v FROM hnsw_rows;
INSERT INTO hnsw_all SELECT -i, NULL FROM generate_series(1, 7) i;
INSERT INTO hnsw_all SELECT -100 - i, array_fill(0, ARRAY[40])::vector FROM generate_series(1, 5) i;
-- more equal rows than a row has room for, and more than edges
INSERT INTO hnsw_all SELECT -1000 - i, (SELECT v FROM hnsw_rows WHERE id = 1) FROM generate_series(1, 400) i;
CREATE INDEX hnsw_all_cosine ON hnsw_all USING hnsw (v vector_cosine_ops);
CREATE INDEX hnsw_all_l2 ON hnsw_all USING hnsw (v vector_l2_ops);
SET enable_seqscan = off;
SET enable_sort = off;
CREATE TEMP TABLE scanned AS
	SELECT row_number() OVER () AS n, id, d FROM (SELECT id, v <=> (SELECT v FROM hnsw_rows WHERE id = 2) AS d
		FROM hnsw_all ORDER BY v <=> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
SELECT count(*), count(DISTINCT id), count(d), count(*) FILTER (WHERE d = 'NaN') FROM scanned;
SELECT array_agg(d IS NULL ORDER BY n) AS nulls, array_agg(d = 'NaN' ORDER BY n) AS nans FROM scanned WHERE n > (SELECT count(*) - 13 FROM scanned);
-- in order, but for the counted tail of late rows
SELECT count(*) < 30 AS few_late FROM (SELECT d, lag(d) OVER (ORDER BY n) AS before FROM scanned WHERE d <> 'NaN') t WHERE d < before;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_all ORDER BY v <-> NULL) t;
SELECT count(*), count(DISTINCT id), bool_and(d = 'NaN') FROM (SELECT id, v <=> array_fill(0, ARRAY[40])::vector AS d FROM hnsw_all
	WHERE v IS NOT NULL ORDER BY v <=> array_fill(0, ARRAY[40])::vector) t;
-- equal rows come together
SELECT count(*) FROM (SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 1) LIMIT 401) t WHERE id < -1000 OR id = 1;

-- A filter never makes the answer short, unless asked to.
SELECT count(*) FROM (SELECT id FROM hnsw_all WHERE id % 100 = 37 ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2) LIMIT 10) t;
SELECT count(*) FROM (SELECT id FROM hnsw_all WHERE id = -3 ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2) LIMIT 10) t;
SET hnsw.iterative_scan = relaxed_order;
SELECT count(*) FROM (SELECT id FROM hnsw_all WHERE id % 100 = 37 ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2) LIMIT 10) t;
SET hnsw.iterative_scan = off;
SELECT count(*) < 200 AS short FROM (SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
RESET hnsw.iterative_scan;
SET hnsw.max_scan_tuples = 100;
SELECT bool_and(d >= coalesce(before, 0)) AS sorted FROM (SELECT d, lag(d) OVER () AS before FROM
	(SELECT v <-> (SELECT v FROM hnsw_rows WHERE id = 2) AS d FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) s) t;
SELECT count(*) BETWEEN 50 AND 500 AS limited FROM (SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
RESET hnsw.max_scan_tuples;

-- Small memory: the rest is swept and sorted; the result is complete.
SET work_mem = '64kB';
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
RESET work_mem;

-- Rescans, cursors, two orderings, several scans at once
SELECT count(*) FROM hnsw_query q, LATERAL (SELECT id FROM hnsw_all a WHERE a.id > 0 ORDER BY a.v <-> q.v LIMIT 3) n;
SELECT count(*) FROM hnsw_query q, LATERAL (SELECT id FROM hnsw_all a ORDER BY a.v <-> q.v LIMIT 1) n WHERE n.id = q.id;
SELECT count(*) FROM (SELECT id FROM hnsw_all WHERE id > 0 ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2), v <-> (SELECT v FROM hnsw_rows WHERE id = 3) LIMIT 20) t;
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2);
DECLARE b CURSOR FOR SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 3);
FETCH 1 FROM a;
FETCH 1 FROM b;
MOVE 100 IN a;
MOVE 100 IN b;
COMMIT;

-- Row by row into an empty index: as good as built afterwards.
CREATE TABLE hnsw_grown (id int, v vector(40));
CREATE INDEX hnsw_grown_idx ON hnsw_grown USING hnsw (v vector_l2_ops);
SELECT count(*) FROM (SELECT id FROM hnsw_grown ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2) LIMIT 5) t;
INSERT INTO hnsw_grown SELECT id, v FROM hnsw_rows;
INSERT INTO hnsw_grown VALUES (-1, NULL);
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_grown ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;
SELECT count(*) >= 19 AS found FROM hnsw_query q, LATERAL (SELECT id FROM hnsw_grown a ORDER BY a.v <-> q.v LIMIT 1) n WHERE n.id = q.id;
UPDATE hnsw_grown SET v = v * array_fill(2, ARRAY[40])::vector WHERE id <= 20;
DELETE FROM hnsw_grown WHERE id BETWEEN 21 AND 40;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_grown ORDER BY v <-> (SELECT v FROM hnsw_rows WHERE id = 2)) t;


-- Large vectors: rows that do not fit a page
CREATE TABLE hnsw_large (id int, v vector(5000), h halfvec(16000));
INSERT INTO hnsw_large SELECT i, array_agg(random() ORDER BY d)::real[]::vector, NULL FROM generate_series(1, 40) i, generate_series(1, 5000) d GROUP BY i;
UPDATE hnsw_large SET h = (SELECT array_agg(x) FROM (SELECT unnest(v::real[]) x FROM hnsw_large l2 WHERE l2.id BETWEEN hnsw_large.id AND hnsw_large.id + 3 LIMIT 16000) t)::real[]::vector(16000)::halfvec(16000) WHERE id <= 30;
CREATE INDEX ON hnsw_large USING hnsw (v vector_l2_ops);
CREATE INDEX ON hnsw_large USING hnsw (h halfvec_cosine_ops);
CREATE INDEX ON hnsw_large USING hnsw (v vector_cosine_ops) WITH (quantizer = none);
INSERT INTO hnsw_large SELECT 100 + id, v, h FROM hnsw_large WHERE id <= 3;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_large ORDER BY v <-> (SELECT v FROM hnsw_large WHERE id = 2)) t;
SELECT id FROM hnsw_large ORDER BY h <=> (SELECT h FROM hnsw_large WHERE id = 4) LIMIT 1;
SELECT id FROM hnsw_large ORDER BY v <=> (SELECT v FROM hnsw_large WHERE id = 5) LIMIT 1;

-- Values at the ends of the range
CREATE TABLE hnsw_extreme (id int, v vector(64));
INSERT INTO hnsw_extreme SELECT i, array_fill(power(10, i), ARRAY[64])::float8[]::vector FROM generate_series(-37, 37) i;
CREATE INDEX ON hnsw_extreme USING hnsw (v vector_l2_ops);
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hnsw_extreme ORDER BY v <-> array_fill(1, ARRAY[64])::vector) t;

-- An index rebuilt in the same file (TRUNCATE in the transaction that made the table) has another centre:
-- what this backend remembers of the old one must not reach the new one.
BEGIN;
CREATE TABLE hnsw_rebuilt (id int, v vector(40));
INSERT INTO hnsw_rebuilt SELECT id, (SELECT array_agg(x + 100 ORDER BY n) FROM unnest(v::real[]) WITH ORDINALITY u(x, n))::real[]::vector FROM hnsw_rows;
CREATE INDEX ON hnsw_rebuilt USING hnsw (v vector_l2_ops) WITH (quantizer = rabitq);
SELECT id FROM hnsw_rebuilt ORDER BY v <-> (SELECT v FROM hnsw_rebuilt WHERE id = 7) LIMIT 1;
TRUNCATE hnsw_rebuilt;
INSERT INTO hnsw_rebuilt SELECT id, v FROM hnsw_rows;
COMMIT;
SELECT count(*) >= 19 AS found FROM hnsw_query q, LATERAL (SELECT id FROM hnsw_rebuilt a ORDER BY a.v <-> q.v LIMIT 1) n WHERE n.id = q.id;
DROP TABLE hnsw_rebuilt;

-- A beam so wide that what an insert remembers of it has to grow
CREATE TABLE hnsw_wide (v vector(1536));
CREATE INDEX ON hnsw_wide USING hnsw (v vector_l2_ops) WITH (ef_construction = 800);
INSERT INTO hnsw_wide SELECT array_agg(random() ORDER BY d)::real[]::vector FROM generate_series(1, 700) i, generate_series(1, 1536) d GROUP BY i;
SELECT count(*) FROM (SELECT 1 FROM hnsw_wide ORDER BY v <-> (SELECT v FROM hnsw_wide LIMIT 1)) t;
DROP TABLE hnsw_wide;

-- A LIMIT far beyond the beam
CREATE TABLE hnsw_limit (id int, v vector(8));
INSERT INTO hnsw_limit SELECT i, ARRAY[random(), random(), random(), random(), random(), random(), random(), random()]::vector FROM generate_series(1, 10000) i;
CREATE INDEX ON hnsw_limit USING hnsw (v vector_l2_ops) WITH (ef_search = 40);
SELECT avg(found) >= 0.95 AS recall_100 FROM (SELECT q.id, (SELECT count(*) FROM (SELECT v <-> q.v AS d FROM hnsw_limit ORDER BY v <-> q.v LIMIT 100) i
		WHERE d <= (SELECT max(d) FROM (SELECT (v <-> q.v) + 0 AS d FROM hnsw_limit ORDER BY (v <-> q.v) + 0 LIMIT 100) e)) / 100.0 AS found
	FROM hnsw_limit q WHERE id <= 20) t;
DROP TABLE hnsw_limit;

-- Distances that are no numbers: last, but for the NULLs
CREATE TABLE hnsw_nan (id int, v vector(4));
INSERT INTO hnsw_nan SELECT i, ARRAY[i, 1, 1, 1]::vector FROM generate_series(1, 300) i;
INSERT INTO hnsw_nan VALUES (1000, '[1e30,1e30,0,0]'), (1001, NULL);
CREATE INDEX ON hnsw_nan USING hnsw (v vector_ip_ops) WITH (quantizer = none);
SELECT id FROM (SELECT id, row_number() OVER () AS n FROM (SELECT id FROM hnsw_nan ORDER BY v <#> '[1e30,-1e30,0,0]') s) t WHERE n > 300;
DROP TABLE hnsw_nan;

-- A dimension that sparsevec alone can have
CREATE TABLE hnsw_sparse (id int, s sparsevec(1000000000));
INSERT INTO hnsw_sparse SELECT i, format('{%s:1,%s:%s}/1000000000', i, i * 1000000, i)::sparsevec FROM generate_series(1, 100) i;
CREATE INDEX ON hnsw_sparse USING hnsw (s sparsevec_l2_ops);
SELECT id FROM hnsw_sparse ORDER BY s <-> '{7:1,7000000:7}/1000000000' LIMIT 1;
DROP TABLE hnsw_sparse;

-- Errors
CREATE INDEX ON hnsw_rows USING hnsw (v);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops, h halfvec_l2_ops);
CREATE UNIQUE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops) WITH (m = 1);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops) WITH (m = 101);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops) WITH (ef_construction = 3);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l2_ops) WITH (quantizer = pq);
CREATE INDEX ON hnsw_rows USING hnsw (v vector_l1_ops) WITH (quantizer = rabitq);
CREATE INDEX ON hnsw_rows USING hnsw (s sparsevec_l2_ops) WITH (refine_type = half);
CREATE INDEX ON hnsw_rows USING hnsw (b bit_hamming_ops) WITH (lists = 3);
CREATE TABLE hnsw_untyped (v vector);
CREATE INDEX ON hnsw_untyped USING hnsw (v vector_l2_ops);
INSERT INTO hnsw_untyped VALUES ('[1,2,3]'), ('[1,2]');
CREATE INDEX ON hnsw_untyped USING hnsw ((v::vector(3)) vector_l2_ops);
CREATE INDEX ON hnsw_untyped USING hnsw ((v::vector(3)) vector_l2_ops) WHERE vector_dims(v) = 3;
SELECT * FROM hnsw_all ORDER BY v <-> '[1,2,3]' LIMIT 1;
SET hnsw.ef_search = 0;
SET hnsw.ef_search = 100001;
SET hnsw.iterative_scan = 'on';

-- Nothing but an ordering uses the index.
CREATE FUNCTION hnsw_scans_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
		IF line LIKE '%Index%Scan%' THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END $$;
SELECT hnsw_scans_index('SELECT count(*) FROM hnsw_all') AS counts,
	hnsw_scans_index('SELECT id FROM hnsw_all WHERE v <-> (SELECT v FROM hnsw_rows LIMIT 1) < 1') AS filters,
	hnsw_scans_index('SELECT id FROM hnsw_all ORDER BY v <-> (SELECT v FROM hnsw_rows LIMIT 1) LIMIT 1') AS orders;
SELECT amname, opcname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod WHERE amname = 'hnsw' ORDER BY 2;

DROP TABLE centre, hnsw_rows, hnsw_query, hnsw_all, hnsw_grown, hnsw_large, hnsw_extreme, hnsw_untyped;
DROP FUNCTION hnsw_recall, hnsw_try, hnsw_scans_index;
