-- AnnScan: ranges of distances, and sort keys that rise or fall with a distance; against exact answers
SET client_min_messages = warning;
SET jit = off;
SET max_parallel_workers_per_gather = 0;

-- 2,000 vectors on a curve, two zero vectors, three NULLs
CREATE TABLE spots (id int PRIMARY KEY, cat int, v vector(6));
INSERT INTO spots SELECT i, i % 10, ARRAY[sin(i * .37), cos(i * .11), sin(i * .05) * 2, cos(i * .73), i % 17 / 9.0, sin(i * 1.3)]::real[]::vector
	FROM generate_series(1, 2000) i;
INSERT INTO spots VALUES (2001, 1, '[0,0,0,0,0,0]'), (2002, 2, '[0,0,0,0,0,0]'), (2003, 3, NULL), (2004, 4, NULL), (2005, 5, NULL);
CREATE INDEX spots_cat ON spots (cat);
ANALYZE spots;

-- The plan's index with its filters, whether rows and their order are those of exact search, and how many there are.
CREATE FUNCTION compare(conditions text, ordering text, k int DEFAULT NULL)
	RETURNS TABLE (plan text, exact boolean, n int) LANGUAGE plpgsql AS $$
DECLARE
	q text := '''[.3,.2,-.5,.1,.9,.4]''';
	tail text := concat(' FROM spots', ' WHERE ' || replace(conditions, '$q', q), ' ORDER BY ' || replace(ordering, '$q', q), ' LIMIT ' || k);
	-- where an order is asked for, equal rows are told apart by it alone
	value text := CASE WHEN ordering IS NULL THEN 'id::text' ELSE 'coalesce((' || regexp_replace(replace(ordering, '$q', q), ' (ASC|DESC|NULLS).*', '') || ')::text, ''NULL'')' END;
	sorted text := CASE WHEN ordering IS NULL THEN 'ORDER BY x' ELSE 'ORDER BY n' END;
	wrapped text := format('SELECT coalesce(array_agg(x %s), ''{}'') FROM (SELECT row_number() OVER () AS n, x FROM (SELECT %s AS x %s) s) t', sorted, value, tail);
	found text[];
	wanted text[];
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) SELECT id' || tail LOOP
		IF line ~ 'AnnScan' THEN plan := 'AnnScan'; END IF;
		IF line ~ '(Range|Recheck Cond): ' THEN plan := concat_ws(', ', plan, substring(line FROM '(Range|Recheck Cond): ')); END IF;
		IF line ~ '^ *Sort' THEN plan := concat_ws(', ', plan, 'sort'); EXIT; END IF;
	END LOOP;
	EXECUTE wrapped INTO found;
	SET LOCAL ann.enable_annscan = off;
	SET LOCAL enable_indexscan = off;
	SET LOCAL enable_seqscan = on;
	SET LOCAL enable_sort = on;
	EXECUTE wrapped INTO wanted;
	SET LOCAL ann.enable_annscan = on;
	SET LOCAL enable_indexscan = on;
	SET LOCAL enable_seqscan = off;
	SET LOCAL enable_sort = off;
	exact := found = wanted;
	n := cardinality(found);
	RETURN NEXT;
END $$;

CREATE TABLE cases (n int GENERATED ALWAYS AS IDENTITY, conditions text, ordering text, k int);
INSERT INTO cases (conditions, ordering, k) VALUES
	-- sort keys
	(NULL, 'l2_distance(v, $q)', 20),
	(NULL, 'l2_distance($q, v)', 20),
	(NULL, '(v <-> $q) * 3 + 1', 20),
	(NULL, '1 - (v <=> $q) DESC', 20),
	(NULL, '1 - (v <=> $q) DESC NULLS LAST', 20),
	(NULL, '- (v <=> $q) DESC', 4),
	(NULL, '(v <#> $q) * -1 DESC NULLS LAST', 20),
	(NULL, '2 - (1 - (v <-> $q)) / 2', 20),
	(NULL, 'v <-> $q NULLS FIRST', 20),
	(NULL, '1 - cosine_distance(v, $q) DESC NULLS LAST', NULL),
	('cat = 3', '1 - (v <=> $q) DESC', 20),
	('cat < 8', '1 - (v <=> $q) DESC', 20),
	-- none of these
	(NULL, 'v <-> $q DESC', 20),
	(NULL, '1 - (v <=> $q)', 20),
	(NULL, '(v <-> $q) * 0', 20),
	(NULL, '1 / (1 + (v <-> $q))', 20),
	-- ranges
	('v <-> $q < 1.5', 'v <-> $q', NULL),
	('v <-> $q < 1.5', 'v <-> $q', 10),
	('v <-> $q <= 0.1', 'v <-> $q', 10),
	('v <-> $q < 1.5', 'v <-> $q DESC', 10),
	('1.5 > v <-> $q', NULL, NULL),
	('v <-> $q < 1.7 AND cat = 3', 'v <-> $q', NULL),
	('v <-> $q < 1.7 AND cat < 8', 'v <-> $q', NULL),
	('v <-> $q < 1.7 AND v <-> $q <= 1.2', NULL, NULL),
	('v <-> $q < 1.7 AND v <-> $q > 1.2', 'v <-> $q', NULL),
	('1 - (v <=> $q) > 0.8', '1 - (v <=> $q) DESC', NULL),
	('1 - (v <=> $q) > 0.8', 'v <=> $q', NULL),
	('1 - (v <=> $q) > 0.8', 'id', 5),
	('v <=> $q < 0.2', 'v <=> $q', NULL),
	('v <#> $q < -1', 'v <#> $q', NULL),
	('v <-> $q < NULL::float8', 'v <-> $q', NULL),
	('v <-> $q < ''NaN''', 'v <-> $q', NULL),
	('v <-> $q < ''Infinity''', 'v <-> $q', 5),
	('v <=> $q <= ''NaN''', 'v <=> $q', 5),
	('v <-> $q < -1', NULL, NULL);

