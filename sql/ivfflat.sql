-- ivfflat: every operator class against exact search, and what a scan owes in the corner cases
SET client_min_messages = warning;
SET jit = off;
SELECT setseed(0.5);

\set am ivfflat
\getenv abs_srcdir PG_ABS_SRCDIR
\set shared :abs_srcdir '/sql/shared/rows.sql'
\set ECHO none
\i :shared
\set ECHO all

SET ivfflat.probes = 15;
SELECT t.* FROM (VALUES
	('vector_l2_ops', 'v', '<->'), ('vector_ip_ops', 'v', '<#>'), ('vector_cosine_ops', 'v', '<=>'),
	('halfvec_l2_ops', 'h', '<->'), ('halfvec_ip_ops', 'h', '<#>'), ('halfvec_cosine_ops', 'h', '<=>'),
	('bit_hamming_ops', 'b', '<~>')) o (opclass, col, op), LATERAL ivfflat_try(opclass, col, op) t;
SELECT t.* FROM (VALUES ('quantizer = rabitq'), ('quantizer = none'), ('refine_type = full'), ('refine_type = half'), ('refine_type = sq8'),
	('quantizer = none, refine_type = half'), ('quantizer = none, refine_type = sq8'), ('lists = 1'), ('lists = 30')) o (options),
	(VALUES ('vector_l2_ops', 'v', '<->'), ('vector_ip_ops', 'v', '<#>'), ('vector_cosine_ops', 'v', '<=>'), ('halfvec_cosine_ops', 'h', '<=>')) k (opclass, col, op),
	LATERAL ivfflat_try(opclass, col, op, 'WITH (' || options || ')') t
ORDER BY 1;
RESET ivfflat.probes;

-- An unbounded scan returns every row once, NULLs last, zero vectors (no cosine distance) before them.
CREATE TABLE ivfflat_all (id int, v vector(40));
INSERT INTO ivfflat_all SELECT id, v FROM ivfflat_rows;
INSERT INTO ivfflat_all SELECT -i, NULL FROM generate_series(1, 7) i;
INSERT INTO ivfflat_all SELECT -100 - i, array_fill(0, ARRAY[40])::vector FROM generate_series(1, 5) i;
-- more equal rows than a row has room for, and more than edges
INSERT INTO ivfflat_all SELECT -1000 - i, (SELECT v FROM ivfflat_rows WHERE id = 1) FROM generate_series(1, 400) i;
CREATE INDEX ivfflat_all_cosine ON ivfflat_all USING ivfflat (v vector_cosine_ops);
CREATE INDEX ivfflat_all_l2 ON ivfflat_all USING ivfflat (v vector_l2_ops);
SET enable_seqscan = off;
SET enable_sort = off;
CREATE TEMP TABLE scanned AS
	SELECT row_number() OVER () AS n, id, d FROM (SELECT id, v <=> (SELECT v FROM ivfflat_rows WHERE id = 2) AS d
		FROM ivfflat_all ORDER BY v <=> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
SELECT count(*), count(DISTINCT id), count(d), count(*) FILTER (WHERE d = 'NaN') FROM scanned;
SELECT array_agg(d IS NULL ORDER BY n) AS nulls, array_agg(d = 'NaN' ORDER BY n) AS nans FROM scanned WHERE n > (SELECT count(*) - 13 FROM scanned);
-- in order, but for the counted tail of late rows
SELECT count(*) < 30 AS few_late FROM (SELECT d, lag(d) OVER (ORDER BY n) AS before FROM scanned WHERE d <> 'NaN') t WHERE d < before;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_all ORDER BY v <-> NULL) t;
SELECT count(*), count(DISTINCT id), bool_and(d = 'NaN') FROM (SELECT id, v <=> array_fill(0, ARRAY[40])::vector AS d FROM ivfflat_all
	WHERE v IS NOT NULL ORDER BY v <=> array_fill(0, ARRAY[40])::vector) t;
-- equal rows come together
SELECT count(*) FROM (SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 1) LIMIT 401) t WHERE id < -1000 OR id = 1;

