-- AnnScan: distances from the index, searches restricted to other indexes' bitmaps; against exact answers
SET client_min_messages = warning;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
SELECT setseed(0.25);

-- 3,000 vectors that lie in the TOAST table: sums of six waves; some NULL, some equal (without UPDATE: the planner
-- leaves an index of HOT chains alone while an older transaction runs)
CREATE TABLE items (id int, cat int, tenant int, tags text[], span int4range, page int, v vector(520)) WITH (fillfactor = 70);
ALTER TABLE items ALTER v SET STORAGE EXTERNAL;
INSERT INTO items SELECT i, i % 50, i % 7, ARRAY['t' || i % 20, 'u' || i % 33], int4range(i, i + 10), i / 10,
	CASE WHEN i % 300 = 299 THEN NULL ELSE (SELECT array_agg(a[1] * sin(j) + a[2] * cos(j) + a[3] * sin(j * 0.1) + a[4] * cos(j * 0.2)
		+ a[5] * sin(j * 0.3) + a[6] * cos(j * 0.4) ORDER BY j) FROM generate_series(1, 520) j)::real[]::vector END
	FROM generate_series(1, 3000) i JOIN (SELECT n, array_agg(random()) AS a FROM generate_series(1, 3000) n, generate_series(1, 6) GROUP BY n ORDER BY n) r
		ON n = CASE WHEN i IN (20, 30, 40) THEN 10 ELSE i END ORDER BY i;
CREATE TABLE queries AS SELECT id AS n, v FROM items WHERE id % 500 = 60;
CREATE INDEX items_v ON items USING hnsw (v vector_l2_ops);
CREATE INDEX items_cat ON items (cat);
CREATE INDEX items_tenant ON items (tenant);
CREATE INDEX items_tags ON items USING gin (tags);
CREATE INDEX items_span ON items USING gist (span);
CREATE INDEX items_page ON items USING brin (page) WITH (pages_per_range = 1);
VACUUM ANALYZE items;
ANALYZE queries;

SET hnsw.ef_search = 400;
SET enable_seqscan = off;
SET enable_sort = off;

-- The nearest of the rows that meet a condition, exactly and as planned, for every query.
CREATE FUNCTION compare(condition text, k int DEFAULT 10, op text DEFAULT '<->', col text DEFAULT 'v', tab text DEFAULT 'items')
	RETURNS TABLE (plan text, rows int, correct boolean) LANGUAGE plpgsql AS $$
DECLARE
	q record;
	sql text := format('SELECT coalesce(array_agg(round(d::numeric, 12) ORDER BY n), ''{}'') FROM (SELECT row_number() OVER () AS n, d FROM '
		'(SELECT %2$I %3$s $1 AS d FROM %1$I WHERE %4$s ORDER BY %2$I %3$s $1 LIMIT %5$s) s) t', tab, col, op, condition, k);
	line text;
	found numeric[];
	exact numeric[];
BEGIN
	correct := true;
	rows := 0;
	FOR q IN SELECT * FROM queries LOOP
		EXECUTE sql USING q.v INTO found;
		SET LOCAL ann.enable_annscan = off;
		SET LOCAL enable_indexscan = off;
		SET LOCAL enable_seqscan = on;
		SET LOCAL enable_sort = on;
		EXECUTE sql USING q.v INTO exact;
		SET LOCAL ann.enable_annscan = on;
		SET LOCAL enable_indexscan = on;
		SET LOCAL enable_seqscan = off;
		SET LOCAL enable_sort = off;
		correct := correct AND found = exact;
		rows := rows + cardinality(found);
	END LOOP;
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF) SELECT id FROM %I WHERE %s ORDER BY %I %s (SELECT %I FROM queries LIMIT 1) LIMIT %s', tab, condition, col, op, col, k) LOOP
		IF line ~ 'AnnScan' THEN plan := 'AnnScan'; END IF;
		IF line ~ 'Bitmap' THEN plan := concat_ws(', ', plan, substring(line FROM 'Bitmap\w*(?: Index Scan on \w+)?')); END IF;
	END LOOP;
	RETURN NEXT;
END $$;

