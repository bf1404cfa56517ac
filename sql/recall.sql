-- ann_recall and ann_tune
CREATE TABLE recall_rows (id int PRIMARY KEY, kind int, v vector(24));
CREATE TABLE recall_queries (id int PRIMARY KEY, v vector(24));
SELECT setseed(0.5);
INSERT INTO recall_rows
	SELECT i, i % 5, ARRAY(SELECT random() - 0.5 + i * 0 FROM generate_series(1, 24))::vector FROM generate_series(1, 2000) i;
INSERT INTO recall_rows VALUES (2001, 0, NULL);
INSERT INTO recall_queries
	SELECT i, ARRAY(SELECT random() - 0.5 + i * 0 FROM generate_series(1, 24))::vector FROM generate_series(1, 60) i;
CREATE INDEX recall_hnsw ON recall_rows USING hnsw (v vector_l2_ops) WITH (m = 6, ef_construction = 32);
ANALYZE recall_rows;

-- recall of the given queries is what SQL finds of it, whatever the width of the search
CREATE FUNCTION recall_by_sql(k int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	query vector;
	truth int[];
	found int[];
	hits int := 0;
BEGIN
	FOR query IN SELECT v FROM recall_queries LOOP
		SET LOCAL enable_indexscan = off;
		SET LOCAL ann.enable_annscan = off;
		truth := ARRAY(SELECT id FROM recall_rows ORDER BY v <-> query LIMIT k);
		SET LOCAL enable_indexscan = on;
		SET LOCAL ann.enable_annscan = on;
		SET LOCAL enable_seqscan = off;
		found := ARRAY(SELECT id FROM recall_rows ORDER BY v <-> query LIMIT k);
		SET LOCAL enable_seqscan = on;
		hits := hits + (SELECT count(*) FROM unnest(truth) t WHERE t = ANY (found));
	END LOOP;
	RETURN hits::float8 / k / (SELECT count(*) FROM recall_queries);
END $$;
CREATE FUNCTION recall_compare(index regclass, setting text, value int, k int,
	OUT as_by_sql bool, OUT misses bool, OUT worst bool, OUT queries int, OUT timed bool) LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	PERFORM set_config(setting, value::text, true);
	SELECT * INTO r FROM ann_recall(index, ARRAY(SELECT v FROM recall_queries ORDER BY id), k);
	as_by_sql := abs(r.recall - recall_by_sql(k)) < 1e-9;
	misses := r.recall < 1;
	worst := r.worst <= r.recall;
	queries := r.queries;
	timed := r.index_ms > 0 AND r.exact_ms > 0;
END $$;
SELECT ef, k, c.* FROM (VALUES (10, 10), (20, 5), (3, 1)) s(ef, k), LATERAL recall_compare('recall_hnsw', 'hnsw.ef_search', ef, k) c;
DROP INDEX recall_hnsw;
CREATE INDEX recall_lists ON recall_rows USING ivfflat (v vector_l2_ops) WITH (lists = 40);
SELECT probes, c.* FROM (VALUES (1), (5), (40)) s(probes), LATERAL recall_compare('recall_lists', 'ivfflat.probes', probes, 10) c;

-- a row that is a query neither counts nor leads to its neighbours
CREATE INDEX recall_hnsw ON recall_rows USING hnsw (v vector_l2_ops) WITH (m = 6, ef_construction = 32);
SET hnsw.ef_search = 10;
SELECT s.queries, s.recall < g.recall - 0.03 AS is_harder
FROM ann_recall('recall_hnsw', 10, 2000) s, ann_recall('recall_hnsw', ARRAY(SELECT v FROM recall_rows WHERE v IS NOT NULL)) g;
RESET hnsw.ef_search;
-- the same rows are taken each time
SELECT a.recall = b.recall AS same FROM ann_recall('recall_hnsw', 10, 100) a, ann_recall('recall_hnsw', 10, 100) b;

-- tuning: the target is reached, and with little less it is not
SELECT option, recall >= 0.9 AS reached, value BETWEEN 10 AND 400 AS plausible FROM ann_tune('recall_hnsw', 0.9);
SELECT option, recall >= 0.97 AS reached, value BETWEEN 2 AND 40 AS plausible
FROM ann_tune('recall_lists', ARRAY(SELECT v FROM recall_queries ORDER BY id), 0.97);
SELECT recall >= 0.9 AS is_default FROM ann_recall('recall_hnsw');
SELECT recall >= 0.97 AS is_default FROM ann_recall('recall_lists', ARRAY(SELECT v FROM recall_queries ORDER BY id));
SELECT set_config(CASE index WHEN 'recall_hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END, (chosen * 7 / 8)::text, false) IS NOT NULL AS set,
	CASE index WHEN 'recall_hnsw' THEN (ann_recall(index::regclass)).recall < 0.9
		ELSE (ann_recall(index::regclass, ARRAY(SELECT v FROM recall_queries ORDER BY id))).recall < 0.97 END AS falls_short
FROM (SELECT relname::text AS index, substring(reloptions::text FROM '(?:ef_search|probes)=(\d+)')::int AS chosen
	FROM pg_class WHERE relname IN ('recall_hnsw', 'recall_lists')) i ORDER BY index;
RESET hnsw.ef_search;
RESET ivfflat.probes;

-- a wider search may take no more at first: lists are so short that those that have to be read for k rows are more than the setting
CREATE INDEX recall_short ON recall_rows USING ivfflat (v vector_l2_ops) WITH (lists = 1000);
SELECT option, recall >= 0.99 AS reached FROM ann_tune('recall_short', 0.99, 50, 1);
SELECT option, recall >= 0.99 AS reached FROM ann_tune('recall_short', 0.99, 200, 2);
SET ivfflat.max_probes = 30;
\set VERBOSITY terse
SELECT * FROM ann_tune('recall_short', 1, 10, 20);
\set VERBOSITY default
RESET ivfflat.max_probes;
DROP INDEX recall_short;

-- an index that the session reads cannot be altered, and is not measured for it
BEGIN;
DROP INDEX recall_lists;
SET LOCAL enable_sort = off;
DECLARE reader CURSOR FOR SELECT id FROM recall_rows ORDER BY v <-> (SELECT v FROM recall_queries WHERE id = 1);
MOVE 1 FROM reader;
SELECT recall > 0 AS measures FROM ann_recall('recall_hnsw', 1, 10);
SELECT option FROM ann_tune('recall_hnsw', 0.5, 1, 10);
ROLLBACK;

-- every kind of index: with all rows in reach of the search recall is 1
CREATE INDEX recall_part ON recall_rows USING hnsw (v vector_cosine_ops) INCLUDE (kind) WHERE kind < 2;
CREATE INDEX recall_half ON recall_rows USING hnsw ((v::halfvec(24)) halfvec_ip_ops);
CREATE INDEX recall_sparse ON recall_rows USING hnsw ((v::sparsevec(24)) sparsevec_l1_ops);
CREATE INDEX recall_bits ON recall_rows USING hnsw ((binary_quantize(v)::bit(24)) bit_jaccard_ops);
CREATE INDEX recall_sq8 ON recall_rows USING ivfflat (v vector_ip_ops) WITH (lists = 10, refine_type = sq8);
SET hnsw.ef_search = 5000;
SET ivfflat.probes = 10;
SELECT index, r.recall > 0.999 AS complete, r.queries
FROM unnest(ARRAY['recall_part', 'recall_half', 'recall_sparse', 'recall_bits', 'recall_sq8']) index, LATERAL ann_recall(index::regclass, 10, 50) r;
RESET hnsw.ef_search;
RESET ivfflat.probes;

-- few rows, and none
CREATE TABLE recall_few (v vector(2));
CREATE INDEX recall_few_v ON recall_few USING hnsw (v vector_l2_ops);
SELECT recall, worst, queries, index_ms IS NULL AS untimed FROM ann_recall('recall_few_v');
INSERT INTO recall_few VALUES ('[1,2]');
SELECT recall, worst, queries FROM ann_recall('recall_few_v');
SELECT recall, worst, queries FROM ann_recall('recall_few_v', ARRAY['[1,3]']::vector[]);
INSERT INTO recall_few VALUES ('[1,2]'), ('[3,4]');
SELECT recall, worst, queries FROM ann_recall('recall_few_v');
SELECT * FROM ann_tune('recall_few_v', ARRAY[]::vector[]);
TRUNCATE recall_few;
SELECT * FROM ann_tune('recall_few_v');

-- refused
SELECT * FROM ann_recall(0);
SELECT * FROM ann_recall('recall_rows_pkey');
SELECT * FROM ann_recall('recall_hnsw', 0);
SELECT * FROM ann_recall('recall_hnsw', 10, 0);
SELECT * FROM ann_recall('recall_hnsw', ARRAY[NULL]::vector[]);
SELECT * FROM ann_recall('recall_hnsw', ARRAY['[1,2]']::halfvec[]);
SELECT * FROM ann_recall('recall_hnsw', ARRAY['[1,2]']::vector[]);
SELECT * FROM ann_tune('recall_hnsw', 1.5);
SELECT * FROM ann_tune('recall_hnsw', 'NaN'::float8);
BEGIN READ ONLY;
SELECT recall > 0 AS measures FROM ann_recall('recall_hnsw', 1, 10);
SELECT * FROM ann_tune('recall_hnsw');
ROLLBACK;
CREATE TABLE recall_parts (id int, v vector(2)) PARTITION BY RANGE (id);
CREATE INDEX recall_parts_v ON recall_parts USING hnsw (v vector_l2_ops);
SELECT * FROM ann_recall('recall_parts_v');
SELECT * FROM ann_index_info('recall_parts_v');
CREATE ROLE recall_stranger;
SET ROLE recall_stranger;
SELECT * FROM ann_recall('recall_hnsw');
SELECT * FROM ann_tune('recall_hnsw');
RESET ROLE;
DROP ROLE recall_stranger;
DROP TABLE recall_rows, recall_queries, recall_few, recall_parts;
DROP FUNCTION recall_by_sql(int), recall_compare(regclass, text, int, int);