SET enable_seqscan = off;
SET enable_sort = off;
SET hnsw.ef_search = 400;
CREATE INDEX spots_l2 ON spots USING hnsw (v vector_l2_ops);
CREATE INDEX spots_cosine ON spots USING hnsw (v vector_cosine_ops);
CREATE INDEX spots_ip ON spots USING hnsw (v vector_ip_ops);
-- costs decide between AnnScan and a plain index scan where there is little to gain
SELECT c.*, CASE WHEN c.n NOT BETWEEN 28 AND 34 THEN r.plan END AS plan, r.exact, r.n FROM cases c, LATERAL compare(c.conditions, c.ordering, c.k) r ORDER BY c.n;
DROP INDEX spots_l2, spots_cosine, spots_ip;

SET ivfflat.probes = 25;
CREATE INDEX spots_l2 ON spots USING ivfflat (v vector_l2_ops) WITH (lists = 25);
CREATE INDEX spots_cosine ON spots USING ivfflat (v vector_cosine_ops) WITH (lists = 25);
CREATE INDEX spots_ip ON spots USING ivfflat (v vector_ip_ops) WITH (lists = 25);
SELECT n, r.exact FROM cases c, LATERAL (SELECT exact FROM compare(c.conditions, c.ordering, c.k)) r WHERE NOT r.exact ORDER BY c.n;
DROP INDEX spots_l2, spots_cosine, spots_ip;

-- A search in a range ends behind it.
SET hnsw.ef_search = 20;
CREATE INDEX spots_l2 ON spots USING hnsw (v vector_l2_ops);
CREATE FUNCTION stopped(query text) RETURNS TABLE (line text) LANGUAGE plpgsql AS $$
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
		IF line ~ 'AnnScan|Range|Stopped' THEN line := regexp_replace(line, ' \(actual.*|\.00', ''); RETURN NEXT; END IF;
	END LOOP;
END $$;
SELECT * FROM stopped($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1 ORDER BY v <-> '[.3,.2,-.5,.1,.9,.4]'$$);
SELECT * FROM stopped($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1$$);

