-- Conditions on INCLUDE columns: which ones an index tests, and that the answers are the exact ones
SET client_min_messages = warning;
SET jit = off;
SET max_parallel_workers_per_gather = 0;

CREATE FUNCTION filter_vector(i int) RETURNS vector LANGUAGE sql IMMUTABLE AS
	$$ SELECT array_agg(((i * (2 * d + 1) * 7919::bigint) % 1009) / 100.0)::real[]::vector FROM generate_series(1, 40) d $$;
CREATE TYPE filter_mood AS ENUM ('bad', 'fair', 'good');
CREATE TABLE filter_rows (id int PRIMARY KEY, v vector(40), tenant int, price numeric, name text, code varchar(5), day date,
	tag uuid, active bool, mood filter_mood);
INSERT INTO filter_rows SELECT i, CASE WHEN i % 100 <> 99 THEN filter_vector(i) END, CASE WHEN i % 50 <> 0 THEN i % 40 END,
	CASE WHEN i % 7 <> 0 THEN i * 1.5 END,
	CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN repeat('long', 10 + i % 3) ELSE 'name ' || i % 20 END,
	CASE WHEN i % 3 = 0 THEN 'ab' || i % 4 END, date '2026-01-01' + i % 30, md5((i % 50)::text)::uuid, i % 4 = 0,
	(enum_range(NULL::filter_mood))[i % 3 + 1]
	FROM generate_series(1, 600) i;
-- Equal vectors under several tenants, and many under one
INSERT INTO filter_rows (id, v, tenant, name) SELECT 1000 + i, filter_vector(1), i % 5, 'twin' FROM generate_series(1, 60) i;
CREATE INDEX filter_idx ON filter_rows USING hnsw (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active, mood);
ANALYZE filter_rows;

-- Whether the index tests the condition, and whether the answers are those of exact search
CREATE FUNCTION filter_try(condition text, OUT tested text, OUT same boolean, OUT answers int) LANGUAGE plpgsql AS $$
DECLARE
	query text;
	line text;
	exact float8[];
	found float8[];
	q int;
	k int;
BEGIN
	SET LOCAL hnsw.ef_search = 200;
	SET LOCAL ivfflat.probes = 10;
	query := format('SELECT v <-> filter_vector(%%s) AS d FROM filter_rows WHERE %s ORDER BY d LIMIT %%s', replace(condition, '%', '%%'));
	same := true;
	answers := 0;
	tested := 'nothing';
	FOREACH q IN ARRAY ARRAY[1, 77, 5000] LOOP
		FOREACH k IN ARRAY ARRAY[5, 1000] LOOP
			SET LOCAL enable_seqscan = on;
			SET LOCAL enable_sort = on;
			SET LOCAL enable_indexscan = off;
			EXECUTE format('SELECT array_agg(round(d::numeric, 4) ORDER BY d) FROM (' || query || ') s', q, k) INTO exact;
			SET LOCAL enable_seqscan = off;
			SET LOCAL enable_sort = off;
			SET LOCAL enable_indexscan = on;
			EXECUTE format('SELECT array_agg(round(d::numeric, 4) ORDER BY d) FROM (' || query || ') s', q, k) INTO found;
			same := same AND exact IS NOT DISTINCT FROM found;
			answers := answers + coalesce(cardinality(found), 0);
		END LOOP;
	END LOOP;
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF) ' || query, 1, 5) LOOP
		IF line LIKE '%Index Filter:%' THEN
			-- an InitPlan has another name from version to version
			tested := regexp_replace(substring(line FROM 'Index Filter: (.*)'), '\$0|\(InitPlan 1\)\.col1', 'subselect');
		END IF;
	END LOOP;
END $$;

