-- Values in TOAST tables, in every order and state of the table.  Each row's
-- vector is made from its seed, so the oracle is the vector made anew: the
-- distance between equal vectors is exactly 0.

SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;

CREATE FUNCTION made(seed int, dim int) RETURNS vector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
	SELECT array_agg(((seed::bigint * 7919 + j * 104729) % 50021)::real ORDER BY j)::vector FROM generate_series(1, dim) j
$$;

CREATE TABLE items (id int PRIMARY KEY, seed int NOT NULL, v vector NOT NULL);
ALTER TABLE items SET (toast_tuple_target = 128, autovacuum_enabled = off, toast.autovacuum_enabled = off);

-- rows with wrong vectors (none) and rows, read in the order the plan gives
CREATE FUNCTION wrong() RETURNS TABLE (wrong bigint, total bigint) LANGUAGE sql AS $$
	SELECT count(*) FILTER (WHERE l1_distance(v, made(seed, vector_dims(v))) IS DISTINCT FROM 0), count(*) FROM items
$$;

-- dimensions around whole chunks: 498 * 4 + 4 = 1996 bytes are one
INSERT INTO items SELECT i, i, made(i, d) FROM generate_series(1, 300) i,
	LATERAL (SELECT (ARRAY[31, 497, 498, 499, 996, 997, 998, 1536, 4000])[1 + i % 9]) AS x (d);
SELECT reltoastrelid::regclass AS chunks FROM pg_class WHERE oid = 'items'::regclass \gset
SELECT count(DISTINCT chunk_id) AS toasted, max(chunk_seq) AS last_chunk FROM :chunks;

