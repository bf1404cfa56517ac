SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::vector), ('[3,5,7]'), (NULL)) t(v);
SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::halfvec), ('[3,5,7]'), (NULL)) t(v);
SELECT avg(v), sum(v), count(v) FROM (VALUES ('[1,2,3]'::vector), (NULL)) t(v) WHERE v IS NULL;
SELECT avg(v), sum(v) FROM (SELECT '[1]'::halfvec AS v WHERE false) t;
SELECT avg(v) FROM (VALUES ('[1,2]'::vector), ('[1]')) t(v);
SELECT sum(v) FROM (VALUES ('[1]'::halfvec), ('[1,2]')) t(v);

-- sums are double precision: what overflows on the way does not matter, the end does
SELECT avg(v) FROM (VALUES ('[3e38,2]'::vector), ('[3e38,1]')) t(v);
SELECT sum(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]'), ('[-3e38]')) t(v);
SELECT sum(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]')) t(v);
SELECT avg(v) FROM (VALUES ('[65504]'::halfvec), ('[65504]')) t(v);
SELECT sum(v) FROM (VALUES ('[65504]'::halfvec), ('[65504]')) t(v);
SELECT sum(v) FROM (SELECT '[16777216]'::vector AS v UNION ALL SELECT '[1]' FROM generate_series(1, 1000)) t;

-- against sums of the elements, by group, in a window, in parallel, hashed and sorted
CREATE TABLE many AS
SELECT i, i % 3 AS g, (SELECT array_agg(sin(i * j)::real ORDER BY j) FROM generate_series(1, 600) j)::vector(600) AS v FROM generate_series(1, 400) i;
ALTER TABLE many ADD h halfvec(600);
UPDATE many SET h = v;
CREATE TEMP TABLE expected AS
SELECT g, array_agg(a ORDER BY n)::vector AS avg_v, array_agg(s ORDER BY n)::vector AS sum_v, array_agg(ah ORDER BY n)::halfvec AS avg_h, array_agg(sh ORDER BY n)::halfvec AS sum_h
FROM (SELECT g, n, avg(x::float8) AS a, sum(x::float8) AS s, avg(y::float8) AS ah, sum(y::float8) AS sh
	FROM many, unnest(v::real[], h::real[]) WITH ORDINALITY u(x, y, n) GROUP BY g, n) s
GROUP BY g;
CREATE TEMP VIEW differences AS
SELECT g, (avg(v) <-> (SELECT avg_v FROM expected e WHERE e.g = m.g)) < 1e-6 AS avg_v,
	(sum(v) <-> (SELECT sum_v FROM expected e WHERE e.g = m.g)) < 1e-4 AS sum_v,
	(avg(h) <-> (SELECT avg_h FROM expected e WHERE e.g = m.g)) < 1e-3 AS avg_h,
	(sum(h) <-> (SELECT sum_h FROM expected e WHERE e.g = m.g)) < 1e-1 AS sum_h
FROM many m GROUP BY g ORDER BY g;
SET max_parallel_workers_per_gather = 0;
SET enable_hashagg = off;
SELECT * FROM differences;
RESET enable_hashagg;
SET enable_sort = off;
SELECT * FROM differences;
RESET enable_sort;
SELECT i, avg(v) OVER w = v AS first FROM many WINDOW w AS (ORDER BY i) ORDER BY i LIMIT 2;
SELECT bool_and(avg_v = running) FROM (
	SELECT i, avg(v) OVER (PARTITION BY g ORDER BY i) AS running, last_value(i) OVER (PARTITION BY g) AS last, g FROM many) s
	JOIN (SELECT g, avg(v) AS avg_v FROM many GROUP BY g) e USING (g) WHERE i = last;
CREATE TEMP TABLE serial AS SELECT avg(v) AS avg_v, sum(v) AS sum_v, avg(h) AS avg_h, sum(h) AS sum_h FROM many;

SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS off) SELECT avg(v) FROM many;
SELECT avg(v) <-> avg_v < 1e-6 AS avg_v, sum(v) <-> sum_v < 1e-4 AS sum_v, avg(h) <-> avg_h < 1e-3 AS avg_h, sum(h) <-> sum_h < 1e-1 AS sum_h
FROM many, serial GROUP BY avg_v, sum_v, avg_h, sum_h;
SELECT avg(v), sum(h) FROM many WHERE i < 0;
SELECT round(vector_norm(avg(v) - (SELECT v FROM many WHERE i = 7))::numeric, 6) FROM many WHERE i = 7;
RESET ALL;
DROP VIEW differences;
DROP TABLE many;

-- the functions behind: the argument stays as it is outside an aggregate
SELECT s, vector_accum(s, '[1,2]'), vector_combine(s, '{1,5,6}'), s AS unchanged FROM (VALUES ('{2,3,4}'::float8[]), ('{0}')) t(s);
SELECT halfvec_accum('{0}', '[1,2]'), halfvec_combine('{1,2,3}', '{0}'), vector_avg('{0}'), vector_avg('{2,4,6}'), halfvec_sum('{2,4,6}'), vector_sum('{0}');
