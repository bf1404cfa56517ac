-- INCLUDE columns of hnsw and ivfflat: what is stored, kept and refused
SET client_min_messages = warning;
SET jit = off;

CREATE TABLE include_rows (
	id int PRIMARY KEY,
	v vector(8),
	tenant int,
	price numeric,
	name text,
	code varchar(5),
	day date,
	tag uuid,
	active bool
);
-- A vector for each number, the same on every run
CREATE FUNCTION include_vector(i int) RETURNS vector LANGUAGE sql IMMUTABLE AS
	$$ SELECT array_agg(((i * (2 * d + 1) * 7919) % 1009) / 100.0)::real[]::vector FROM generate_series(1, 8) d $$;
CREATE FUNCTION include_fill(first int, last int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO include_rows SELECT i, include_vector(i), i % 10,
		CASE WHEN i % 7 <> 0 THEN i * 1.5 END,
		CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN repeat('long', 10 + i % 3) ELSE 'name ' || i % 20 END,
		CASE WHEN i % 3 = 0 THEN 'ab' || i % 4 END, date '2026-01-01' + i % 30, md5((i % 50)::text)::uuid, i % 4 = 0
	FROM generate_series(first, last) i $$;

-- Which of the index's lines tell of its included columns
CREATE FUNCTION include_info(index regclass) RETURNS TABLE (name text, value text) LANGUAGE sql AS
	$$ SELECT * FROM ann_index_info(index) WHERE name LIKE '%included%' $$;

SELECT include_fill(1, 300);
CREATE INDEX include_hnsw ON include_rows USING hnsw (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active);
CREATE INDEX include_ivfflat ON include_rows USING ivfflat (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active) WITH (lists = 10);
CREATE INDEX include_codes ON include_rows USING hnsw (v vector_l2_ops) INCLUDE (name, tenant) WITH (quantizer = rabitq);
CREATE INDEX include_lists ON include_rows USING ivfflat (v vector_l2_ops) INCLUDE (name, tenant) WITH (quantizer = rabitq, lists = 10);
SELECT * FROM include_info('include_hnsw');
SELECT * FROM include_info('include_lists');
SELECT pg_get_indexdef('include_codes'::regclass);

CREATE FUNCTION include_defects() RETURNS TABLE (index name, defect text) LANGUAGE sql AS $$
	SELECT relname, c.defect FROM pg_class, ann_index_check(oid, true) c
	WHERE relkind = 'i' AND relname IN ('include_hnsw', 'include_ivfflat', 'include_codes', 'include_lists') $$;
SELECT * FROM include_defects();

-- Rows that come later, updates of included columns alone, deletions, NULL and equal vectors
SELECT include_fill(301, 400);
INSERT INTO include_rows (id, v, tenant) SELECT 1000 + i, include_vector(1), i % 5 FROM generate_series(1, 60) i;
INSERT INTO include_rows (id, v, tenant) VALUES (2000, NULL, 1), (2001, NULL, NULL);
UPDATE include_rows SET tenant = tenant + 10 WHERE id % 6 = 0;
UPDATE include_rows SET name = repeat('x', id % 60) WHERE id % 10 = 0;
DELETE FROM include_rows WHERE id % 4 = 0;
SELECT * FROM include_defects();
VACUUM include_rows;
SELECT * FROM include_defects();
SELECT include_fill(401, 500);
DELETE FROM include_rows WHERE id % 3 = 0;
VACUUM include_rows;
SELECT include_fill(501, 600);
SELECT * FROM include_defects();
REINDEX TABLE include_rows;
SELECT * FROM include_defects();

-- A tuple is found under its own columns only: this is no update that a heap page can keep to itself
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd > 0 AS updated, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'include_rows';

-- Equal vectors share a row where the included columns are equal too
CREATE TABLE include_same (v vector(2), tenant int, note text);
INSERT INTO include_same SELECT '[1,2]', i % 3, CASE i % 2 WHEN 0 THEN repeat('a', 100 + i) ELSE 'b' END FROM generate_series(1, 60) i;
CREATE INDEX include_same_idx ON include_same USING hnsw (v vector_l2_ops) INCLUDE (tenant, note);
SELECT name, value FROM ann_index_info('include_same_idx') WHERE name IN ('rows', 'heap tuples');
INSERT INTO include_same SELECT '[1,2]', i % 4, NULL FROM generate_series(1, 40) i;
SELECT name, value FROM ann_index_info('include_same_idx') WHERE name IN ('rows', 'heap tuples');
SELECT * FROM ann_index_check('include_same_idx', true);

-- Partitions of a build that has too little memory merge equal rows alike
SET maintenance_work_mem = '1MB';
SET max_parallel_maintenance_workers = 0;
CREATE TABLE include_many AS
	SELECT i, include_vector(i % 4000) || include_vector(i % 4000) || include_vector(i / 2 % 2000) AS v, i / 4000 % 2 AS tenant FROM generate_series(1, 12000) i;
ALTER TABLE include_many ALTER v TYPE vector(24);
CREATE INDEX include_many_idx ON include_many USING hnsw (v vector_l2_ops) INCLUDE (tenant);
SELECT * FROM ann_index_check('include_many_idx', true);
SELECT (SELECT count(*) FROM (SELECT DISTINCT v, tenant FROM include_many) d) = value::int AS every_pair_once
	FROM ann_index_info('include_many_idx') WHERE name = 'rows';
RESET maintenance_work_mem;
RESET max_parallel_maintenance_workers;

-- Unlogged and temporary tables, an index on nothing, TRUNCATE
CREATE UNLOGGED TABLE include_unlogged (v vector(2), tenant text);
CREATE INDEX include_unlogged_idx ON include_unlogged USING hnsw (v vector_l2_ops) INCLUDE (tenant);
INSERT INTO include_unlogged SELECT ARRAY[i, i]::real[], 'tenant ' || i % 4 FROM generate_series(1, 50) i;
SELECT * FROM ann_index_check('include_unlogged_idx', true);
TRUNCATE include_unlogged;
INSERT INTO include_unlogged SELECT ARRAY[i, i]::real[], 'tenant ' || i % 4 FROM generate_series(1, 50) i;
SELECT * FROM ann_index_check('include_unlogged_idx', true);

-- A column whose type cannot be hashed has no chains
CREATE TABLE include_unhashed (v vector(2), place point);
INSERT INTO include_unhashed SELECT ARRAY[i, i]::real[], point(i, i) FROM generate_series(1, 50) i;
CREATE INDEX include_unhashed_idx ON include_unhashed USING hnsw (v vector_l2_ops) INCLUDE (place);
INSERT INTO include_unhashed SELECT ARRAY[i, i]::real[], point(i, i) FROM generate_series(51, 60) i;
SELECT * FROM ann_index_check('include_unhashed_idx', true);

-- Types that change without a new index
CREATE TABLE include_altered (v vector(2), code varchar(3), price numeric(5,2), letters char(3), bits varbit(8));
INSERT INTO include_altered SELECT ARRAY[i, i]::real[], 'c' || i % 5, i, 'l' || i % 7, B'101' FROM generate_series(1, 50) i;
CREATE INDEX include_altered_hnsw ON include_altered USING hnsw (v vector_l2_ops) INCLUDE (code, price, letters, bits);
CREATE INDEX include_altered_ivfflat ON include_altered USING ivfflat (v vector_l2_ops) INCLUDE (code, price, letters, bits);
ALTER TABLE include_altered ALTER code TYPE varchar(5), ALTER price TYPE numeric(9,2), ALTER bits TYPE varbit(64);
INSERT INTO include_altered SELECT ARRAY[i, i]::real[], 'code' || i % 5, 100000 + i, 'l' || i % 7, B'1010101010101010' FROM generate_series(51, 60) i;
ALTER TABLE include_altered ALTER code TYPE text;
INSERT INTO include_altered VALUES ('[61,61]', 'a longer code', 1, 'l', B'1');
SELECT * FROM ann_index_check('include_altered_hnsw', true);
SELECT * FROM ann_index_check('include_altered_ivfflat', true);
ALTER TABLE include_altered ALTER letters TYPE char(5);
SELECT * FROM ann_index_check('include_altered_hnsw', true);
SELECT * FROM ann_index_check('include_altered_ivfflat', true);

-- No answers from the index alone
SET enable_seqscan = off;
SET ann.enable_annscan = off;
EXPLAIN (COSTS OFF) SELECT tenant FROM include_same ORDER BY v <-> '[1,1]' LIMIT 1;
RESET enable_seqscan;
RESET ann.enable_annscan;

-- Equal vectors in many tenants, built and inserted: their edges lead to one another and to other vectors
CREATE TABLE include_equal (id int, tenant int, v vector(8));
CREATE TABLE include_equal_late (LIKE include_equal);
CREATE INDEX include_equal_late_idx ON include_equal_late USING hnsw (v vector_l2_ops) INCLUDE (tenant);
INSERT INTO include_equal SELECT g * 100 + t, t, ARRAY[sin(g), cos(g * 3), sin(g * 5), cos(g * 7), sin(g * 11), cos(g * 13), sin(g * 17), g % 7 / 7.0]::real[]::vector
	FROM generate_series(1, 120) g, generate_series(1, 40) t;
CREATE INDEX include_equal_idx ON include_equal USING hnsw (v vector_l2_ops) INCLUDE (tenant);
INSERT INTO include_equal_late SELECT * FROM include_equal ORDER BY id;
SET enable_seqscan = off;
SET enable_sort = off;
CREATE FUNCTION include_hits(tab regclass) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	q vector;
	farthest float8;
	n int;
	hits int := 0;
BEGIN
	FOR g IN 1..10 LOOP
		SELECT v INTO q FROM include_equal WHERE id = g * 1200 + 5;
		SELECT max(d) INTO farthest FROM (SELECT v <-> q AS d FROM include_equal ORDER BY (v <-> q) + 0 * id LIMIT 120) e;
		EXECUTE format('SELECT count(*) FROM (SELECT v <-> $1 AS d FROM %s ORDER BY v <-> $1 LIMIT 120) s WHERE d <= $2', tab) INTO n USING q, farthest;
		hits := hits + n;
	END LOOP;
	RETURN hits;
END $$;
SELECT t, include_hits(t) >= 0.9 * 10 * 120 AS found FROM unnest('{include_equal,include_equal_late}'::regclass[]) t;
DROP FUNCTION include_hits(regclass);
RESET enable_seqscan;
RESET enable_sort;
SELECT * FROM ann_index_check('include_equal_idx', true) UNION ALL SELECT * FROM ann_index_check('include_equal_late_idx', true);

-- A scan by cards that hnsw.max_scan_tuples ends returns what it has found, with codes and without
CREATE INDEX include_equal_plain ON include_equal USING hnsw (v vector_l1_ops) INCLUDE (tenant);
SET enable_seqscan = off;
SET enable_sort = off;
SET enable_bitmapscan = off;
SET hnsw.max_scan_tuples = 60;
SELECT count(*) FROM (SELECT id FROM include_equal WHERE tenant = 3 ORDER BY v <-> (SELECT v FROM include_equal WHERE id = 103) LIMIT 10) t;
SELECT count(*) FROM (SELECT id FROM include_equal WHERE tenant = 3 ORDER BY v <+> (SELECT v FROM include_equal WHERE id = 103) LIMIT 10) t;
RESET hnsw.max_scan_tuples;
RESET enable_bitmapscan;
RESET enable_seqscan;
RESET enable_sort;

-- A scan that has returned rows when it goes over to cards returns all the others as well
CREATE TABLE include_cards AS SELECT i AS id, i % 20 AS tenant, include_vector(i)::vector(8) AS v FROM generate_series(1, 600) i;
CREATE INDEX include_cards_idx ON include_cards USING hnsw (v vector_l2_ops) INCLUDE (tenant) WITH (quantizer = none);
ANALYZE include_cards;
CREATE FUNCTION include_short_answers() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	n int;
	short int := 0;
BEGIN
	FOR least IN 0..9 LOOP
		FOR q IN 1..60 LOOP
			EXECUTE format('SELECT count(*) FROM (SELECT id FROM include_cards WHERE tenant >= %s ORDER BY v <-> (SELECT include_vector(%s))) t', least, q * 10) INTO n;
			short := short + (n <> 30 * (20 - least))::int;
		END LOOP;
	END LOOP;
	RETURN short;
END $$;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT include_short_answers();
RESET enable_seqscan;
RESET enable_sort;
DROP FUNCTION include_short_answers();
DROP TABLE include_cards;

-- What cannot be
CREATE INDEX ON include_rows USING hnsw (v vector_l2_ops, tenant);
CREATE INDEX ON include_rows USING ivfflat (v vector_l2_ops) INCLUDE ((tenant + 1));
CREATE TABLE include_wide (v vector(3), box box, line lseg, path path, n1 name, n2 name, n3 name, n4 name, n5 name, n6 name,
	n7 name, n8 name, n9 name, n10 name, n11 name, n12 name, n13 name, n14 name, n15 name, n16 name, n17 name);
CREATE INDEX ON include_wide USING hnsw (v vector_l2_ops) INCLUDE (n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15, n16, n17);
CREATE INDEX ON include_wide USING ivfflat (v vector_l2_ops) INCLUDE (n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15, n16, n17);
CREATE INDEX ON include_wide USING hnsw (v vector_l2_ops) INCLUDE (box, line, path);
CREATE INDEX ON include_wide USING ivfflat (v vector_l2_ops) INCLUDE (box, line, path);

DROP TABLE include_equal, include_equal_late, include_rows, include_same, include_many, include_unlogged, include_unhashed, include_altered, include_wide;
DROP FUNCTION include_vector(int), include_fill(int, int), include_info(regclass), include_defects();
