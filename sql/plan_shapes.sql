-- With nothing set: which of the four plans of README.md's Filters is taken, one case for each, by index and by filter.

SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET jit = off;
SELECT setseed(0.5);

CREATE TABLE shapes (id int, rare int, middle int, most int, v vector(520));
ALTER TABLE shapes ALTER v SET STORAGE EXTERNAL;
-- sums of six waves
INSERT INTO shapes SELECT i, i % 500, i % 6, i % 20, (SELECT array_agg(a[1] * sin(j) + a[2] * cos(j) + a[3] * sin(j * 0.1) + a[4] * cos(j * 0.2)
		+ a[5] * sin(j * 0.3) + a[6] * cos(j * 0.4) ORDER BY j) FROM generate_series(1, 520) j)::real[]::vector
	FROM (SELECT i, array_agg(random()) AS a FROM generate_series(1, 5000) i, generate_series(1, 6) GROUP BY i ORDER BY i) r;
CREATE INDEX shapes_rare ON shapes (rare);
CREATE INDEX shapes_middle ON shapes (middle);
CREATE TABLE shapes_small AS SELECT * FROM shapes WHERE id <= 13;
VACUUM ANALYZE shapes;
VACUUM ANALYZE shapes_small;

-- The kinds of nodes below LIMIT
CREATE FUNCTION shape(condition text, tab text DEFAULT 'shapes', OUT plan text) LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF) SELECT id FROM %s WHERE %s ORDER BY v <-> %L LIMIT 10', tab, condition, array_fill(0.5, ARRAY[520])::vector) LOOP
		IF line ~ '^ *(-> )? *(Sort$|Custom Scan|Index Scan|Bitmap Heap Scan|Bitmap Index Scan|Seq Scan)' THEN
			plan := concat_ws(', ', plan, substring(line FROM '(Sort|AnnScan|Index Scan using shapes_(?:small_)?v|Bitmap Heap Scan|Bitmap Index Scan|Index Scan|Seq Scan)'));
		ELSIF line ~ '^ *(Filter:|Bitmap: if the search)' THEN
			plan := plan || ' with a filter';
		END IF;
	END LOOP;
	-- a bitmap may be made at once, or if the search of all rows fails; ten rows are fetched with or without one
	plan := replace(plan, 'AnnScan with a filter, Bitmap Index Scan', 'AnnScan, Bitmap Index Scan');
	plan := regexp_replace(plan, '^Sort, (Bitmap Heap Scan, Bitmap Index Scan|Index Scan)', 'Sort, rows by an index');
END $$;
CREATE TABLE shape_cases (n int GENERATED ALWAYS AS IDENTITY, condition text, tab text DEFAULT 'shapes', wanted text);
INSERT INTO shape_cases (condition, tab, wanted) VALUES
	('most < 19', 'shapes_small', 'read the table, sort'),
	('rare = 7', 'shapes', 'find the rows by the conditions'' indexes, sort'),
	('middle = 1 AND rare = 7', 'shapes', 'find the rows by the conditions'' indexes, sort'),
	('middle = 1', 'shapes', 'search within the rows of the conditions'' indexes'),
	('most < 19', 'shapes', 'search, drop what does not match'),
	('most <> 4', 'shapes', 'search, drop what does not match'),
	('true', 'shapes', 'search');
CREATE INDEX shapes_v ON shapes USING hnsw (v vector_l2_ops);
CREATE INDEX shapes_small_v ON shapes_small USING hnsw (v vector_l2_ops);
SELECT condition, tab, wanted, shape(condition, tab) FROM shape_cases ORDER BY n;
DROP INDEX shapes_v, shapes_small_v;
CREATE INDEX shapes_v ON shapes USING ivfflat (v vector_l2_ops);
CREATE INDEX shapes_small_v ON shapes_small USING ivfflat (v vector_l2_ops);
-- and of the other access method
SELECT condition, tab, wanted, shape(condition, tab) FROM shape_cases ORDER BY n;

-- An operator class that is not whole is found out.
CREATE OPERATOR CLASS shape_no_function FOR TYPE vector USING hnsw AS OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops;
CREATE OPERATOR CLASS shape_wrong_function FOR TYPE vector USING hnsw AS OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops, FUNCTION 1 vector_norm(vector);
CREATE OPERATOR CLASS shape_no_operator FOR TYPE vector USING ivfflat AS FUNCTION 1 vector_l2_squared_distance(vector, vector);
CREATE OPERATOR CLASS shape_wrong_operator FOR TYPE vector USING ivfflat AS OPERATOR 1 = (vector, vector), FUNCTION 1 vector_l2_squared_distance(vector, vector);
SET client_min_messages = info;
SELECT opcname, amvalidate(oid) FROM pg_opclass WHERE opcname ~ '^shape_' ORDER BY 1;
SET client_min_messages = warning;
DROP OPERATOR FAMILY shape_no_function USING hnsw;
DROP OPERATOR FAMILY shape_wrong_function USING hnsw;
DROP OPERATOR FAMILY shape_no_operator USING ivfflat;
DROP OPERATOR FAMILY shape_wrong_operator USING ivfflat;

DROP TABLE shapes, shapes_small, shape_cases;
DROP FUNCTION shape;
