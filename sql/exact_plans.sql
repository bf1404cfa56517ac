-- What a distance costs, and the plans of exact search that follow from it.

SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 2;
SET plan_cache_mode = force_generic_plan;

CREATE TABLE big (id int, cat int, v vector(768));
ALTER TABLE big SET (autovacuum_enabled = off);
INSERT INTO big SELECT i, i % 100, array_fill(i % 1000, ARRAY[768])::vector FROM generate_series(1, 12000) i;
CREATE INDEX ON big (cat);
CREATE TABLE small (id int, v vector(768));
INSERT INTO small SELECT id, v FROM big WHERE id <= 500;
VACUUM ANALYZE big;
VACUUM ANALYZE small;

-- few rows: one process; many: workers, though the table proper has few pages
PREPARE near_small (vector) AS SELECT id FROM small ORDER BY v <-> $1 LIMIT 10;
PREPARE near_big (vector) AS SELECT id FROM big ORDER BY v <-> $1 LIMIT 10;
EXPLAIN (COSTS OFF) EXECUTE near_small ('[1]');
EXPLAIN (COSTS OFF) EXECUTE near_big ('[1]');
-- an index that keeps few rows comes before the distances
PREPARE near_cat (vector) AS SELECT id FROM big WHERE cat = 7 ORDER BY v <-> $1 LIMIT 10;
EXPLAIN (COSTS OFF) EXECUTE near_cat ('[1]');
-- no distance, no reason for workers
EXPLAIN (COSTS OFF) SELECT count(id) FROM big;
-- the cheap condition is evaluated first, wherever it is written
PREPARE within (vector) AS SELECT id FROM small WHERE v <-> $1 < 5 AND id % 10 = 3;
EXPLAIN (COSTS OFF) EXECUTE within ('[1]');
-- a number of workers that somebody has set stays
ALTER TABLE big SET (parallel_workers = 0);
EXPLAIN (COSTS OFF) EXECUTE near_big ('[1]');
ALTER TABLE big RESET (parallel_workers);

-- The price per row, in units of cpu_operator_cost, as src/planner/README has it:
-- 4 + bytes / 64, times 4 for sparse elements, and 100 + 16 per chunk where toasted.
SET max_parallel_workers_per_gather = 0;
CREATE FUNCTION price(distance text, source text, beside text DEFAULT '1') RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	plan json;
	base json;
BEGIN
	EXECUTE format('EXPLAIN (FORMAT json) SELECT %s FROM %s', distance, source) INTO plan;
	EXECUTE format('EXPLAIN (FORMAT json) SELECT %s FROM %s', beside, source) INTO base;
	RETURN round(((plan -> 0 -> 'Plan' ->> 'Total Cost')::numeric - (base -> 0 -> 'Plan' ->> 'Total Cost')::numeric)
		/ (base -> 0 -> 'Plan' ->> 'Plan Rows')::numeric / current_setting('cpu_operator_cost')::numeric, 1);
END
$$;

CREATE TABLE inrow (small vector(16), free vector, half halfvec(384), sparse sparsevec(100000), bits bit(1024));
INSERT INTO inrow SELECT array_fill(1, ARRAY[16])::vector, array_fill(1, ARRAY[62])::vector, array_fill(1, ARRAY[384])::halfvec,
	'{1:1,20:1,300:1,4000:1}/100000', repeat('1', 1024)::bit(1024) FROM generate_series(1, 1000);
CREATE TABLE plain (v vector(768));
ALTER TABLE plain ALTER v SET STORAGE plain;
INSERT INTO plain SELECT array_fill(1, ARRAY[768])::vector FROM generate_series(1, 100);
CREATE TABLE outside (v vector(1536), loose vector);
INSERT INTO outside SELECT array_fill(1, ARRAY[1536])::vector, array_fill(1, ARRAY[1536])::vector FROM generate_series(1, 1000);

-- without statistics the size decides
SELECT price('v <-> v', 'outside') AS outside, 4 + 6152 / 64.0 + 100 + 16 * 4 AS expected;
SELECT price('v <-> v', 'plain') AS plain, 4 + 3080 / 64.0 AS expected;
SELECT price('half <-> half', 'inrow') AS half, 4 + 776 / 64.0 AS expected;
VACUUM ANALYZE inrow;
VACUUM ANALYZE plain;
VACUUM ANALYZE outside;
SELECT price('small <=> small', 'inrow') AS small, 4 + 72 / 64.0 AS expected;
SELECT price('l2_distance(half, half)', 'inrow') AS half, 4 + 776 / 64.0 AS expected;
-- 62 dimensions: 256 bytes, known from the statistics only
SELECT price('free <+> free', 'inrow') AS free, 4 + 256 / 64.0 AS expected;
-- four elements of eight bytes and a header of 13 in the row
SELECT price('sparse <-> sparse', 'inrow') AS sparse, 4 + 45 / 64.0 * 4 AS expected;
SELECT price('bits <~> bits', 'inrow') AS bits, 4 + 136 / 64.0 AS expected;
SELECT price('v <-> v', 'plain') AS plain, 4 + 3080 / 64.0 AS expected;
SELECT price('v <#> v', 'outside') AS outside, 4 + 6152 / 64.0 + 100 + 16 * 4 AS expected;
-- dimensions unknown: 768 are assumed, unless the other side tells
SELECT price('loose <-> loose', 'outside') AS loose, 4 + 3080 / 64.0 + 100 + 16 * 2 AS expected;
SELECT price('loose <-> v', 'outside') AS by_other, 4 + 6152 / 64.0 + 100 + 16 * 4 AS expected;
-- results of expressions are in memory; two functions of the usual price come on top
SELECT price('(loose + loose)::vector(1536) <-> (SELECT NULL::vector)', 'outside') AS expression, 4 + 6152 / 64.0 + 2 AS expected;
-- a column that a sub-select passes on; reading that column has a price of its own from 16 on
SELECT price('v <-> v', '(SELECT v FROM outside OFFSET 0) AS s', 'v IS NULL') AS subselect, 4 + 6152 / 64.0 + 100 + 16 * 4 AS expected;

DROP TABLE big, small, inrow, plain, outside;
DROP FUNCTION price;
