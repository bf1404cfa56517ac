-- For the tests of the access method :am, with its name in front of theirs: tables _rows and _query, functions _recall and _try.
SET test.am = :am;
\set rows :am _rows
\set query :am _query
\set recall :am _recall
\set try :am _try

-- 1,500 rows around 30 centres; each in every type
CREATE TABLE centre AS
	SELECT c, array_agg(random() * 2 - 1 ORDER BY d)::real[] AS a
	FROM generate_series(1, 30) c, generate_series(1, 40) d GROUP BY c;
CREATE TABLE :rows (id int PRIMARY KEY, v vector(40), h halfvec(40), s sparsevec(40), b bit(40));
INSERT INTO :rows
	SELECT id, v, v::halfvec, (SELECT array_agg(CASE WHEN abs(x) < 0.7 THEN 0 ELSE x END)::real[]::vector FROM unnest(v::real[]) x)::sparsevec,
		binary_quantize(v)::bit(40)
	FROM (SELECT i AS id, (SELECT array_agg(x + 0.6 * (random() - 0.5) ORDER BY n)
			FROM unnest(a) WITH ORDINALITY AS u(x, n))::real[]::vector(40) AS v
		FROM generate_series(1, 1500) i JOIN centre ON c = i % 30 + 1) g;
CREATE TABLE :query AS SELECT id, v, h, s, b FROM :rows WHERE id % 75 = 0;

-- Share of the ten nearest that the index finds, over 20 queries; ties count by distance.
CREATE FUNCTION :recall(col text, op text, OUT recall numeric, OUT sorted boolean, OUT plan boolean) LANGUAGE plpgsql AS $$
DECLARE
	rows text := current_setting('test.am') || '_rows';
	query text := current_setting('test.am') || '_query';
	nearest text;
	q text;
	exact float8[];
	found float8[];
	hits int := 0;
	line text;
BEGIN
	sorted := true;
	plan := true;
	FOR q IN EXECUTE format('SELECT %I::text FROM %I', col, query) LOOP
		nearest := format('SELECT array_agg(d) FROM (SELECT %1$I %2$s %3$L AS d FROM %4$I ORDER BY %1$I %2$s %3$L LIMIT 10) t', col, op, q, rows);
		SET LOCAL enable_indexscan = off;
		SET LOCAL enable_seqscan = on;
		EXECUTE nearest INTO exact;
		SET LOCAL enable_indexscan = on;
		SET LOCAL enable_seqscan = off;
		EXECUTE nearest INTO found;
		hits := hits + (SELECT count(*) FROM unnest(found) d WHERE d <= exact[10] + 1e-6);
		sorted := sorted AND found = (SELECT array_agg(d ORDER BY d) FROM unnest(found) d);
	END LOOP;
	FOR line IN EXECUTE format('EXPLAIN (COSTS OFF) SELECT id FROM %3$I ORDER BY %1$I %2$s (SELECT %1$I FROM %4$I LIMIT 1) LIMIT 10', col, op, rows, query) LOOP
		plan := plan AND line NOT LIKE '%Sort%';
	END LOOP;
	recall := round(hits / 200.0, 2);
END $$;

CREATE FUNCTION :try(opclass text, col text, op text, options text DEFAULT '') RETURNS TABLE (what text, good boolean, sorted boolean, plan boolean)
LANGUAGE plpgsql AS $$
DECLARE
	am text := current_setting('test.am');
BEGIN
	EXECUTE format('CREATE INDEX try_idx ON %I USING %I (%I %s) %s', am || '_rows', am, col, opclass, options);
	what := opclass || ' ' || options;
	EXECUTE format('SELECT r.recall >= 0.97, r.sorted, r.plan FROM %I($1, $2) r', am || '_recall') INTO good, sorted, plan USING col, op;
	DROP INDEX try_idx;
	RETURN NEXT;
END $$;
