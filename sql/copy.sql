-- Binary COPY keeps every bit, and the bytes are those of pgvector 0.8.
CREATE TEMP TABLE t (v vector, h halfvec, s sparsevec);
INSERT INTO t VALUES ('[1,-2.5]', '[1,-2.5]', '{2:1,5:-2.5}/5'), ('[-0,1e-45]', '[-0,6e-8]', '{}/1000000000'), (NULL, NULL, NULL);
SELECT vector_send(v), halfvec_send(h), sparsevec_send(s) FROM t;
INSERT INTO t SELECT a::vector, a::halfvec, a::sparsevec
FROM (SELECT n, array_agg(sin(i * n)::real) AS a FROM unnest(ARRAY[1, 2, 100, 16000]) n, generate_series(1, n) i GROUP BY n) s;
CREATE TEMP TABLE u (LIKE t);
-- The programs run in the data directory, as children of one and the same backend.
COPY t TO PROGRAM 'cat > ann_copy.$PPID' (FORMAT binary);
COPY u FROM PROGRAM 'cat ann_copy.$PPID; rm ann_copy.$PPID' (FORMAT binary);
SELECT count(*), count(*) FILTER (WHERE a = b) AS same
FROM (SELECT n, (SELECT ROW(vector_send(v), halfvec_send(h), sparsevec_send(s)) FROM t OFFSET n LIMIT 1) AS a,
	(SELECT ROW(vector_send(v), halfvec_send(h), sparsevec_send(s)) FROM u OFFSET n LIMIT 1) AS b FROM generate_series(0, 6) n) r;

-- text COPY, which pg_dump uses, keeps every bit as well
TRUNCATE u;
COPY t TO PROGRAM 'cat > ann_copy.$PPID';
COPY u FROM PROGRAM 'cat ann_copy.$PPID; rm ann_copy.$PPID';
SELECT count(*), count(*) FILTER (WHERE a = b) AS same
FROM (SELECT n, (SELECT ROW(vector_send(v), halfvec_send(h), sparsevec_send(s)) FROM t OFFSET n LIMIT 1) AS a,
	(SELECT ROW(vector_send(v), halfvec_send(h), sparsevec_send(s)) FROM u OFFSET n LIMIT 1) AS b FROM generate_series(0, 6) n) r;

-- type modifiers hold for COPY
CREATE TEMP TABLE w (v vector(2), h halfvec(2), s sparsevec(5));
COPY (SELECT '[1,2]'::vector, '[1,2]'::halfvec, '{}/5'::sparsevec) TO PROGRAM 'cat > ann_copy.$PPID' (FORMAT binary);
COPY w FROM PROGRAM 'cat ann_copy.$PPID; rm ann_copy.$PPID' (FORMAT binary);
SELECT * FROM w;
COPY w FROM STDIN;
[1,2]	[1,2]	{}/4
\.
COPY w FROM STDIN;
[1,2,3]	[1,2]	{}/5
\.
