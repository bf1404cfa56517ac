-- vectors are arrays of numbers in JSON
SELECT to_json('[1,-2.5,1e-10]'::vector), to_jsonb('[1,-2.5,1e10]'::vector), to_json('[1,0.5]'::halfvec), to_jsonb('[1,0.5]'::halfvec);
SELECT row_to_json(r), to_jsonb(r) FROM (SELECT 1 AS id, '[1,2]'::vector AS v, '[3,4]'::halfvec AS h, NULL::vector AS n) r;
SELECT json_agg(v), jsonb_agg(v), jsonb_agg(jsonb_build_object('v', v)) FROM (VALUES ('[1,2]'::vector)) r(v);
SELECT '[1,2]'::vector::json, '[1,2]'::vector::jsonb, '[1,0.1]'::halfvec::jsonb;

-- and back
SELECT '[1, -2.5, 1e2, 1e-50]'::jsonb::vector, '[1, 2]'::jsonb::vector(2), '[1,0.1]'::jsonb::halfvec, '[0, 2, 0.0]'::jsonb::sparsevec;
SELECT (j->'embedding')::vector FROM (VALUES ('{"embedding": [1,2,3]}'::jsonb)) t(j);
SELECT v::vector FROM jsonb_to_record('{"v": [1,2]}') r(v jsonb);
SELECT * FROM jsonb_to_recordset('[{"v": "[1,2]"}, {"v": "[3,4]"}]') r(v vector(2));

-- every float survives
SELECT count(*), count(*) FILTER (WHERE v::jsonb::vector = v) AS same, count(*) FILTER (WHERE (to_jsonb(v)->>0)::real = x) AS same_text
FROM (SELECT x, array_to_vector(ARRAY[x], -1, false) AS v FROM (
	SELECT (sin(i) * 10.0 ^ (i % 70 - 35))::real AS x FROM generate_series(1, 1000) i) s) s;
