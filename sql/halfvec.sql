-- text input and output; numbers are rounded to nearest even
SELECT '[1,2,3]'::halfvec;
SELECT ' [ 1 , -2.5 , 3e2 , .5 , 5. , +1, 0x1p3, -0 ] '::halfvec;
SELECT '[65504,65519.99,6e-8,1e-9,0.1,2049,2051]'::halfvec;
SELECT '[1,2,3]'::halfvec(3);

-- every finite half survives a round trip through text and through binary form
CREATE TEMP TABLE halves AS
SELECT i, CASE WHEN i & 32768 = 0 THEN 1 ELSE -1 END *
	CASE WHEN (i >> 10) & 31 = 0 THEN (i & 1023) * 2::float8 ^ -24
		ELSE (1024 + (i & 1023)) * 2::float8 ^ (((i >> 10) & 31) - 25) END AS value
FROM generate_series(0, 65535) i
WHERE (i >> 10) & 31 < 31;
SELECT count(*),
	count(*) FILTER (WHERE (halfvec(array_to_halfvec(ARRAY[value]::float8[], -1, false), -1, false)::float8[])[1] = value) AS cast_ok,
	count(*) FILTER (WHERE (('[' || value || ']')::halfvec::float8[])[1] = value) AS text_ok,
	count(*) FILTER (WHERE substr(halfvec_send(('[' || value || ']')::halfvec), 5) = decode(lpad(to_hex(i), 4, '0'), 'hex')) AS send_ok
FROM halves;

-- halfway between two halves: the even one
SELECT count(*) FROM (
	SELECT i, value, lead(value) OVER (ORDER BY i) AS next FROM halves WHERE i < 31744) h
WHERE next IS NOT NULL
	AND (('[' || (value + next) / 2 || ']')::halfvec::float8[])[1] <> CASE WHEN i & 1 = 0 THEN value ELSE next END;

-- distances
SELECT l2_distance('[0,0]'::halfvec, '[3,4]'), '[0,0]'::halfvec <-> '[3,4]';
SELECT halfvec_l2_squared_distance('[0,0]', '[3,4]');
SELECT inner_product('[1,2]'::halfvec, '[3,4]'), '[1,2]'::halfvec <#> '[3,4]';
SELECT round((cosine_distance('[1,2]'::halfvec, '[2,4]'))::numeric, 6), '[1,1]'::halfvec <=> '[-1,-1]';
SELECT l1_distance('[0,0]'::halfvec, '[3,-4]'), '[0,0]'::halfvec <+> '[3,-4]';
SELECT halfvec_spherical_distance('[1,0]', '[0,1]'), halfvec_spherical_distance('[1,1]', '[1,1]');
SELECT '[0,0]'::halfvec <=> '[0,0]', '[0,0]'::halfvec <=> '[1,0]';

-- sums exceed the largest half
SELECT '[65504,65504]'::halfvec <#> '[65504,65504]', '[65504]'::halfvec <-> '[-65504]';

-- against the same sums in double precision, for lengths around the kernels' steps
CREATE TEMP TABLE pairs AS
SELECT n, array_agg(sin(i * n)::real ORDER BY i)::halfvec AS a, array_agg(cos(i * 3)::real ORDER BY i)::halfvec AS b
FROM unnest(ARRAY[1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 511, 513, 1025, 16000]) n, generate_series(1, n) i
GROUP BY n;
CREATE TEMP TABLE sums AS
SELECT n, a, b, s.*
FROM pairs, LATERAL (
	SELECT sum((x - y) ^ 2) AS l2, sum(x * y) AS ip, sum(abs(x - y)) AS l1, sum(x * x) AS aa, sum(y * y) AS bb
	FROM unnest(a::float8[], b::float8[]) u(x, y)) s;
SELECT count(*),
	bool_and(abs((a <-> b) - sqrt(l2)) < 1e-5 * sqrt(n)) AS l2,
	bool_and(abs(halfvec_l2_squared_distance(a, b) - l2) < 1e-5 * n) AS l2_squared,
	bool_and(abs(inner_product(a, b) - ip) < 1e-5 * n) AS ip,
	bool_and(abs((a <#> b) + ip) < 1e-5 * n) AS negative_ip,
	bool_and(abs((a <=> b) - (1 - ip / sqrt(aa * bb))) < 1e-5) AS cosine,
	bool_and(abs((a <+> b) - l1) < 1e-5 * n) AS l1,
	bool_and(abs(l2_norm(a) - sqrt(aa)) < 1e-10 * n) AS norm
FROM sums;

-- dimensions and norms
SELECT vector_dims('[1,2,3]'::halfvec), l2_norm('[3,4]'::halfvec);
SELECT l2_normalize('[3,4]'::halfvec)::vector, l2_normalize('[0,0]'::halfvec), l2_normalize('[60000,0]'::halfvec), l2_normalize('[6e-8]'::halfvec);

-- parts
SELECT subvector('[1,2,3,4,5]'::halfvec, 1, 3), subvector('[1,2,3,4,5]'::halfvec, -1, 3), subvector('[1,2,3,4,5]'::halfvec, 3, 2147483647);
SELECT subvector('[1,2,3,4,5]'::halfvec, 6, 1);
SELECT '[1,2]'::halfvec || '[3]';
SELECT binary_quantize('[1,0,-1,6e-8,-0,2,3,-4,5]'::halfvec);

-- arithmetic rounds like the sum, difference and product of the numbers
SELECT '[1,2,3]'::halfvec + '[4,5,6]', '[1,2,3]'::halfvec - '[4,5,7]', '[1,2,3]'::halfvec * '[4,5,6]';
SELECT count(*),
	bool_and(a + b = (SELECT array_agg(x + y ORDER BY i)::halfvec FROM unnest(a::real[], b::real[]) WITH ORDINALITY u(x, y, i))) AS add,
	bool_and(a - b = (SELECT array_agg(x - y ORDER BY i)::halfvec FROM unnest(a::real[], b::real[]) WITH ORDINALITY u(x, y, i))) AS sub,
	bool_and(a * b = (SELECT array_agg(x * y ORDER BY i)::halfvec FROM unnest(a::real[], b::real[]) WITH ORDINALITY u(x, y, i))) AS mul
FROM pairs;
