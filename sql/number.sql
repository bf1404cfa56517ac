-- Numbers in text are read exactly as the server reads a real.

-- 60,000 decimals of 1 to 40 digits with a point and an exponent anywhere
CREATE TEMP TABLE numbers AS
SELECT CASE WHEN i % 3 = 0 THEN '-' ELSE '' END || left(d, p) || CASE WHEN whole THEN '' ELSE '.' END || substr(d, p + 1) ||
	CASE WHEN i % 7 < 3 THEN '' ELSE 'e' || CASE WHEN e >= 0 AND i % 11 = 0 THEN '+' ELSE '' END || e END AS t
FROM (SELECT i, 1 + i % 40 AS n, i % 5 = 0 AND i % 7 >= 3 AS whole FROM generate_series(1, 60000) i) a,
	LATERAL (SELECT i / 40 % least(n, 20) AS p, left(translate(md5(i::text) || md5('x' || i), 'abcdef', '012345'), n) AS d) b,
	LATERAL (SELECT i % 31 - 15 - CASE WHEN whole THEN n - p ELSE 0 END AS e) c;
SELECT count(*), count(*) FILTER (WHERE (('[' || t || ']')::vector::real[])[1] = t::real) AS same FROM numbers;

-- halfway between two floats, and next to it, with few digits and with many
CREATE TEMP TABLE ties AS
SELECT t
FROM (
	SELECT ((2 ^ 24 + 2 * i + 1)::numeric)::text AS half FROM generate_series(0, 999) i
	UNION ALL
	SELECT (((2 ^ 24 + 2 * i + 1)::numeric) / 2 ^ 20::numeric)::numeric(60, 30)::text FROM generate_series(0, 999) i) s,
	LATERAL (VALUES (half), (rtrim(half, '0')), (half || CASE WHEN half ~ '\.' THEN '' ELSE '.' END || '000000000000000000000000000001'),
		((half::numeric - 1e-30)::text), ((half::numeric * 1e10)::text || 'e-10')) v(t);
SELECT count(*), count(*) FILTER (WHERE (('[' || t || ']')::vector::real[])[1] = t::real) AS same FROM ties;

-- the ends of the range
SELECT '[3.4028235e38,3.40282346638528859811704183484516925440e+38,340282356779733661637539395458142568447]'::vector;
SELECT '[340282356779733661637539395458142568448]'::vector;
SELECT '[1.17549435e-38,1.1754942e-38,1e-45,7.1e-46,7e-46,1e-99999999999]'::vector;
SELECT '[0e999999999999,-0.000e-5,00000000000000000000000000000000000000000000000001.5]'::vector;

-- other forms that strtof knows
SELECT '[0x1.8p1,0X.8,0x10,1.E2,.5e1]'::vector, '{1:0x1.8p1}/2'::sparsevec;
SELECT '[0x1p128]'::vector;

-- what is printed is read back as it was
SELECT count(*), count(*) FILTER (WHERE v::text::vector = v) AS same
FROM (SELECT array_agg(t::real)::vector AS v FROM numbers GROUP BY left(t, 3)) s;