-- A filter never makes the answer short, unless asked to.
SELECT count(*) FROM (SELECT id FROM ivfflat_all WHERE id % 100 = 37 ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2) LIMIT 10) t;
SELECT count(*) FROM (SELECT id FROM ivfflat_all WHERE id = -3 ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2) LIMIT 10) t;
SET ivfflat.iterative_scan = relaxed_order;
SELECT count(*) FROM (SELECT id FROM ivfflat_all WHERE id % 100 = 37 ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2) LIMIT 10) t;
SET ivfflat.iterative_scan = off;
SELECT count(*) < 1500 AS short FROM (SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
RESET ivfflat.iterative_scan;
SET ivfflat.max_probes = 3;
SELECT count(*) BETWEEN 30 AND 500 AS limited FROM (SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
RESET ivfflat.max_probes;

-- Small memory: the rest is swept and sorted; the result is complete.
SET work_mem = '64kB';
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
RESET work_mem;

-- Rescans, cursors, two orderings, several scans at once
SELECT count(*) FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_all a WHERE a.id > 0 ORDER BY a.v <-> q.v LIMIT 3) n;
SELECT count(*) FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_all a ORDER BY a.v <-> q.v LIMIT 1) n WHERE n.id = q.id;
SELECT count(*) FROM (SELECT id FROM ivfflat_all WHERE id > 0 ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2), v <-> (SELECT v FROM ivfflat_rows WHERE id = 3) LIMIT 20) t;
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2);
DECLARE b CURSOR FOR SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 3);
FETCH 1 FROM a;
FETCH 1 FROM b;
MOVE 100 IN a;
MOVE 100 IN b;
COMMIT;

-- Row by row into an empty index: as good as built afterwards.
CREATE TABLE ivfflat_grown (id int, v vector(40));
CREATE INDEX ivfflat_grown_idx ON ivfflat_grown USING ivfflat (v vector_l2_ops);
SELECT count(*) FROM (SELECT id FROM ivfflat_grown ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2) LIMIT 5) t;
INSERT INTO ivfflat_grown SELECT id, v FROM ivfflat_rows;
INSERT INTO ivfflat_grown VALUES (-1, NULL);
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_grown ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;
SELECT count(*) >= 19 AS found FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_grown a ORDER BY a.v <-> q.v LIMIT 1) n WHERE n.id = q.id;
UPDATE ivfflat_grown SET v = v * array_fill(2, ARRAY[40])::vector WHERE id <= 20;
DELETE FROM ivfflat_grown WHERE id BETWEEN 21 AND 40;
VACUUM ivfflat_grown;
INSERT INTO ivfflat_grown SELECT id, v FROM ivfflat_rows WHERE id BETWEEN 21 AND 40;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_grown ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 2)) t;


-- Large vectors: rows that do not fit a page
CREATE TABLE ivfflat_large (id int, v vector(5000), h halfvec(16000));
INSERT INTO ivfflat_large SELECT i, array_agg(random() ORDER BY d)::real[]::vector, NULL FROM generate_series(1, 40) i, generate_series(1, 5000) d GROUP BY i;
UPDATE ivfflat_large SET h = (SELECT array_agg(x) FROM (SELECT unnest(v::real[]) x FROM ivfflat_large l2 WHERE l2.id BETWEEN ivfflat_large.id AND ivfflat_large.id + 3 LIMIT 16000) t)::real[]::vector(16000)::halfvec(16000) WHERE id <= 30;
CREATE INDEX ON ivfflat_large USING ivfflat (v vector_l2_ops);
CREATE INDEX ON ivfflat_large USING ivfflat (h halfvec_cosine_ops);
CREATE INDEX ON ivfflat_large USING ivfflat (v vector_cosine_ops) WITH (quantizer = none);
CREATE INDEX ON ivfflat_large USING ivfflat (v vector_ip_ops) WITH (refine_type = full);
INSERT INTO ivfflat_large SELECT 100 + id, v, h FROM ivfflat_large WHERE id <= 3;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_large ORDER BY v <-> (SELECT v FROM ivfflat_large WHERE id = 2)) t;
SELECT id FROM ivfflat_large ORDER BY h <=> (SELECT h FROM ivfflat_large WHERE id = 4) LIMIT 1;
SELECT id FROM ivfflat_large ORDER BY v <=> (SELECT v FROM ivfflat_large WHERE id = 5) LIMIT 1;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_large ORDER BY v <#> (SELECT v FROM ivfflat_large WHERE id = 2)) t;
DELETE FROM ivfflat_large WHERE id % 2 = 0;
VACUUM ivfflat_large;
INSERT INTO ivfflat_large SELECT 200 + id, v, h FROM ivfflat_large WHERE id <= 9;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_large ORDER BY v <-> (SELECT v FROM ivfflat_large WHERE id = 3)) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_large ORDER BY v <#> (SELECT v FROM ivfflat_large WHERE id = 3)) t;

