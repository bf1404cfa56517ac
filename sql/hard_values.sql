-- Values and settings at the ends of what there is: thousands of equal vectors, the largest halves, zero vectors,
-- rows of very different sizes, the least memory and very much of it
SET client_min_messages = warning;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
SELECT setseed(0.5);

-- The same rows in the same order of distances as exact search, for queries from the table and for zero: the
-- share of the exact first k that are found; whether all rows come, each once; whether they are sorted but for a tail.
CREATE FUNCTION hard_try(tab regclass, opclass text, op text, options text DEFAULT '', k int DEFAULT 10,
	OUT recall numeric, OUT complete boolean, OUT sorted boolean) LANGUAGE plpgsql AS $$
DECLARE
	am text;
	q text;
	exact float8[];
	got float8[];
	everything int;
	hits int := 0;
	queries int := 0;
BEGIN
	complete := true;
	sorted := true;
	EXECUTE format('CREATE INDEX hard_idx ON %s USING %s (v %s) %s', tab, split_part(options, ' ', 1), opclass, substr(options, 1 + length(split_part(options, ' ', 1))));
	FOR q IN EXECUTE format('SELECT v::text FROM %s WHERE id %% 97 = 5 ORDER BY id LIMIT 4', tab) LOOP
		SET LOCAL enable_seqscan = on;
		SET LOCAL enable_sort = on;
		SET LOCAL enable_indexscan = off;
		EXECUTE format('SELECT array_agg(d ORDER BY d) FROM (SELECT v %2$s %3$L AS d FROM %1$s ORDER BY v %2$s %3$L LIMIT %4$s) t', tab, op, q, k) INTO exact;
		EXECUTE format('SELECT count(*) FROM %s', tab) INTO everything;
		SET LOCAL enable_indexscan = on;
		SET LOCAL enable_seqscan = off;
		SET LOCAL enable_sort = off;
		EXECUTE format('SELECT array_agg(d ORDER BY n) FROM (SELECT row_number() OVER () AS n, d FROM (SELECT v %2$s %3$L AS d FROM %1$s ORDER BY v %2$s %3$L LIMIT %4$s) t) s', tab, op, q, k)
			INTO got;
		hits := hits + (SELECT count(*) FROM unnest(got) d WHERE d <= exact[k] OR exact[k] IS NULL);
		sorted := sorted AND got = (SELECT array_agg(d ORDER BY d) FROM unnest(got) d);
		EXECUTE format('SELECT count(*) = %4$s AND count(DISTINCT id) = %4$s FROM (SELECT id FROM %1$s ORDER BY v %2$s %3$L) t', tab, op, q, everything) INTO STRICT complete;
		EXIT WHEN NOT complete;
		queries := queries + 1;
	END LOOP;
	PERFORM FROM ann_index_check('hard_idx', true);
	complete := complete AND NOT FOUND;
	recall := round(hits / (queries * k)::numeric, 2);
	DROP INDEX hard_idx;
END $$;

-- More equal vectors than edges, and than a page has room for, among others: neither is cut off.
CREATE TABLE hard_equal (id int, v vector(16));
INSERT INTO hard_equal SELECT i, array_agg(random() ORDER BY d)::real[]::vector FROM generate_series(1, 1000) i, generate_series(1, 16) d GROUP BY i;
INSERT INTO hard_equal SELECT 10000 + i, (SELECT v FROM hard_equal WHERE id = 500) FROM generate_series(1, 10000) i;
CREATE TABLE hard_equal_late (LIKE hard_equal);
CREATE INDEX hard_equal_late_hnsw ON hard_equal_late USING hnsw (v vector_l2_ops);
CREATE INDEX hard_equal_late_ivfflat ON hard_equal_late USING ivfflat (v vector_cosine_ops);
INSERT INTO hard_equal_late SELECT * FROM hard_equal ORDER BY id % 100, id;
VACUUM hard_equal_late;
CREATE INDEX hard_equal_hnsw ON hard_equal USING hnsw (v vector_l2_ops);
CREATE INDEX hard_equal_ivfflat ON hard_equal USING ivfflat (v vector_cosine_ops);
SELECT relname, value AS rows FROM pg_class, ann_index_info(oid) WHERE relname ~ '^hard_equal.*hnsw$' AND name = 'rows' ORDER BY 1;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT tab, op, others.found >= 98 AS others_found, equal.found AS equal_found
	FROM (VALUES ('hard_equal', '<->'), ('hard_equal', '<=>'), ('hard_equal_late', '<->'), ('hard_equal_late', '<=>')) o (tab, op),
	LATERAL (SELECT format('SELECT count(*) FROM (SELECT id, v FROM hard_equal WHERE id <= 100) q, LATERAL (SELECT id FROM %s t ORDER BY t.v %s q.v LIMIT 1) n WHERE n.id = q.id', tab, op) AS one,
		format('SELECT count(*) FROM (SELECT id FROM %s t ORDER BY t.v %s (SELECT v FROM hard_equal WHERE id = 500) LIMIT 10001) n WHERE id = 500 OR id > 10000', tab, op) AS many) s,
	LATERAL (SELECT (xpath('//count/text()', query_to_xml(one, false, false, '')))[1]::text::int AS found) others,
	LATERAL (SELECT (xpath('//count/text()', query_to_xml(many, false, false, '')))[1]::text::int AS found) equal;
