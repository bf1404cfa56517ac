-- What searching an index costs: how the costs move and the plans that follow, not the figures.

SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SELECT setseed(0.25);
SET hnsw.ef_search = 40;
SET ivfflat.probes = 10;

CREATE TABLE priced (id int, cat int, v vector(16));
INSERT INTO priced SELECT i, i % 50, array_agg(random() ORDER BY d)::real[]::vector
	FROM generate_series(1, 10000) i, generate_series(1, 16) d GROUP BY i;
VACUUM ANALYZE priced;
CREATE TABLE priced_codes AS SELECT id, cat, v FROM priced;
VACUUM ANALYZE priced_codes;
CREATE INDEX priced_hnsw ON priced USING hnsw (v vector_l2_ops) WITH (ef_construction = 20);
CREATE INDEX priced_ivfflat ON priced_codes USING ivfflat (v vector_l2_ops) WITH (lists = 100);

-- The kind of scan, and the cost, of a query's plan.
CREATE FUNCTION plan_of(query text, OUT scan text, OUT cost float8) LANGUAGE plpgsql AS $$
DECLARE
	plan json;
	child json;
BEGIN
	EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
	plan := plan -> 0 -> 'Plan';
	cost := plan ->> 'Total Cost';
	LOOP
		scan := plan ->> 'Node Type';
		SELECT c INTO child FROM json_array_elements(plan -> 'Plans') c WHERE c ->> 'Parent Relationship' = 'Outer';
		EXIT WHEN scan = 'Sort' OR child IS NULL;
		plan := child;
	END LOOP;
	scan := CASE scan WHEN 'Sort' THEN 'sort' WHEN 'Index Scan' THEN 'search' WHEN 'Custom Scan' THEN 'search' ELSE scan END;
END
$$;
CREATE FUNCTION nearest(k int, source text DEFAULT 'priced', filter text DEFAULT 'true') RETURNS text LANGUAGE sql AS
	$$ SELECT format('SELECT id FROM %s WHERE %s ORDER BY v <-> %L::vector', source, filter, array_fill(0.5::real, ARRAY[16])::vector) ||
		CASE WHEN k IS NULL THEN '' ELSE format(' LIMIT %s', k) END $$;
-- The cost with a setting.
CREATE FUNCTION cost_with(setting text, value text, query text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	before text := current_setting(setting);
	result float8;
BEGIN
	PERFORM set_config(setting, value, false);
	result := (plan_of(query)).cost;
	PERFORM set_config(setting, before, false);
	RETURN result;
END
$$;

-- a search for few rows, a sort for many and for all
SELECT source, k, (plan_of(nearest(k, source))).scan
	FROM unnest(ARRAY['priced', 'priced_codes']) source, unnest(ARRAY[1, 10, 7000, 10000, NULL]) k ORDER BY source, k;
-- a limit that is not known is taken for a tenth of the rows
SELECT (plan_of(nearest(NULL, 'priced') || ' LIMIT (SELECT 3)')).scan;
-- without an order there is nothing to search for
SET enable_seqscan = off;
SELECT (plan_of('SELECT id FROM priced')).scan, (plan_of('SELECT count(*) FROM priced_codes')).scan;

-- more rows cost more
SELECT source, bool_and(cost > before) AS rises FROM
	(SELECT source, cost, lag(cost) OVER (PARTITION BY source ORDER BY k) AS before
	FROM unnest(ARRAY['priced', 'priced_codes']) source,
		unnest(ARRAY[1, 2, 5, 10, 20, 40, 50, 60, 80, 100, 200, 400, 800, 1600, 3200, 6400, 10000]) k,
		plan_of(nearest(k, source))) x GROUP BY source ORDER BY source;
-- so does a wider beam, for any number of rows
SELECT k, bool_and(cost >= before) AND max(cost) > 2 * min(cost) AS rises FROM
	(SELECT k, cost, lag(cost) OVER (PARTITION BY k ORDER BY ef) AS before
	FROM unnest(ARRAY[1, 10, 100, 500]) k, unnest(ARRAY[10, 20, 40, 80, 160, 320, 640, 1280, 2560]) ef,
		cost_with('hnsw.ef_search', ef::text, nearest(k)) cost) x GROUP BY k ORDER BY k;
-- and more lists, as long as the rows are not what decides
SELECT bool_and(cost > before) AS rises FROM
	(SELECT cost, lag(cost) OVER (ORDER BY probes) AS before
	FROM unnest(ARRAY[1, 2, 3, 5, 10, 20, 50, 100]) probes,
		cost_with('ivfflat.probes', probes::text, nearest(10, 'priced_codes')) cost) x;
-- a filter makes a search go further for the same rows
SELECT bool_and((plan_of(nearest(10, source, 'cat = 7'))).cost > (plan_of(nearest(10, source))).cost) AS costs_more
	FROM unnest(ARRAY['priced', 'priced_codes']) source;
-- what the cache cannot hold has to be read
SELECT bool_and(cost_with('effective_cache_size', '1MB', nearest(10, source)) >
		cost_with('effective_cache_size', '1GB', nearest(10, source))) AS costs_more
	FROM unnest(ARRAY['priced', 'priced_codes']) source;

DROP TABLE priced, priced_codes;
DROP FUNCTION plan_of, nearest, cost_with;
