-- Members that are looked up only when a search of all rows has found too few.

SET client_min_messages = warning;
SET jit = off;
SET hnsw.ef_search = 60;
SET ivfflat.probes = 20;
SET max_parallel_workers_per_gather = 0;

CREATE TABLE line (id int, grp int, place int, v vector(8)) WITH (fillfactor = 70, autovacuum_enabled = off);
-- at a distance from zero of i / 100, in any direction
CREATE PROCEDURE fill_line() LANGUAGE sql AS $$
	INSERT INTO line SELECT i, i * 7919 % 100, i,
		l2_normalize(ARRAY(SELECT sin(i * (j + sqrt(j))) FROM generate_series(1, 8) j)::vector) * array_fill(i / 100.0, ARRAY[8])::vector
		FROM generate_series(1, 10000) i
$$;
-- rows whose TID is not what the index has
CREATE PROCEDURE move_rows(nth int) LANGUAGE sql AS $$ UPDATE line SET id = id WHERE id % nth = 0 $$;
CALL fill_line();
CREATE INDEX line_hnsw ON line USING hnsw (v vector_l2_ops);
CREATE INDEX line_grp ON line (grp);
CREATE INDEX line_place ON line (place);
CREATE INDEX line_last ON line (id) WHERE place > 5000;
VACUUM ANALYZE line;
CALL move_rows(2);
CALL move_rows(6);
ANALYZE line;

CREATE FUNCTION zero() RETURNS vector IMMUTABLE LANGUAGE sql AS $$ SELECT array_fill(0, ARRAY[8])::vector $$;

\getenv abs_srcdir PG_ABS_SRCDIR
\set shared :abs_srcdir '/sql/shared/answers.sql'
\set ECHO none
\i :shared
\set ECHO all
CREATE FUNCTION late(query text, OUT correct boolean, OUT answers int, OUT plan text, OUT stopped text) LANGUAGE sql AS $$
	SELECT correct, answers, plan, CASE WHEN stopped ~ 'enough rows' THEN stopped WHEN stopped IS NOT NULL THEN 'search given up' END FROM answers_of(query)
$$;

EXPLAIN (COSTS OFF) SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 5;
-- the filter lets near rows pass, nothing to do with the query, refuses what is near
SELECT * FROM late('SELECT id FROM line WHERE place <= 5000 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE grp < 50 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id, v <-> zero() AS d FROM line WHERE place > 5000 ORDER BY d LIMIT 5 OFFSET 3');
-- with a condition that the bitmap does not know, two bitmaps, a partial index
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 AND id % 3 > 0 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE (place > 6000 OR grp = 200) ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 AND id > 100 ORDER BY v <-> zero() LIMIT 5');
-- a filter that reads the distance
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 AND (v <-> zero())::int % 2 = 0 ORDER BY v <-> zero() LIMIT 5');
-- without
SET ann.enable_late_bitmap = off;
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 5');
RESET ann.enable_late_bitmap;

-- again for each row of a join: with other members, with the same ones
SELECT * FROM late('SELECT q.n, s.id FROM (VALUES (0), (5000), (6000)) q(n),
	LATERAL (SELECT id FROM line WHERE place > q.n ORDER BY v <-> zero() LIMIT 5) s');
SELECT * FROM late('SELECT q.n, s.id FROM (VALUES (0), (40), (10), (20)) q(n),
	LATERAL (SELECT id FROM line WHERE place > 5000 ORDER BY v <-> array_fill(q.n, ARRAY[8])::vector LIMIT 5) s');

-- row-level security: the cheap function is called for rows that the policy lets pass alone
CREATE FUNCTION leak(int) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS $$
BEGIN
	IF $1 <= 5000 THEN RAISE WARNING 'saw %', $1; END IF;
	RETURN false;
END $$;
CREATE ROLE regress_ann_late;
GRANT SELECT ON line TO regress_ann_late;
CREATE POLICY last_ones ON line USING (place > 5000);
ALTER TABLE line ENABLE ROW LEVEL SECURITY;
SET ROLE regress_ann_late;
SELECT * FROM late('SELECT id FROM line WHERE NOT leak(place) ORDER BY v <-> zero() LIMIT 5');
RESET ROLE;
ALTER TABLE line DISABLE ROW LEVEL SECURITY;

-- rows can be locked; a cursor may take the limit and no more
BEGIN;
SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 3 FOR UPDATE;
COMMIT;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 4;
FETCH 3 FROM c;
FETCH 3 FROM c;
COMMIT;

-- more rows are asked for than the plan was made for
CREATE FUNCTION wanted() RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN current_setting('test.wanted')::int; END $$;
SET plan_cache_mode = force_generic_plan;
SET test.wanted = 3;
PREPARE rows_of(int, int) AS SELECT count(*), min(id), max(id) FROM
	(SELECT id FROM line WHERE place > $1 AND place <= $2 ORDER BY v <-> zero() LIMIT wanted()) s;
EXECUTE rows_of(5000, 10000);
SET test.wanted = 300;
EXECUTE rows_of(5000, 10000);
EXECUTE rows_of(9900, 10000);
RESET plan_cache_mode;
DEALLOCATE rows_of;

-- the same by ivfflat; built before rows move, since the planner leaves an index of HOT chains alone while an older transaction runs
DROP INDEX line_hnsw;
TRUNCATE line;
CALL fill_line();
CREATE INDEX line_ivfflat ON line USING ivfflat (v vector_l2_ops) WITH (lists = 100);
CALL move_rows(2);
CALL move_rows(6);
ANALYZE line;
SELECT * FROM late('SELECT id FROM line WHERE place <= 5000 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE grp < 50 ORDER BY v <-> zero() LIMIT 5');
SELECT * FROM late('SELECT id FROM line WHERE place > 5000 ORDER BY v <-> zero() LIMIT 5');

-- without an index that gives the order: scans are priced as AnnScan's are
DROP INDEX line_ivfflat;
EXPLAIN (COSTS OFF) SELECT id FROM line WHERE grp = 7 ORDER BY v <-> zero() LIMIT 5;

DROP FUNCTION late, answers_of, wanted, leak, zero;
DROP PROCEDURE fill_line, move_rows;
DROP TABLE line;
DROP ROLE regress_ann_late;