SELECT relname, c.* FROM pg_class, ann_index_check(oid, true) c WHERE relname ~ '^hard_equal.*(hnsw|ivfflat)$';
RESET enable_seqscan;
RESET enable_sort;
DROP TABLE hard_equal, hard_equal_late;

-- Halves up to the largest: sums of their products are beyond a half's range.
CREATE TABLE hard_halves (id int, v halfvec(64));
INSERT INTO hard_halves SELECT i, array_agg(CASE WHEN i % 10 = 0 THEN 65504 * sign(random() - 0.5) ELSE 131008 * (random() - 0.5) END ORDER BY d)::real[]::halfvec
	FROM generate_series(1, 600) i, generate_series(1, 64) d GROUP BY i;
INSERT INTO hard_halves SELECT 2000 + i, v FROM hard_halves, generate_series(1, 3) i WHERE id = 10;
SET hnsw.ef_search = 200;
SET ivfflat.probes = 40;
SELECT options, opclass, t.recall >= CASE opclass WHEN 'halfvec_ip_ops' THEN 0.88 ELSE 0.96 END AS found, complete, sorted
	FROM (VALUES ('hnsw'), ('hnsw WITH (quantizer = none, refine_type = full)'), ('hnsw WITH (refine_type = sq8)'),
		('ivfflat'), ('ivfflat WITH (quantizer = none, refine_type = full)'), ('ivfflat WITH (refine_type = sq8)')) o (options),
	(VALUES ('halfvec_l2_ops', '<->'), ('halfvec_ip_ops', '<#>'), ('halfvec_cosine_ops', '<=>'), ('halfvec_l1_ops', '<+>')) k (opclass, op),
	LATERAL hard_try('hard_halves', opclass, op, options) t
	WHERE NOT (opclass = 'halfvec_l1_ops' AND (options ~ 'ivfflat'))
	ORDER BY options COLLATE "C", opclass;
DROP TABLE hard_halves;

-- Zero vectors, as rows and as queries, in every form that rows have
CREATE TABLE hard_zeros (id int, v vector(64));
INSERT INTO hard_zeros SELECT i, array_agg(random() - 0.5 ORDER BY d)::real[]::vector FROM generate_series(1, 250) i, generate_series(1, 64) d GROUP BY i;
UPDATE hard_zeros SET v = array_fill(0, ARRAY[64])::vector WHERE id % 97 = 5 OR id % 10 = 1;
UPDATE hard_zeros SET v = v * array_fill(1e-30, ARRAY[64])::float8[]::vector WHERE id % 10 = 2 AND v <> array_fill(0, ARRAY[64])::vector;
SELECT options, opclass, t.recall = 1 AS found, complete, sorted
	FROM (VALUES ('hnsw'), ('hnsw WITH (quantizer = none, refine_type = sq8)'), ('hnsw WITH (refine_type = sq8)'),
		('ivfflat'), ('ivfflat WITH (quantizer = none, refine_type = sq8)'), ('ivfflat WITH (refine_type = sq8)')) o (options),
	(VALUES ('vector_l2_ops', '<->'), ('vector_ip_ops', '<#>'), ('vector_cosine_ops', '<=>'), ('vector_l1_ops', '<+>')) k (opclass, op),
	LATERAL hard_try('hard_zeros', opclass, op, options) t
	WHERE NOT (opclass = 'vector_l1_ops' AND (options ~ 'ivfflat'))
	ORDER BY options COLLATE "C", opclass;
DROP TABLE hard_zeros;

