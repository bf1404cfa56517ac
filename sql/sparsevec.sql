-- text input and output; elements are sorted, zeros go
SELECT '{1:1.5,3:2}/5'::sparsevec;
SELECT ' { 3 : 2 , +1 : -1.5e0 , 2 : 0 } / +5 '::sparsevec;
SELECT '{}/5'::sparsevec, '{}/1000000000'::sparsevec, '{1000000000:1}/1000000000'::sparsevec, '{9:0,1:1,1:-0}/5'::sparsevec;
SELECT '{1:1e-40}/5'::sparsevec, '{1:3.4028235e38}/5'::sparsevec, '{1:0x1p3}/5'::sparsevec;
SELECT '{1:1}/5'::sparsevec(5);

-- distances
SELECT l2_distance('{2:3}/5'::sparsevec, '{3:4}/5'), '{2:3}/5'::sparsevec <-> '{3:4}/5';
SELECT sparsevec_l2_squared_distance('{2:3}/5', '{3:4}/5');
SELECT inner_product('{1:1,2:2}/5'::sparsevec, '{1:3,2:4,5:9}/5'), '{1:1,2:2}/5'::sparsevec <#> '{1:3,2:4,5:9}/5';
SELECT round(('{1:1,2:2}/5'::sparsevec <=> '{1:2,2:4}/5')::numeric, 6), cosine_distance('{1:1}/5'::sparsevec, '{2:1}/5');
SELECT l1_distance('{2:3}/5'::sparsevec, '{3:-4}/5'), '{2:3}/5'::sparsevec <+> '{3:-4}/5';
SELECT sparsevec_spherical_distance('{1:1}/5', '{2:1}/5'), sparsevec_spherical_distance('{1:2}/5', '{1:1}/5');
SELECT '{}/5'::sparsevec <=> '{1:1}/5', '{}/5'::sparsevec <-> '{}/5', '{}/5'::sparsevec <#> '{1:1}/5', '{1:1e30}/5'::sparsevec <-> '{}/5';

-- against the same vectors made dense, for all sorts of overlap and ratios of length
CREATE TEMP TABLE vectors AS
SELECT v
FROM (
	SELECT array_agg(CASE WHEN (i * i * 31 + i * k) % step = k % step THEN sin(i * k + step)::real ELSE 0 END ORDER BY i)::sparsevec AS v
	FROM unnest(ARRAY[1, 2, 3, 7, 50, 997]) step, generate_series(1, 3) k, generate_series(1, 3000) i
	GROUP BY step, k
	UNION ALL SELECT '{1:1}/3000'
	UNION ALL SELECT '{3000:-1}/3000'
	UNION ALL SELECT '{1:1,3000:-1}/3000'
	UNION ALL SELECT '{}/3000') s;
SELECT count(*),
	bool_and(abs((a.v <-> b.v) - (a.v::vector <-> b.v::vector)) < 1e-4) AS l2,
	bool_and(abs((a.v <#> b.v) - (a.v::vector <#> b.v::vector)) < 1e-2) AS ip,
	bool_and((a.v <=> b.v) = (a.v::vector <=> b.v::vector) OR abs((a.v <=> b.v) - (a.v::vector <=> b.v::vector)) < 1e-5) AS cosine,
	bool_and(abs((a.v <+> b.v) - (a.v::vector <+> b.v::vector)) < 1e-2) AS l1,
	bool_and(sparsevec_cmp(a.v, b.v) = vector_cmp(a.v::vector, b.v::vector)) AS cmp,
	bool_and((a.v = b.v) = (a.v::text = b.v::text)) AS eq
FROM vectors a, vectors b;
SELECT count(*), bool_and(v::vector::sparsevec = v) AS vector, bool_and(v::text::sparsevec = v) AS text,
	bool_and(abs(l2_norm(v) - l2_norm(v::vector)) < 1e-12) AS norm,
	bool_and(l2_normalize(v) = l2_normalize(v::vector)::sparsevec) AS normalize,
	bool_and(binary_quantize(v) = binary_quantize(v::vector)) AS quantize,
	bool_and(subvector(v, 100, 1200) = subvector(v::vector, 100, 1200)::sparsevec) AS subvector
FROM vectors;

-- dimensions, norms, parts
SELECT vector_dims('{1:1}/1000000000'::sparsevec), l2_norm('{2:3,5:4}/5'::sparsevec);
SELECT l2_normalize('{2:3,5:4}/5'::sparsevec), l2_normalize('{}/5'::sparsevec), l2_normalize('{1:3e38,2:1e-20}/5'::sparsevec);
SELECT subvector('{1:1,3:3,5:5}/5'::sparsevec, 2, 3), subvector('{1:1,3:3,5:5}/5'::sparsevec, -1, 4), subvector('{1:1,3:3,5:5}/5'::sparsevec, 4, 2147483647);
SELECT subvector('{1:1}/5'::sparsevec, 6, 1);
SELECT binary_quantize('{1:1,3:-3,5:5,9:1}/9'::sparsevec);

-- comparison takes the zeros into account
SELECT '{1:-1}/3'::sparsevec < '{}/3' AS t, '{1:1}/3'::sparsevec > '{2:1}/3' AS t, '{}/3'::sparsevec < '{}/4' AS t,
	'{2:-1}/3'::sparsevec < '{1:1}/2' AS t, '{3:-1}/3'::sparsevec > '{}/2' AS t, '{1:1}/3'::sparsevec <> '{1:1}/4' AS t;
