SELECT hamming_distance('1010', '0110'), B'1010' <~> B'0110', B'' <~> B'';
SELECT jaccard_distance('1110', '0110'), B'1100' <%> B'0110';
SELECT B'0000' <%> B'0000', B'1100' <%> B'0011', B'' <%> B'', B'11' <%> B'11';
SELECT vector_dims(B'10101'), vector_dims(''::varbit), vector_dims(repeat('1', 1000000)::bit(1000000));

-- against counts of characters, for lengths around bytes, words and vectors
CREATE TEMP TABLE pairs AS
SELECT n, string_agg(((i::bigint * i * n) % 7 % 2)::text, '' ORDER BY i) AS a, string_agg(((i * n + i / 3) % 5 % 2)::text, '' ORDER BY i) AS b
FROM unnest(ARRAY[1, 7, 8, 9, 63, 64, 65, 127, 129, 511, 512, 513, 1000, 4096, 4097, 20000]) n, generate_series(1, n) i
GROUP BY n;
SELECT count(*), bool_and((a::varbit <~> b::varbit) = diff) AS hamming,
	bool_and(abs((a::varbit <%> b::varbit) - CASE WHEN common = 0 THEN 1 ELSE 1 - common::float8 / total END) < 1e-12) AS jaccard
FROM pairs, LATERAL (
	SELECT count(*) FILTER (WHERE x <> y) AS diff, count(*) FILTER (WHERE x = '1' AND y = '1') AS common,
		count(*) FILTER (WHERE x = '1' OR y = '1') AS total
	FROM unnest(string_to_array(a, NULL), string_to_array(b, NULL)) u(x, y)) s;

-- lengths must agree
SELECT B'1' <~> B'10';
SELECT B'1' <%> B'10';
