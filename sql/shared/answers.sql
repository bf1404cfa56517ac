-- Whether the answers of a query are those without any index scan, how many they are, what its plan says of a bitmap that may
-- be made late, and why its searches ended.
CREATE FUNCTION answers_of(query text, OUT correct boolean, OUT answers int, OUT plan text, OUT stopped text) LANGUAGE plpgsql AS $$
DECLARE
	exact text;
	found text;
	line text;
BEGIN
	SET LOCAL enable_indexscan = off;
	EXECUTE format('SELECT string_agg(s::text, '' '') FROM (%s) s', query) INTO exact;
	SET LOCAL enable_indexscan = on;
	SET LOCAL enable_sort = off;
	EXECUTE format('SELECT string_agg(s::text, '' ''), count(*) FROM (%s) s', query) INTO found, answers;
	correct := exact IS NOT DISTINCT FROM found;
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
		IF line ~ 'Bitmap: ' THEN
			plan := concat_ws(', ', plan, 'late bitmap');
		ELSIF line ~ 'Bitmap Index Scan.*never executed' THEN
			plan := concat_ws(', ', plan, 'not made');
		ELSIF line ~ 'Stopped:' THEN
			stopped := concat_ws(', ', stopped, substring(line FROM 'Stopped: (.*)'));
		END IF;
	END LOOP;
	SET LOCAL enable_sort = on;
END
$$;