CREATE TABLE filter_conditions (n serial, condition text);
INSERT INTO filter_conditions (condition) VALUES
	('tenant = 7'), ('7 = tenant'), ('tenant = 7::bigint'), ('tenant = 7::smallint'), ('tenant = 41'), ('tenant IS NULL'),
	('tenant IS NOT NULL'), ('tenant = NULL'), ('tenant <> 7'), ('tenant < 3'), ('3 > tenant'), ('tenant BETWEEN 3 AND 5'),
	('tenant IN (1, 2, NULL)'), ('tenant NOT IN (1, 2)'), ('tenant NOT IN (1, NULL)'), ('tenant = ANY (''{}'')'),
	('tenant = ANY (''{1,3,5,7,9,11,13,15,17}''::int[])'), ('tenant <> ALL (''{1,3,5,7,9,11,13,15,17}''::int[])'),
	('tenant > ANY (''{30,35}''::int[])'), ('tenant < ALL (''{}''::int[])'),
	('tenant = 1 OR tenant = 2'), ('(tenant = 1 AND price > 50) OR (tenant IS NULL AND NOT active)'),
	('tenant = 3 AND price >= 100.0'), ('price = 150'), ('price = 150.00'), ('price IN (1.5, 3.0, 15)'), ('price IS NULL'),
	('name = ''name 7'''), ('name = ''twin'' AND tenant = 2'), ('name = repeat(''long'', 11)'), ('name >= ''name 5'''),
	('name <> ''name 7'''), ('name IS NULL'), ('name IS NOT NULL'), ('code = ''ab1'''), ('code = ''ab1''::varchar'),
	('day < date ''2026-01-05'''), ('day < timestamp ''2026-01-05 12:00'''), ('tag = md5(''7'')::uuid'),
	('active'), ('NOT active'), ('active IS TRUE'), ('active IS NOT TRUE'), ('active IS NOT FALSE'), ('active = false'),
	('active IS UNKNOWN'), ('mood = ''good'''), ('mood IN (''good'', ''fair'')'),
	-- tests that the index leaves to the table
	('mood > ''bad'''), ('tenant + 0 = 7'), ('name LIKE ''name 1%'''), ('tenant = id % 40'),
	('tenant = (random() * 0 + 7)::int'), ('name ~>=~ ''name 5'''), ('tenant = 7 AND id % 2 = 1'),
	('tenant = (SELECT min(tenant) + 7 FROM filter_rows)');
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t ORDER BY n;

-- The same answers from an index whose first included column has no chains for these, and from ivfflat
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING hnsw (v vector_l2_ops) INCLUDE (price, tenant, name, code, day, tag, active, mood);
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (price, tenant, name, code, day, tag, active, mood) WITH (lists = 10, quantizer = none);
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (price, tenant, name, code, day, tag, active, mood) WITH (lists = 10);
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
-- Rows that were inserted, updated and deleted since
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING hnsw (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active, mood);
UPDATE filter_rows SET tenant = tenant + 1, active = NOT active WHERE id % 3 = 0;
DELETE FROM filter_rows WHERE id % 4 = 1;
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
VACUUM filter_rows;
INSERT INTO filter_rows (id, v, tenant, price) SELECT 2000 + i, filter_vector(2000 + i), i % 40, i FROM generate_series(1, 200) i;
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
SELECT * FROM ann_index_check('filter_idx', true);

-- Conditions for a bitmap of another index beside those that this one tests; what the bitmap sees to it does not
CREATE INDEX filter_other ON filter_rows ((id % 3), price);
ANALYZE filter_rows;
CREATE TABLE filter_both (n serial, condition text);
INSERT INTO filter_both (condition) VALUES ('id % 3 = 1 AND tenant = 7'), ('id % 3 = 1 AND tenant < 30'), ('id % 3 < 3 AND tenant = 7'),
	('id % 3 = 1 AND active AND tenant IN (1, 2, 3, 4, 5)'), ('id % 3 = 2 AND price > 300 AND name IS NOT NULL'),
	('id % 3 = 2 AND tenant = 7 AND id % 5 = 1'), ('id % 3 = 0 AND price IS NULL AND tenant IS NULL');
SELECT condition, t.* FROM filter_both c, filter_try(condition) t ORDER BY n;
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active, mood) WITH (lists = 10);
SELECT condition, t.* FROM filter_both c, filter_try(condition) t WHERE NOT same ORDER BY n;
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING hnsw (v vector_l2_ops) INCLUDE (tenant, price, name, code, day, tag, active, mood);
DROP INDEX filter_other;
DROP TABLE filter_both;

-- Parameters of prepared statements and of joins
SET enable_seqscan = off;
SET enable_sort = off;
SET plan_cache_mode = force_generic_plan;
PREPARE filter_one(int, int[]) AS SELECT id FROM filter_rows WHERE tenant = $1 OR tenant = ANY ($2) ORDER BY v <-> array_fill(3, '{40}')::vector LIMIT 3;
EXPLAIN (COSTS OFF) EXECUTE filter_one(7, '{8}');
EXECUTE filter_one(7, '{8,9}');
EXECUTE filter_one(NULL, '{8}');
EXECUTE filter_one(NULL, NULL);
RESET plan_cache_mode;
EXPLAIN (COSTS OFF) SELECT t, n.id FROM generate_series(15, 17) t, LATERAL
	(SELECT id FROM filter_rows WHERE tenant = t ORDER BY v <-> filter_vector(t) LIMIT 2) n;