-- The least memory, and more than 32 bits can count, with workers
CREATE TABLE hard_memory (id int, v vector(8)) WITH (parallel_workers = 2);
INSERT INTO hard_memory SELECT i, array_agg(random() ORDER BY d)::real[]::vector FROM generate_series(1, 3000) i, generate_series(1, 8) d GROUP BY i;
SET max_parallel_maintenance_workers = 2;
SET min_parallel_table_scan_size = 0;
SET maintenance_work_mem = '1MB';
SELECT options, t.* FROM (VALUES ('hnsw'), ('hnsw WITH (m = 100)'), ('ivfflat'), ('ivfflat WITH (lists = 32768)')) o (options), LATERAL hard_try('hard_memory', 'vector_l2_ops', '<->', options) t;
SET maintenance_work_mem = '32GB';
SELECT options, t.* FROM (VALUES ('hnsw'), ('hnsw WITH (m = 100)'), ('ivfflat'), ('ivfflat WITH (lists = 32768)')) o (options), LATERAL hard_try('hard_memory', 'vector_l2_ops', '<->', options) t;
RESET maintenance_work_mem;
RESET max_parallel_maintenance_workers;
RESET min_parallel_table_scan_size;
DROP TABLE hard_memory;

-- Rows of very different sizes: the places of small ones that VACUUM frees do not make an insert of a large one look through
-- all of these pages, which are about 900.
CREATE TABLE hard_sizes (id int, v sparsevec(20000));
CREATE FUNCTION hard_sparse(i int, n int) RETURNS sparsevec LANGUAGE sql AS
	$$ SELECT ('{' || string_agg((j * 37 + i % 17 + 1) || ':' || ((i * 7919 + j * 104729) % 1000 + 1), ',' ORDER BY j) || '}/20000')::sparsevec FROM generate_series(0, n - 1) j $$;
INSERT INTO hard_sizes SELECT i, hard_sparse(i, CASE WHEN i % 3 = 0 THEN 450 ELSE 3 END) FROM generate_series(1, 4500) i;
CREATE INDEX hard_sizes_idx ON hard_sizes USING hnsw (v sparsevec_l2_ops) WITH (m = 8, ef_construction = 4);
-- Buffers that an insert of so many elements reads, the mean of 20
CREATE FUNCTION hard_buffers(first int, n int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	plan json;
	total float8 := 0;
BEGIN
	FOR i IN first .. first + 19 LOOP
		EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, FORMAT json) INSERT INTO hard_sizes VALUES (%s, %L)', i, hard_sparse(i, n)) INTO plan;
		total := total + (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::float8 + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::float8;
	END LOOP;
	RETURN total / 20;
END $$;
SELECT hard_buffers(5001, 450) AS before \gset
DELETE FROM hard_sizes WHERE id % 3 <> 0 AND id < 5000;
VACUUM hard_sizes;
SELECT hard_buffers(6001, 450) < :before + 300 AS few_buffers;
SELECT hard_buffers(7001, 5) < :before + 300 AS few_buffers;
DELETE FROM hard_sizes WHERE id % 2 = 0;
VACUUM hard_sizes;
SELECT hard_buffers(8001, 300) < :before + 300 AS few_buffers;
SELECT * FROM ann_index_check($$hard_sizes_idx$$, true) WHERE defect !~ $$cannot be reached$$;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) = (SELECT count(*) FROM hard_sizes) AS everything, count(*) = count(DISTINCT id) AS once FROM (SELECT id FROM hard_sizes ORDER BY v <-> hard_sparse(7, 3)) t;
RESET enable_seqscan;
RESET enable_sort;
DROP TABLE hard_sizes;

-- ANALYZE of vectors of several dimensions
CREATE TABLE hard_mixed (v vector, h halfvec, s sparsevec);
INSERT INTO hard_mixed SELECT array_fill(i, ARRAY[i % 50 + 1])::vector, array_fill(i, ARRAY[i % 7 + 1])::vector::halfvec, array_fill(i, ARRAY[i % 9 + 1])::vector::sparsevec FROM generate_series(1, 500) i;
INSERT INTO hard_mixed VALUES (NULL, NULL, NULL);
ANALYZE hard_mixed;
SELECT attname, null_frac > 0 AS nulls, avg_width > 10 AS wide FROM pg_stats WHERE tablename = 'hard_mixed' ORDER BY 1;
DROP TABLE hard_mixed;

DROP FUNCTION hard_try, hard_sparse, hard_buffers;