-- Fewer rows than lists, equal rows, no rows
SET client_min_messages = notice;
CREATE TABLE ivfflat_few (id int, v vector(3));
CREATE INDEX ivfflat_none_idx ON ivfflat_few USING ivfflat (v) WITH (lists = 10);
INSERT INTO ivfflat_few SELECT i, '[1,2,3]' FROM generate_series(1, 100) i;
CREATE INDEX ivfflat_equal_idx ON ivfflat_few USING ivfflat (v) WITH (lists = 10);
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_few ORDER BY v <-> '[1,1,1]') t;
INSERT INTO ivfflat_few VALUES (101, '[4,5,6]'), (102, '[0,0,0]');
SELECT id FROM ivfflat_few ORDER BY v <-> '[4,5,7]' LIMIT 1;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_few ORDER BY v <-> '[1,1,1]') t;
DROP INDEX ivfflat_none_idx;
SELECT id FROM ivfflat_few ORDER BY v <-> '[0,0,1]' LIMIT 1;
DROP TABLE ivfflat_few;
SET client_min_messages = warning;

-- An insert finds the list of its direction, whatever its length.
CREATE TABLE ivfflat_long (id int, v vector(40));
INSERT INTO ivfflat_long SELECT id, v FROM ivfflat_rows WHERE id > 300;
CREATE INDEX ivfflat_long_cosine ON ivfflat_long USING ivfflat (v vector_cosine_ops) WITH (lists = 30);
CREATE INDEX ivfflat_long_ip ON ivfflat_long USING ivfflat (v vector_ip_ops) WITH (lists = 30);
INSERT INTO ivfflat_long SELECT id, v * array_fill(power(10, id % 7 - 3), ARRAY[40])::float8[]::vector FROM ivfflat_rows WHERE id <= 300;
SET ivfflat.probes = 1;
SET ivfflat.iterative_scan = off;
SELECT count(*) >= 295 AS found FROM ivfflat_rows q, LATERAL (SELECT id FROM ivfflat_long a ORDER BY a.v <=> q.v LIMIT 1) n WHERE n.id = q.id AND q.id <= 300;
SELECT count(*) >= 290 AS found FROM ivfflat_long q, LATERAL (SELECT a.id FROM ivfflat_long a ORDER BY a.v <#> q.v LIMIT 10000) n WHERE n.id = q.id AND q.id <= 300;
RESET ivfflat.probes;
RESET ivfflat.iterative_scan;
DROP TABLE ivfflat_long;

-- What codes rule out would not have come: the same answers with and without them from the same lists.
CREATE TABLE ivfflat_answers (form text, q int, ids int[]);
CREATE INDEX ivfflat_form ON ivfflat_rows USING ivfflat (v) WITH (lists = 30);
INSERT INTO ivfflat_answers SELECT 'rabitq', q.id, array_agg(n.id ORDER BY n.d, n.id) FROM ivfflat_rows q,
	LATERAL (SELECT a.id, a.v <-> q.v AS d FROM ivfflat_rows a ORDER BY a.v <-> q.v LIMIT 10) n WHERE q.id <= 1000 GROUP BY q.id;
DROP INDEX ivfflat_form;
CREATE INDEX ivfflat_form ON ivfflat_rows USING ivfflat (v) WITH (lists = 30, quantizer = none);
INSERT INTO ivfflat_answers SELECT 'none', q.id, array_agg(n.id ORDER BY n.d, n.id) FROM ivfflat_rows q,
	LATERAL (SELECT a.id, a.v <-> q.v AS d FROM ivfflat_rows a ORDER BY a.v <-> q.v LIMIT 10) n WHERE q.id <= 1000 GROUP BY q.id;
SELECT count(*) >= 999 AS same FROM ivfflat_answers a JOIN ivfflat_answers b USING (q, ids) WHERE a.form = 'rabitq' AND b.form = 'none';
DROP INDEX ivfflat_form;
DROP TABLE ivfflat_answers;

-- Values at the ends of the range
CREATE TABLE ivfflat_extreme (id int, v vector(64));
INSERT INTO ivfflat_extreme SELECT i, array_fill(power(10, i), ARRAY[64])::float8[]::vector FROM generate_series(-37, 37) i;
CREATE INDEX ON ivfflat_extreme USING ivfflat (v vector_l2_ops);
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM ivfflat_extreme ORDER BY v <-> array_fill(1, ARRAY[64])::vector) t;