-- forwards, forwards again (places are known now), backwards, and shuffled
SELECT * FROM wrong();
SELECT * FROM wrong();
CREATE FUNCTION wrong_in_order(ids int[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint := 0;
	i int;
BEGIN
	FOREACH i IN ARRAY ids LOOP
		n := n + (SELECT count(*) FROM items WHERE id = i AND l1_distance(v, made(seed, vector_dims(v))) IS DISTINCT FROM 0);
	END LOOP;
	RETURN n;
END
$$;
SELECT wrong_in_order(array_agg(id ORDER BY id DESC)) FROM items;
SELECT wrong_in_order(array_agg(id ORDER BY id * 7919 % 10007)) FROM items;

-- updated rows lie elsewhere; the dead chunks stay between the others
UPDATE items SET seed = seed + 1000, v = made(seed + 1000, 700) WHERE id % 3 = 0;
SELECT * FROM wrong();
-- rolled back: chunks that nobody ever sees
BEGIN;
UPDATE items SET seed = seed + 5000, v = made(seed + 5000, 900) WHERE id % 5 = 0;
SAVEPOINT s;
INSERT INTO items SELECT i, i, made(i, 600) FROM generate_series(1001, 1040) i;
SELECT * FROM wrong();
ROLLBACK TO s;
SELECT * FROM wrong();
INSERT INTO items SELECT i, i, made(i, 800) FROM generate_series(1101, 1140) i;
SELECT * FROM wrong();
ROLLBACK;
SELECT * FROM wrong();
-- a subtransaction that fails in the middle of reading
DO $$
BEGIN
	FOR i IN 1..5 LOOP
		BEGIN
			INSERT INTO items SELECT 2000 + i, 2000 + i, made(2000 + i, 1000);
			PERFORM 1 / (count(*) - 301) FROM items WHERE l1_distance(v, v) = 0;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT * FROM wrong();

-- freed space is filled again, in another order
VACUUM items;
UPDATE items SET seed = seed + 7000, v = made(seed + 7000, 1100) WHERE id % 4 = 1;
INSERT INTO items SELECT i, i, made(i, 500) FROM generate_series(3001, 3100) i;
SELECT * FROM wrong();
SELECT wrong_in_order(array_agg(id ORDER BY id * 7919 % 10007)) FROM items;

-- the end of the TOAST table is cut off after places there were remembered
DELETE FROM items WHERE id > 100;
VACUUM (TRUNCATE) items;
SELECT * FROM wrong();
INSERT INTO items SELECT i, i, made(i, 1536) FROM generate_series(4001, 4050) i;
SELECT * FROM wrong();

-- rewritten, with the value OIDs of before at other places
CLUSTER items USING items_pkey;
SELECT * FROM wrong();
DELETE FROM items WHERE id % 7 = 0;
VACUUM FULL items;
SELECT * FROM wrong();
TRUNCATE items;
SELECT * FROM wrong();
INSERT INTO items SELECT i, i, made(i, 768) FROM generate_series(1, 400) i;
SELECT * FROM wrong();

-- in order and out of order, hardly any value is looked up in the TOAST table's index
CREATE VIEW index_reads AS SELECT tidx_blks_hit + tidx_blks_read AS n FROM pg_statio_user_tables WHERE relid = 'items'::regclass;
VACUUM items;
SELECT pg_stat_force_next_flush();
SELECT n AS before FROM index_reads \gset
SELECT count(*) FROM items WHERE v <-> v = 0;
SELECT pg_stat_force_next_flush();
SELECT n - :before < 40 AS few FROM index_reads;
SELECT n AS before FROM index_reads \gset
DO $$
BEGIN
	FOR i IN 1..400 LOOP
		PERFORM 1 FROM items WHERE id = 1 + i * 7919 % 400 AND v <-> v = 0;
	END LOOP;
END
$$;
SELECT pg_stat_force_next_flush();
SELECT n - :before < 40 AS few FROM index_reads;

-- two columns fetched in turn from one TOAST table
CREATE TABLE pairs (id int, a vector(768), b halfvec(1536));
INSERT INTO pairs SELECT i, made(i, 768), made(i + 1, 1536)::halfvec FROM generate_series(1, 200) i;
SELECT count(*) FILTER (WHERE a <-> made(id, 768) <> 0) AS a, count(*) FILTER (WHERE b <-> made(id + 1, 1536)::halfvec <> 0) AS b,
	count(*) AS total FROM pairs;
SELECT count(*) FROM pairs WHERE b <-> made(id + 1, 1536)::halfvec = 0;

-- both arguments change with every row, or neither does, or they are the same value
SELECT count(*) FROM items x JOIN items y ON y.id = x.id + 1 WHERE x.v <-> y.v = made(x.seed, 768) <-> made(y.seed, 768);
SELECT count(*) FROM items WHERE v <-> v = 0;
SELECT count(*) FROM items WHERE v <-> (SELECT v FROM items WHERE id = 17) = made(seed, 768) <-> made(17, 768);
SELECT count(*) FROM items, (VALUES (17), (170), (17)) AS q (id)
	WHERE items.v <-> (SELECT v FROM items AS i WHERE i.id = q.id) = made(items.id, 768) <-> made(q.id, 768);

-- compressed, with a short header, of a temporary table
CREATE TEMP TABLE others (id int, v vector);
ALTER TABLE others ALTER v SET STORAGE extended;
ALTER TABLE others SET (toast_tuple_target = 128);
INSERT INTO others SELECT i, array_fill(i, ARRAY[2000])::vector FROM generate_series(1, 20) i;
INSERT INTO others SELECT i, array_fill(i, ARRAY[16000])::vector FROM generate_series(21, 40) i;
INSERT INTO others SELECT i, array_fill(i, ARRAY[1 + i % 40])::vector FROM generate_series(41, 140) i;
INSERT INTO others SELECT i, made(i, 1000) FROM generate_series(141, 240) i;
SELECT count(*) FILTER (WHERE id <= 140 AND v <-> array_fill(id, ARRAY[vector_dims(v)])::vector = 0) AS equal,
	count(*) FILTER (WHERE id > 140 AND v <-> made(id, 1000) = 0) AS made, count(*) AS total FROM others;

-- all workers read correctly, and the plan is parallel
SET max_parallel_workers_per_gather = 2;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
EXPLAIN (COSTS OFF) SELECT count(*) FROM items WHERE l1_distance(v, made(seed, 768)) = 0;
SELECT count(*) FROM items WHERE l1_distance(v, made(seed, 768)) = 0;
RESET min_parallel_table_scan_size;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
SET max_parallel_workers_per_gather = 0;

-- cursors outlive their transaction and its rows
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT id, v FROM items WHERE id <= 3 ORDER BY id;
DECLARE plain CURSOR FOR SELECT id, v <-> made(seed, 768) AS distance FROM items WHERE id <= 3 ORDER BY id;
FETCH 1 FROM plain;
DELETE FROM items WHERE id = 2;
FETCH ALL FROM plain;
COMMIT;
UPDATE items SET v = made(9, 768), seed = 9 WHERE id = 3;
VACUUM items;
CREATE TEMP TABLE fetched (id int, v vector);
DO $$
DECLARE
	held refcursor := 'held';
	r record;
BEGIN
	LOOP
		FETCH held INTO r;
		EXIT WHEN NOT FOUND;
		INSERT INTO fetched VALUES (r.id, r.v);
	END LOOP;
END
$$;
SELECT id, v <-> made(id, 768) AS distance FROM fetched ORDER BY id;

-- statements prepared once, run in many transactions, with toasted parameters
PREPARE near (int) AS SELECT id FROM items ORDER BY v <-> (SELECT v FROM items AS q WHERE q.id = $1), id LIMIT 1;
SET plan_cache_mode = force_generic_plan;
EXECUTE near (5);
UPDATE items SET v = made(77, 768), seed = 77 WHERE id = 5;
EXECUTE near (5);
EXECUTE near (6);
EXECUTE near (5);
RESET plan_cache_mode;

-- a procedure's expressions live as long as the session
CREATE PROCEDURE walk(INOUT wrong int) LANGUAGE plpgsql AS $$
DECLARE
	x vector;
	y vector;
BEGIN
	wrong := 0;
	FOR i IN 50..80 LOOP
		SELECT v INTO x FROM items WHERE id = i;
		IF x <-> made(i, 768) <> 0 THEN
			wrong := wrong + 1;
		END IF;
		UPDATE items SET v = made(i + 1, 768), seed = i + 1 WHERE id = i;
		IF i % 3 = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
		SELECT v INTO y FROM items WHERE id = i;
		IF y <-> made(CASE WHEN i % 3 = 0 THEN i ELSE i + 1 END, 768) <> 0 OR x <-> made(i, 768) <> 0 THEN
			wrong := wrong + 1;
		END IF;
	END LOOP;
END
$$;
CALL walk(NULL);

-- comparison, casts and aggregates take the same way
SELECT count(*) FROM items WHERE v = made(seed, 768);
SELECT count(DISTINCT v) = count(DISTINCT seed) AS same FROM items;
SELECT avg(v) <-> (SELECT avg(made(seed, 768)) FROM items) AS distance FROM items;
SELECT count(*) FROM items WHERE v::halfvec = made(seed, 768)::halfvec;

DROP VIEW index_reads;
DROP TABLE items, pairs, others, fetched;
DROP FUNCTION made, wrong, wrong_in_order;
DROP PROCEDURE walk;