SELECT t, n.id FROM generate_series(15, 17) t, LATERAL
	(SELECT id FROM filter_rows WHERE tenant = t ORDER BY v <-> filter_vector(t) LIMIT 2) n;
SELECT t, (SELECT array_agg(id ORDER BY d) FROM
	(SELECT id, v <-> filter_vector(t) AS d FROM filter_rows WHERE tenant + 0 = t ORDER BY d LIMIT 2) s) FROM generate_series(15, 17) t;

-- Row-level security: the policy goes first, then what leaks nothing
CREATE ROLE filter_reader;
GRANT SELECT ON filter_rows TO filter_reader;
ALTER TABLE filter_rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY filter_policy ON filter_rows USING (tenant = current_setting('filter.tenant')::int);
SET filter.tenant = 3;
SET ROLE filter_reader;
EXPLAIN (COSTS OFF) SELECT id FROM filter_rows WHERE price > 10 AND day > '2026-01-02' ORDER BY v <-> array_fill(5, '{40}')::vector LIMIT 3;
SELECT count(*), min(tenant), max(tenant) FROM
	(SELECT tenant FROM filter_rows WHERE day > '2026-01-02' ORDER BY v <-> array_fill(5, '{40}')::vector LIMIT 100) s;
RESET ROLE;
DROP OWNED BY filter_reader;
DROP ROLE filter_reader;

-- ivfflat finds entries by the key of their first included column: an integer, more values than are compared one by one, a
-- text with values too long, a type without a hash function; entries that were freed and used again
INSERT INTO filter_conditions (condition) VALUES
	('tenant = ANY (''{' || (SELECT string_agg(g::text, ',') FROM generate_series(2, 39) g) || '}''::int[])'),
	('name = ANY (''{name 7,name 8,' || repeat('long', 11) || '}''::text[])'), ('cost = 3::money');
-- not by UPDATE: an index is not used as long as a transaction runs that may see what HOT chains had before
ALTER TABLE filter_rows ADD cost money;
ALTER TABLE filter_rows ALTER cost TYPE money USING (id % 7)::money;
CREATE FUNCTION filter_change() RETURNS void LANGUAGE sql AS $$
	UPDATE filter_rows SET tenant = tenant + 1, name = CASE WHEN id % 2 = 0 THEN name || id % 4 END, cost = cost + 1::money WHERE id % 5 = 2;
	DELETE FROM filter_rows WHERE id % 11 = 3 $$;
CREATE FUNCTION filter_more(first int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO filter_rows (id, v, tenant, name, cost) SELECT first + i, filter_vector(first + i), i % 40,
		CASE i % 3 WHEN 0 THEN repeat('long', 11) ELSE 'name ' || i % 20 END, (i % 7)::money FROM generate_series(1, 100) i $$;
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (tenant, name, cost) WITH (lists = 10);
DO 'BEGIN PERFORM filter_change(); END';
VACUUM filter_rows;
DO 'BEGIN PERFORM filter_more(3000); END';
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
SELECT * FROM ann_index_check('filter_idx', true);
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (name, tenant, cost) WITH (lists = 10, quantizer = none);
DO 'BEGIN PERFORM filter_change(); END';
VACUUM filter_rows;
DO 'BEGIN PERFORM filter_more(4000); END';
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same ORDER BY n;
SELECT * FROM ann_index_check('filter_idx', true);
DROP INDEX filter_idx;
CREATE INDEX filter_idx ON filter_rows USING ivfflat (v vector_l2_ops) INCLUDE (cost, name) WITH (lists = 10);
SELECT condition, t.* FROM filter_conditions c, filter_try(condition) t WHERE NOT same OR condition LIKE 'cost%' ORDER BY n;
SELECT * FROM ann_index_check('filter_idx', true);

DROP TABLE filter_rows, filter_conditions;
DROP TYPE filter_mood;
DROP FUNCTION filter_vector(int), filter_try(text), filter_change(), filter_more(int);