-- Caches of indexes that are gone are freed.
CREATE TEMP TABLE ivfflat_caches AS SELECT count(*) AS n FROM pg_backend_memory_contexts WHERE name LIKE 'ann %index cache';
DO $$
BEGIN
	FOR i IN 1 .. 40 LOOP
		CREATE TEMP TABLE ivfflat_gone AS SELECT id, v FROM ivfflat_rows LIMIT 10;
		CREATE INDEX ON ivfflat_gone USING ivfflat (v);
		PERFORM id FROM ivfflat_gone ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 1) LIMIT 1;
		DROP TABLE ivfflat_gone;
	END LOOP;
END $$;
SELECT count(*) - n < 5 AS freed FROM pg_backend_memory_contexts, ivfflat_caches WHERE name LIKE 'ann %index cache' GROUP BY n;
DROP TABLE ivfflat_caches;

-- TRUNCATE in the transaction that made the table: the index is built anew in the same file.
BEGIN;
SET LOCAL ivfflat.probes = 1;
CREATE TABLE ivfflat_truncated (id int, v vector(40));
CREATE INDEX ivfflat_truncated_idx ON ivfflat_truncated USING ivfflat (v);
INSERT INTO ivfflat_truncated SELECT id, v FROM ivfflat_rows WHERE id <= 200;
SELECT id FROM ivfflat_truncated ORDER BY v <-> (SELECT v FROM ivfflat_rows WHERE id = 100) LIMIT 1;
ALTER INDEX ivfflat_truncated_idx SET (refine_type = sq8);
TRUNCATE ivfflat_truncated;
INSERT INTO ivfflat_truncated SELECT id, v FROM ivfflat_rows WHERE id > 200;
SELECT count(*) AS found FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_truncated t ORDER BY t.v <-> q.v LIMIT 1) n WHERE q.id > 200 AND n.id = q.id;
ALTER INDEX ivfflat_truncated_idx SET (lists = 20);
REINDEX TABLE ivfflat_truncated;
SELECT count(*) AS found FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_truncated t ORDER BY t.v <-> q.v LIMIT 1) n WHERE q.id > 200 AND n.id = q.id;
TRUNCATE ivfflat_truncated;
INSERT INTO ivfflat_truncated SELECT id, v FROM ivfflat_rows WHERE id > 200;
SELECT count(*) AS found FROM ivfflat_query q, LATERAL (SELECT id FROM ivfflat_truncated t ORDER BY t.v <-> q.v LIMIT 1) n WHERE q.id > 200 AND n.id = q.id;
COMMIT;
SELECT count(*) AS of FROM ivfflat_query WHERE id > 200;
DROP TABLE ivfflat_truncated;

