-- A filter without an index that refuses everything near the query: AnnScan searches, gives up, and ranks the table.

SET client_min_messages = warning;
SET jit = off;
SET hnsw.ef_search = 20;
SET max_parallel_workers_per_gather = 0;

CREATE TABLE line (id int, grp int, v vector(8)) WITH (fillfactor = 70, autovacuum_enabled = off);
INSERT INTO line SELECT i, i % 5, array_fill(i / 100.0, ARRAY[8])::vector FROM generate_series(1, 10000) i;
INSERT INTO line SELECT i, i % 5, NULL FROM generate_series(10001, 10001) i;
CREATE INDEX line_hnsw ON line USING hnsw (v vector_l2_ops);
VACUUM ANALYZE line;
-- rows whose TID is not what the index has
UPDATE line SET grp = grp + 10 WHERE id % 2 = 0;
UPDATE line SET grp = grp + 10 WHERE id % 6 = 0;
ANALYZE line;

\getenv abs_srcdir PG_ABS_SRCDIR
\set shared :abs_srcdir '/sql/shared/answers.sql'
\set ECHO none
\i :shared
\set ECHO all

SELECT correct, answers, stopped FROM answers_of('SELECT id, grp FROM line WHERE id > 9000 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 10');
SELECT correct, answers, stopped FROM answers_of('SELECT id, grp, v <-> array_fill(0, ARRAY[8])::vector AS d FROM line WHERE id > 9000 ORDER BY d LIMIT 10 OFFSET 5');
-- fewer rows than wanted; the last one has no distance
SELECT correct, answers, stopped FROM answers_of('SELECT id FROM line WHERE id > 9990 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 12');
SELECT correct, answers, stopped FROM answers_of('SELECT id FROM line WHERE id > 9995 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 7');
-- a filter that reads the distance, and one with a sub-select
SELECT correct, answers, stopped FROM answers_of('SELECT id FROM line WHERE v <-> array_fill(0, ARRAY[8])::vector > 250 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 10');
SELECT correct, answers, stopped FROM answers_of('SELECT id FROM line WHERE id > 9000 + (SELECT count(*) FROM line WHERE id < 100) ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 10');
-- again for each row of a join
SELECT correct, answers, stopped FROM answers_of('SELECT q.n, s.id, s.grp FROM (VALUES (9000), (9500), (9900)) q(n),
	LATERAL (SELECT id, grp FROM line WHERE id > q.n ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 5) s');
-- where the filter goes with the query the search finds what it needs
SELECT correct, answers, stopped FROM answers_of('SELECT id, grp FROM line WHERE id <= 100 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 2');

-- pages that are found where they were the last time count as read
CREATE VIEW page_reads AS SELECT heap_blks_hit + heap_blks_read AS of_table, idx_blks_hit + idx_blks_read AS of_index
	FROM pg_statio_user_tables WHERE relid = 'line'::regclass;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT id FROM line WHERE grp >= 0 ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 20;
SELECT count(*) FROM (SELECT id FROM line WHERE grp >= 0 ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 20) s;
SELECT pg_stat_force_next_flush();
SELECT of_table, of_index FROM page_reads \gset
SELECT count(*) FROM (SELECT id FROM line WHERE grp >= 0 ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 20) s;
SELECT pg_stat_force_next_flush();
SELECT of_table > :of_table AS of_table, of_index >= :of_index + 20 AS of_index FROM page_reads;
DROP VIEW page_reads;
RESET enable_sort;

-- rows of the ranking can be locked
SET enable_sort = off;
BEGIN;
SELECT id, grp FROM line WHERE id > 9000 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 3 FOR UPDATE;
COMMIT;
-- a cursor may take the limit and no more
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM line WHERE id > 9000 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT 4;
FETCH 3 FROM c;
FETCH 3 FROM c;
COMMIT;

-- more rows are asked for than the plan was made for: the rest of the ranking, each row once
CREATE FUNCTION wanted() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN current_setting('test.wanted')::int; END $$;
SET plan_cache_mode = force_generic_plan;
SET test.wanted = 3;
PREPARE last_ones(int) AS SELECT id FROM line WHERE id > $1 AND id <= 10000 ORDER BY v <-> array_fill(0, ARRAY[8])::vector LIMIT wanted();
EXPLAIN (COSTS OFF) EXECUTE last_ones(9992);
EXECUTE last_ones(9992);
SET test.wanted = 20;
EXECUTE last_ones(9992);
EXECUTE last_ones(9997);
EXECUTE last_ones(9998);
RESET plan_cache_mode;
DEALLOCATE last_ones;

-- where its pages are is remembered of a table that has grown, too
SELECT max(used_bytes) > 8 * 2048 AS much FROM pg_backend_memory_contexts WHERE ident = 'ann table pages';
ALTER TABLE line ADD pad text;
ALTER TABLE line ALTER pad SET STORAGE PLAIN;
INSERT INTO line SELECT i, 0, array_fill(i / 100.0, ARRAY[8])::vector, repeat('x', 3900) FROM generate_series(20001, 22100) i;
SELECT id FROM line WHERE grp >= 0 ORDER BY v <-> array_fill(230, ARRAY[8])::vector LIMIT 2;
SELECT max(used_bytes) > 8 * 2048 AS more FROM pg_backend_memory_contexts WHERE ident = 'ann table pages';

DROP FUNCTION answers_of, wanted;
DROP TABLE line;