-- The planner asks the index how many rows there are: within a factor of two.
CREATE FUNCTION estimate(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END $$;
SELECT r, estimate(format('SELECT id FROM spots WHERE v <-> ''[.3,.2,-.5,.1,.9,.4]'' < %s', r)) BETWEEN count(*) / 2 AND count(*) * 2 AS near
	FROM unnest('{0.7,1,1.5,2,4,100}'::float8[]) r, spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < r GROUP BY r ORDER BY r;

-- Partitions' estimates are part of their parents', of both levels: a join multiplies these.
CREATE TABLE parted (LIKE spots) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (1) TO (700);
CREATE TABLE parted_rest PARTITION OF parted FOR VALUES FROM (700) TO (3000) PARTITION BY RANGE (id);
CREATE TABLE parted_middle PARTITION OF parted_rest FOR VALUES FROM (700) TO (1500);
CREATE TABLE parted_high PARTITION OF parted_rest FOR VALUES FROM (1500) TO (3000);
INSERT INTO parted SELECT * FROM spots;
CREATE INDEX ON parted USING hnsw (v vector_l2_ops);
ANALYZE parted;
SELECT r, estimate(format('SELECT id FROM parted, generate_series(1, 10) WHERE v <-> ''[.3,.2,-.5,.1,.9,.4]'' < %s', r))
	BETWEEN 10 * count(*) / 2 AND 10 * count(*) * 2 AS near
	FROM unnest('{1,1.5,2,4,100}'::float8[]) r, spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < r GROUP BY r ORDER BY r;
DROP TABLE parted;

-- prepared, with the query and the bound as parameters, planned once for all
SET plan_cache_mode = force_generic_plan;
PREPARE near(vector, float8) AS SELECT count(*) FROM (SELECT id FROM spots WHERE v <-> $1 < $2 ORDER BY v <-> $1) s;
EXPLAIN (COSTS OFF) EXECUTE near('[.3,.2,-.5,.1,.9,.4]', 1);
EXECUTE near('[.3,.2,-.5,.1,.9,.4]', 1);
EXECUTE near('[.3,.2,-.5,.1,.9,.4]', 1.5);
EXECUTE near('[.3,.2,-.5,.1,.9,.4]', NULL);
EXECUTE near(NULL, 1);
RESET plan_cache_mode;
SET ann.enable_annscan = off;
SET enable_indexscan = off;
EXECUTE near('[.3,.2,-.5,.1,.9,.4]', 1);
EXECUTE near('[.3,.2,-.5,.1,.9,.4]', 1.5);
RESET ann.enable_annscan;
RESET enable_indexscan;

-- an index on a cast, and a join per group
CREATE INDEX spots_half ON spots USING hnsw ((v::halfvec(6)) halfvec_l2_ops);
EXPLAIN (COSTS OFF) SELECT id FROM spots ORDER BY v::halfvec(6) <-> '[.3,.2,-.5,.1,.9,.4]' LIMIT 3;
EXPLAIN (COSTS OFF) SELECT id FROM spots WHERE v::halfvec(6) <-> '[.3,.2,-.5,.1,.9,.4]' < 1;
SELECT g.cat, n.ids FROM (SELECT DISTINCT cat FROM spots WHERE cat < 3) g, LATERAL
	(SELECT array_agg(id) AS ids FROM (SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1.2 AND cat = g.cat ORDER BY v <-> '[.3,.2,-.5,.1,.9,.4]' LIMIT 3) s) n
	ORDER BY 1;
SELECT cat, (array_agg(id ORDER BY v <-> '[.3,.2,-.5,.1,.9,.4]') FILTER (WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1.2))[1:3] AS ids
	FROM spots WHERE cat < 3 GROUP BY cat ORDER BY 1;

-- a column that is computed from another table's, below an outer join
CREATE TABLE labels (a int, b int, c int, d int, label text);
INSERT INTO labels VALUES (1, 2, 3, 4, ' is near');
SELECT * FROM stopped($$SELECT a, s.said FROM labels LEFT JOIN LATERAL
	(SELECT coalesce(id, 0) || label AS said FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1) s ON true$$);
SELECT a, count(s.said), count(*) FILTER (WHERE s.said LIKE '% is near') AS near FROM labels LEFT JOIN LATERAL
	(SELECT coalesce(id, 0) || label AS said FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1) s ON true GROUP BY a;
SELECT count(*) FROM spots WHERE (v <-> '[.3,.2,-.5,.1,.9,.4]')::numeric < 1;

-- no setting that is for ordered scans cuts a range short
SET hnsw.iterative_scan = off;
SET hnsw.ef_search = 5;
SELECT * FROM stopped($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1$$);
SELECT (SELECT count(*) FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 2) >=
	.98 * count(*) AS nearly_all FROM spots WHERE (v <-> '[.3,.2,-.5,.1,.9,.4]')::numeric < 2;
RESET hnsw.iterative_scan;
RESET hnsw.ef_search;

-- Behind row-level security the estimate says nothing of the rows.
CREATE ROLE annscan_range_reader;
GRANT SELECT ON spots TO annscan_range_reader;
ALTER TABLE spots ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON spots USING (cat = 3);
SET ROLE annscan_range_reader;
SELECT estimate($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < .1$$) =
	estimate($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 3$$) AS equal;
RESET ROLE;
SELECT estimate($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < .1$$) =
	estimate($$SELECT id FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 3$$) AS equal;

-- What is changed or deleted is found exactly.
RESET enable_seqscan;
RESET enable_sort;
EXPLAIN (COSTS OFF) DELETE FROM spots WHERE v <-> '[.3,.2,-.5,.1,.9,.4]' < 1;

DROP FUNCTION compare, stopped, estimate;
DROP TABLE spots, cases, labels;
DROP ROLE annscan_range_reader;