-- What EXPLAIN says, without what differs between runs and server versions; $1 is a vector.
CREATE FUNCTION plan(sql text, options text DEFAULT '') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF%s) ', options) || sql USING (SELECT v FROM queries WHERE n = 60) LOOP
		line := regexp_replace(line, '''\[.*\]''::vector', '$1');
		line := regexp_replace(line, 'rows=(\d+)\.\d+', 'rows=\1');
		line := regexp_replace(line, '(Visited|Heap|Distances|Removed by Filter): \d+', '\1: N');
		IF line !~ 'Late Rows|Index Searches|Disabled' THEN
			RETURN NEXT line;
		END IF;
	END LOOP;
END $$;

-- Plans
SELECT plan('SELECT id FROM items ORDER BY v <-> $1 LIMIT 5');
SELECT plan('SELECT id FROM items WHERE cat = 7 ORDER BY v <-> $1 LIMIT 5');
SELECT plan('SELECT id FROM items WHERE cat = 7 AND id > 5 ORDER BY v <-> $1 LIMIT 5');
SET ann.enable_annscan = off;
SELECT plan('SELECT id FROM items ORDER BY v <-> $1 LIMIT 5');
RESET ann.enable_annscan;
-- no sort key but the index's, ascending, NULLs last
SELECT plan('SELECT id FROM items ORDER BY v <-> $1 DESC LIMIT 5');
SELECT plan('SELECT id FROM items ORDER BY v <=> $1 LIMIT 5');
-- a condition that no row meets
SELECT plan('SELECT id FROM items WHERE cat = NULL ORDER BY v <-> $1 LIMIT 5');
-- the query on the left
SELECT plan('SELECT id FROM items ORDER BY $1 <-> v LIMIT 5');
-- a further sort key
SELECT array_agg(id) = (SELECT array_agg(id) FROM (SELECT id FROM items ORDER BY l2_distance(v, (SELECT v FROM items WHERE id = 10)), id DESC LIMIT 7) e) AS same
	FROM (SELECT id FROM items ORDER BY v <-> (SELECT v FROM items WHERE id = 10), id DESC LIMIT 7) t;
-- rows that are locked
SELECT plan('SELECT id FROM items ORDER BY v <-> $1 LIMIT 5 FOR UPDATE');

-- Results
SELECT * FROM compare('true');
SELECT * FROM compare('true', 100);
SELECT * FROM compare('cat = 7');
SELECT * FROM compare('cat IN (1, 2, 3)', 100);
SELECT rows, correct FROM compare('tenant = 3', 50);
SELECT * FROM compare('tags @> ARRAY[''t3'']');
SELECT * FROM compare('span && int4range(100, 220)');
SELECT * FROM compare('page BETWEEN 20 AND 30');
SELECT * FROM compare('cat < 10 AND tags @> ARRAY[''t3'']');
SELECT * FROM compare('cat = 4 OR span @> 77');
SELECT * FROM compare('cat = 4 AND id % 3 = 0', 5);
SELECT * FROM compare('cat = 1000');
-- as many rows as there are, and more
SELECT * FROM compare('cat = 7', 60);
SELECT * FROM compare('cat = 49', 100);

-- Lossy bitmaps
CREATE TABLE wide (id int, cat int, filler text, v vector(520)) WITH (fillfactor = 10);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
INSERT INTO wide SELECT id, id % 10, repeat('x', 40), v FROM items;
INSERT INTO wide SELECT id, id % 10, repeat('x', 40), NULL FROM generate_series(5000, 30000) id;
CREATE INDEX wide_cat ON wide (cat);
CREATE INDEX wide_v ON wide USING hnsw (v vector_l2_ops);
VACUUM ANALYZE wide;
SET work_mem = '64kB';
SELECT rows, correct FROM compare('cat = 1', 20, tab => 'wide');
SELECT * FROM compare('cat = 1 AND id % 3 = 0 AND id < 3000', 20, tab => 'wide');
RESET work_mem;
DROP TABLE wide;

-- The distance that is shown is the function's, bit for bit.
SELECT bool_and(d = l2_distance(v, q)) AS equal, count(*) FROM
	(SELECT v, (SELECT v FROM queries WHERE n = 60) AS q, v <-> (SELECT v FROM queries WHERE n = 60) AS d FROM items WHERE cat = 7
	ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t;
SELECT bool_and(d = 2 * l2_distance(v, q)) AS equal, count(*) FROM
	(SELECT v, (SELECT v FROM queries WHERE n = 60) AS q, 2 * (v <-> (SELECT v FROM queries WHERE n = 60)) AS d FROM items
	ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t;
-- also in a filter
SELECT count(*), bool_and(l2_distance(v, (SELECT v FROM queries WHERE n = 60)) > 9) FROM
	(SELECT v FROM items WHERE v <-> (SELECT v FROM queries WHERE n = 60) > 9 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t;
-- whole rows, system columns, nothing at all
SELECT bool_and(t.whole = i AND t.tid = i.ctid AND t.oid = i.tableoid), count(*) FROM (SELECT items AS whole, ctid AS tid, tableoid AS oid, id FROM items WHERE cat = 7
	ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t JOIN items i USING (id);
SELECT count(*) FROM (SELECT 1 FROM items WHERE cat = 7 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t;

-- Ties and NULLs: all rows once, NULLs last
SELECT count(*), count(DISTINCT id), bool_and(v IS NULL) FILTER (WHERE n > 2990) AS nulls_last, bool_and(v IS NOT NULL) FILTER (WHERE n <= 2990) AS others_first
	FROM (SELECT row_number() OVER () AS n, id, v FROM (SELECT id, v FROM items ORDER BY v <-> (SELECT v FROM queries WHERE n = 60)) s) t;
SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE v IS NULL) AS nulls FROM (SELECT id, v FROM items WHERE cat = 49
	ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 100) t;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM items WHERE cat = 49 ORDER BY v <-> NULL::vector LIMIT 100) t;
SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM items ORDER BY v <-> (SELECT v FROM items WHERE id = 10) LIMIT 4) t;

-- More rows than LIMIT had promised the planner: a prepared statement's generic plan
SET plan_cache_mode = force_generic_plan;
PREPARE nearest (int, int) AS SELECT id FROM items WHERE cat = $1 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT $2;
CREATE TEMP TABLE got AS EXECUTE nearest(7, 3);
SELECT count(*) FROM got;
CREATE TEMP TABLE got_more AS EXECUTE nearest(8, 50);
SELECT count(*), count(DISTINCT id) FROM got_more;
DEALLOCATE nearest;
RESET plan_cache_mode;

-- Rescans: the query changes, the filter changes, both
SELECT count(*), count(DISTINCT (n, a.id)) FROM queries q, LATERAL (SELECT id FROM items i WHERE cat = 7 ORDER BY i.v <-> q.v LIMIT 3) a;
SELECT count(*), bool_and(a.cat = c) FROM generate_series(1, 9) c, LATERAL (SELECT id, cat FROM items i WHERE cat = c ORDER BY i.v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 3) a;
SELECT bool_and(a.ids = (SELECT array_agg(id ORDER BY d) FROM (SELECT id, l2_distance(v, q.v) AS d FROM items WHERE cat = q.n % 50 ORDER BY 2 LIMIT 3) e))
	FROM queries q, LATERAL (SELECT array_agg(id) AS ids FROM (SELECT id FROM items i WHERE cat = q.n % 50 ORDER BY i.v <-> q.v LIMIT 3) s) a;
SELECT bool_and(a.id = q.n) FROM queries q, LATERAL (SELECT id FROM items i ORDER BY i.v <-> q.v LIMIT 1) a;

-- Cursors
BEGIN;
DECLARE c NO SCROLL CURSOR FOR SELECT id FROM items WHERE cat = 7 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60);
MOVE 30 IN c;
MOVE ALL IN c;
SAVEPOINT s;
MOVE BACKWARD 1 IN c;
ROLLBACK TO s;
CLOSE c;
DECLARE c SCROLL CURSOR FOR SELECT id FROM items WHERE cat = 7 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60);
MOVE 10 IN c;
MOVE BACKWARD 5 IN c;
MOVE FORWARD ALL IN c;
CLOSE c;
DECLARE c CURSOR FOR SELECT id FROM items WHERE cat = 7 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60);
FETCH 1 FROM c \gset first_
UPDATE items SET page = -1 WHERE CURRENT OF c;
SELECT id = :first_id AS right_row FROM items WHERE page = -1;
ROLLBACK;

-- HOT and other updates, deletes
UPDATE items SET page = page + 1000 WHERE cat = 7;
UPDATE items SET cat = 8 WHERE cat = 7 AND id % 3 = 0;
DELETE FROM items WHERE cat = 7 AND id % 3 = 1;
SELECT * FROM compare('cat = 7');
SELECT * FROM compare('cat = 8', 50);
VACUUM items;
SELECT * FROM compare('cat IN (7, 8)', 50);

-- A condition that is constant stands above the scan
PREPARE gated (boolean) AS SELECT count(*) FROM (SELECT id FROM items WHERE cat = 8 AND $1 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 5) t;
SET plan_cache_mode = force_generic_plan;
EXECUTE gated(true);
EXECUTE gated(false);
RESET plan_cache_mode;

-- Partial indexes, of vectors and of the filter
CREATE INDEX items_v_some ON items USING hnsw (v vector_cosine_ops) WHERE tenant = 2;
CREATE INDEX items_id_some ON items (id) WHERE tenant < 4;
SELECT rows, correct FROM compare('tenant = 2', 10, '<=>');
SELECT * FROM compare('tenant = 2 AND cat = 3', 10, '<=>');
SELECT * FROM compare('tenant = 2 AND id < 400', 10, '<=>');
-- An expression index
CREATE INDEX items_half ON items USING ivfflat ((v::halfvec(520)) halfvec_l2_ops);
SELECT plan('SELECT id FROM items WHERE cat = 3 ORDER BY v::halfvec(520) <-> $1::halfvec(520) LIMIT 5');

-- Row-level security and security barriers: no row that is not to be seen reaches a function that could tell
CREATE FUNCTION leak(int) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$;
SET client_min_messages = notice;
CREATE VIEW mine WITH (security_barrier) AS SELECT * FROM items WHERE cat = 9 AND id < 100;
SELECT id FROM mine WHERE leak(id) ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 5;
CREATE ROLE annscan_reader;
GRANT SELECT ON items, queries TO annscan_reader;
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY some_rows ON items FOR SELECT TO annscan_reader USING (id < 100);
SET ROLE annscan_reader;
SELECT id FROM items WHERE cat = 9 AND leak(id) ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 5;
SELECT count(*) FROM (SELECT id FROM items WHERE cat = 9 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 5) t;
RESET ROLE;
DROP POLICY some_rows ON items;
ALTER TABLE items DISABLE ROW LEVEL SECURITY;
DROP FUNCTION leak CASCADE;
SET client_min_messages = warning;

-- Partitions
CREATE TABLE parts (id int, cat int, v vector(520)) PARTITION BY RANGE (id);
CREATE TABLE parts_a (v vector(520), cat int, id int);
ALTER TABLE parts_a ALTER v SET STORAGE EXTERNAL;
ALTER TABLE parts ATTACH PARTITION parts_a FOR VALUES FROM (0) TO (1500);
CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (1500) TO (9000);
ALTER TABLE parts_b ALTER v SET STORAGE EXTERNAL;
INSERT INTO parts SELECT id, cat, v FROM items;
CREATE INDEX ON parts USING hnsw (v vector_l2_ops);
CREATE INDEX ON parts (cat);
VACUUM ANALYZE parts;
SELECT plan('SELECT id FROM parts WHERE cat = 3 ORDER BY v <-> $1 LIMIT 5');
SELECT * FROM compare('cat = 3', 20, tab => 'parts');
SELECT * FROM compare('true', 20, tab => 'parts');

-- DISTINCT, WITH TIES, window functions and joins read the sort key
SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> (SELECT v FROM items WHERE id = 10) FETCH FIRST 2 ROWS WITH TIES) t;
SELECT count(*) FROM (SELECT DISTINCT ON (v <-> (SELECT v FROM items WHERE id = 10)) id FROM items WHERE id <= 40 ORDER BY v <-> (SELECT v FROM items WHERE id = 10)) t;

SELECT min(v <-> (SELECT v FROM queries WHERE n = 60)) = (SELECT min(l2_distance(v, (SELECT v FROM queries WHERE n = 60))) FROM items WHERE cat = 9) AS same
	FROM items WHERE cat = 9;
SELECT array_agg(d) = (SELECT array_agg(d) FROM (SELECT l2_distance(v, (SELECT v FROM queries WHERE n = 60)) AS d FROM items WHERE cat IN (9, 11) ORDER BY 1 LIMIT 20) e) AS same
	FROM (SELECT v <-> (SELECT v FROM queries WHERE n = 60) AS d FROM (SELECT v FROM items WHERE cat = 9 UNION ALL SELECT v FROM items WHERE cat = 11) u
	ORDER BY 1 LIMIT 20) t;
CREATE MATERIALIZED VIEW stored AS SELECT id, cat, v FROM items WHERE id < 1000;
CREATE INDEX ON stored USING ivfflat (v vector_l2_ops);
CREATE INDEX ON stored (cat);
ANALYZE stored;
SELECT plan, rows FROM compare('cat = 9', 10, tab => 'stored');
DROP MATERIALIZED VIEW stored;
-- the scan's counts are those of an index scan
SELECT pg_stat_force_next_flush();
SELECT idx_scan > 0 AS scanned, idx_tup_read > 0 AS has_read, idx_tup_fetch > 0 AS fetched FROM pg_stat_user_indexes WHERE indexrelname = 'items_v';

-- Other consumers: plpgsql, CREATE TABLE AS, a parallel plan's leader
DO $$
DECLARE
	r record;
	ids int[];
BEGIN
	FOR i IN 1 .. 12 LOOP
		ids := '{}';
		FOR r IN SELECT id FROM items WHERE cat = i ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT i LOOP
			ids := ids || r.id;
		END LOOP;
		ASSERT cardinality(ids) = i, 'rows';
	END LOOP;
END $$;

-- In a parallel worker, which gets a copy of the plan
SET max_parallel_workers_per_gather = 2;
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT array_agg(id) = (SELECT array_agg(id) FROM (SELECT id FROM items WHERE cat = 10 ORDER BY l2_distance(v, (SELECT v FROM queries WHERE n = 60)) LIMIT 5) e) AS same
	FROM (SELECT id FROM items WHERE cat = 10 ORDER BY v <-> (SELECT v FROM queries WHERE n = 60) LIMIT 5) t;
SELECT count(*) > 0 AS in_worker FROM plan('SELECT id FROM items WHERE cat = 10 ORDER BY v <-> $1 LIMIT 5', ', ANALYZE, VERBOSE, TIMING OFF, SUMMARY OFF, BUFFERS OFF') line
	WHERE line ~ 'Workers Launched: 1';
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SET max_parallel_workers_per_gather = 0;

-- EXPLAIN ANALYZE
SELECT plan('SELECT id FROM items WHERE cat = 9 AND id < 1000 ORDER BY v <-> $1 LIMIT 5', ', ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF');
SELECT plan('SELECT id FROM items ORDER BY v <-> $1 LIMIT 5', ', ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF');
CREATE FUNCTION explained_json(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) ' || sql INTO plan;
	RETURN QUERY SELECT k FROM jsonb_path_query(plan::jsonb, '$.**.Plans[*] ? (@."Custom Plan Provider" == "AnnScan")') p, jsonb_object_keys(p) k
		WHERE k ~ '^(Index|Order By|Members|Rows Visited|Distances|Stopped|Lossy Pages)' ORDER BY 1;
END $$;
SELECT explained_json('SELECT id FROM items WHERE cat = 9 ORDER BY v <-> (SELECT v FROM queries LIMIT 1) LIMIT 5');

-- An index of full vectors has the very distances that the function computes: none comes from the heap.
CREATE INDEX items_v_full ON items USING hnsw (v vector_ip_ops) WITH (refine_type = full);
CREATE FUNCTION from_heap(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT JSON) ' || sql INTO plan;
	RETURN QUERY SELECT n #>> '{}' FROM jsonb_path_query(plan::jsonb, '$.**.Plans[*] ."Distances From Heap"') n;
END $$;
SELECT from_heap('SELECT id, v <#> (SELECT v FROM queries WHERE n = 60) FROM items ORDER BY v <#> (SELECT v FROM queries WHERE n = 60) LIMIT 20');
SELECT bool_and(d = vector_negative_inner_product(v, (SELECT v FROM queries WHERE n = 60))) AS equal, count(*) FROM (SELECT v, v <#> (SELECT v FROM queries WHERE n = 60) AS d
	FROM items WHERE tenant = 3 ORDER BY v <#> (SELECT v FROM queries WHERE n = 60) LIMIT 20) t;

DROP TABLE items, parts, queries CASCADE;
DROP FUNCTION from_heap;
DROP FUNCTION compare, plan, explained_json;
DROP ROLE annscan_reader;
