-- text input and output
SELECT '[1,2,3]'::vector;
SELECT ' [ 1 , -2.5 , 3e2 , .5 , 5. , +1, 0x1p3, -0 ] '::vector;
SELECT '[1e10,1.5e-10,123456789,0.1,1e-50,1e-40,3.4028235e38]'::vector;
SELECT '[1,2,3]'::vector(3);

-- distances
SELECT l2_distance('[0,0]'::vector, '[3,4]'), '[0,0]'::vector <-> '[3,4]';
SELECT vector_l2_squared_distance('[0,0]', '[3,4]');
SELECT inner_product('[1,2]'::vector, '[3,4]'), '[1,2]'::vector <#> '[3,4]';
SELECT round((cosine_distance('[1,2]'::vector, '[2,4]'))::numeric, 6), '[1,1]'::vector <=> '[-1,-1]';
SELECT l1_distance('[0,0]'::vector, '[3,-4]'), '[0,0]'::vector <+> '[3,-4]';
SELECT vector_spherical_distance('[1,0]', '[0,1]'), vector_spherical_distance('[1,1]', '[1,1]');

-- values too large for float4 sums, and zero norms
SELECT '[1e30]'::vector <-> '[-1e30]', '[1e30]'::vector <#> '[1e30]';
SELECT '[0,0]'::vector <=> '[0,0]', '[0,0]'::vector <=> '[1,0]';

-- against the same sums in double precision, for lengths around the kernels' steps
CREATE TEMP TABLE pairs AS
SELECT n, array_agg(sin(i * n)::real ORDER BY i) AS a, array_agg(cos(i * 3)::real ORDER BY i) AS b
FROM unnest(ARRAY[1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 511, 513, 1025, 16000]) n, generate_series(1, n) i
GROUP BY n;
CREATE TEMP TABLE sums AS
SELECT n, a, b, s.*
FROM pairs, LATERAL (
	SELECT sum((x - y) ^ 2) AS l2, sum(x * y) AS ip, sum(abs(x - y)) AS l1, sum(x * x) AS aa, sum(y * y) AS bb
	FROM unnest(a::float8[], b::float8[]) u(x, y)) s;
SELECT count(*),
	bool_and(abs((a::vector <-> b::vector) - sqrt(l2)) < 1e-5 * sqrt(n)) AS l2,
	bool_and(abs(vector_l2_squared_distance(a::vector, b::vector) - l2) < 1e-5 * n) AS l2_squared,
	bool_and(abs(inner_product(a::vector, b::vector) - ip) < 1e-5 * n) AS ip,
	bool_and(abs((a::vector <#> b::vector) + ip) < 1e-5 * n) AS negative_ip,
	bool_and(abs((a::vector <=> b::vector) - (1 - ip / sqrt(aa * bb))) < 1e-5) AS cosine,
	bool_and(abs((a::vector <+> b::vector) - l1) < 1e-5 * n) AS l1,
	bool_and(abs(vector_norm(a::vector) - sqrt(aa)) < 1e-10 * n) AS norm
FROM sums;

-- dimensions and norms
SELECT vector_dims('[1,2,3]'::vector), vector_norm('[3,4]'), l2_norm('[3,4]'::vector);
SELECT vector_norm('[3e38,3e38]') / 3e38;
SELECT l2_normalize('[3,4]'::vector), l2_normalize('[0,0]'::vector), l2_normalize('[3e38,0]'::vector), l2_normalize('[1e-45]'::vector);

-- parts
SELECT subvector('[1,2,3,4,5]'::vector, 1, 3), subvector('[1,2,3,4,5]'::vector, 3, 2), subvector('[1,2,3,4,5]'::vector, 5, 1);
SELECT subvector('[1,2,3,4,5]'::vector, -1, 3), subvector('[1,2,3,4,5]'::vector, 3, 9), subvector('[1,2,3,4,5]'::vector, 3, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, -1, 2);
SELECT subvector('[1,2,3,4,5]'::vector, 6, 1);
SELECT subvector('[1,2,3,4,5]'::vector, 1, 0);
SELECT subvector('[1,2,3,4,5]'::vector, 2147483647, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, -2147483648, -2147483648);
SELECT '[1,2]'::vector || '[3]';
SELECT binary_quantize('[1,0,-1,1e-9,-0,2,3,-4,5]'::vector);

-- arithmetic
SELECT '[1,2,3]'::vector + '[4,5,6]', '[1,2,3]'::vector - '[4,5,7]', '[1,2,3]'::vector * '[4,5,6]';
SELECT '[1e30,0]'::vector * '[1e-30,1e-30]';
SELECT count(*),
	bool_and((a::vector + b::vector)::real[] = (SELECT array_agg(x + y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY u(x, y, i))) AS add,
	bool_and((a::vector - b::vector)::real[] = (SELECT array_agg(x - y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY u(x, y, i))) AS sub,
	bool_and((a::vector * b::vector)::real[] = (SELECT array_agg(x * y ORDER BY i) FROM unnest(a, b) WITH ORDINALITY u(x, y, i))) AS mul
FROM pairs;