-- VACUUM that has nothing to remove does not read the index.
CREATE TABLE ivfflat_clean AS SELECT id, v FROM ivfflat_rows;
CREATE INDEX ivfflat_clean_idx ON ivfflat_clean USING ivfflat (v) WITH (lists = 200);
SELECT pg_stat_force_next_flush();
SELECT idx_blks_read + idx_blks_hit AS before FROM pg_statio_user_indexes WHERE indexrelname = 'ivfflat_clean_idx' \gset
VACUUM ivfflat_clean;
SELECT pg_stat_force_next_flush();
SELECT idx_blks_read + idx_blks_hit - :before < 20 AS unread FROM pg_statio_user_indexes WHERE indexrelname = 'ivfflat_clean_idx';
DROP TABLE ivfflat_clean;

-- More lists than maintenance_work_mem has room for with a sample: 2,200 rows would take 8.8 MB.
CREATE TABLE ivfflat_wide AS SELECT i AS id, (SELECT array_agg(hashint4(i * 1000 + j) / 2147483648.0) FROM generate_series(1, 1000) j)::real[]::vector(1000) AS v
	FROM generate_series(1, 2200) i;
SET maintenance_work_mem = '2MB';
SET client_min_messages = notice;
CREATE INDEX ivfflat_wide_l2 ON ivfflat_wide USING ivfflat (v vector_l2_ops) WITH (lists = 1000);
CREATE INDEX ivfflat_wide_ip ON ivfflat_wide USING ivfflat (v vector_ip_ops) WITH (lists = 1000);
RESET maintenance_work_mem;
SET client_min_messages = warning;
DROP TABLE ivfflat_wide;

-- Errors
CREATE INDEX ON ivfflat_rows USING ivfflat (h);
CREATE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops, h halfvec_l2_ops);
CREATE UNIQUE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops);
CREATE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops) WITH (lists = -1);
CREATE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops) WITH (lists = 32769);
CREATE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops) WITH (quantizer = pq);
CREATE INDEX ON ivfflat_rows USING ivfflat (b bit_hamming_ops) WITH (quantizer = rabitq);
CREATE INDEX ON ivfflat_rows USING ivfflat (b bit_hamming_ops) WITH (refine_type = half);
CREATE INDEX ON ivfflat_rows USING ivfflat (v vector_l2_ops) WITH (m = 3);
CREATE TABLE ivfflat_untyped (v vector);
CREATE INDEX ON ivfflat_untyped USING ivfflat (v vector_l2_ops);
INSERT INTO ivfflat_untyped VALUES ('[1,2,3]'), ('[1,2]');
CREATE INDEX ON ivfflat_untyped USING ivfflat ((v::vector(3)) vector_l2_ops);
CREATE INDEX ON ivfflat_untyped USING ivfflat ((v::vector(3)) vector_l2_ops) WHERE vector_dims(v) = 3;
SELECT * FROM ivfflat_all ORDER BY v <-> '[1,2,3]' LIMIT 1;
SET ivfflat.probes = -1;
SET ivfflat.probes = 32769;
SET ivfflat.iterative_scan = 'on';

-- Nothing but an ordering uses the index.
CREATE FUNCTION ivfflat_scans_index(query text) RETURNS boolean LANGUAGE plpgsql AS $$
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
SELECT ivfflat_scans_index('SELECT count(*) FROM ivfflat_all') AS counts,
	ivfflat_scans_index('SELECT id FROM ivfflat_all ORDER BY v <-> (SELECT v FROM ivfflat_rows LIMIT 1) LIMIT 1') AS orders;
SELECT amname, opcname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod WHERE amname = 'ivfflat' ORDER BY 2;

DROP TABLE centre, ivfflat_rows, ivfflat_query, ivfflat_all, ivfflat_grown, ivfflat_large, ivfflat_extreme, ivfflat_untyped;
DROP FUNCTION ivfflat_recall, ivfflat_try, ivfflat_scans_index;
