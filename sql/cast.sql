-- from arrays
SELECT '{1,2,3}'::integer[]::vector, '{1.5,2}'::real[]::vector, '{0.1,2}'::double precision[]::vector(2), '{1.25,1e10}'::numeric[]::vector;
SELECT '{1,2,3}'::integer[]::halfvec, '{1.5,2}'::real[]::halfvec, '{0.1,2}'::double precision[]::halfvec(2), '{1.25,1e4}'::numeric[]::halfvec;
SELECT '{1,0,3}'::integer[]::sparsevec, '{1.5,-0}'::real[]::sparsevec, '{0,0.1}'::double precision[]::sparsevec(2), '{0.0,1e10}'::numeric[]::sparsevec;
SELECT '[3:5]={1,2,3}'::integer[]::vector;

-- to arrays
SELECT '[1,2.5,0.1]'::vector::real[], '[1,2.5,3]'::vector::double precision[], '[1,2.5,0.1]'::vector::numeric[], '[1,2.5,3.5,-1.6]'::vector::integer[];
SELECT '[1,2.5,0.1]'::halfvec::real[], '[1,2.5,3]'::halfvec::double precision[], '[1,2.5,3]'::halfvec::numeric[], '[1,2.5,3.5,-1.6]'::halfvec::integer[];
SELECT array_length('[1,2,3]'::vector::real[], 1), (('[1,2,3]'::vector)::real[])[2], array_lower('[1,2,3]'::vector::real[], 1);
SELECT sum(x) FROM unnest('[1,2,3]'::vector::real[]) x;

-- between the types
SELECT '[1,0,0.1]'::vector::halfvec, '[1,0,0.1]'::vector::sparsevec, '[1,0,0.1]'::vector::halfvec(3), '[1,-0]'::vector::sparsevec(2);
SELECT '[1,0,0.1]'::halfvec::vector, '[1,0,0.5]'::halfvec::sparsevec, '[1,2]'::halfvec::vector(2);
SELECT '{1:1,3:0.1}/4'::sparsevec::vector, '{1:1,3:0.1}/4'::sparsevec::halfvec, '{}/2'::sparsevec::vector(2), '{1:1e-30}/2'::sparsevec::halfvec;

-- implicit: a vector is taken for a halfvec, a sparsevec and a real[] where those are asked for
SELECT halfvec_add('[1,2]'::vector, '[1,1]'), sparsevec_cmp('[1,0]'::vector, '{1:1}/2'), array_to_string('[1,2]'::vector::real[], ','), sparsevec_eq('[1,0]'::halfvec, '{1:1}/2');

-- assignment
CREATE TEMP TABLE t (v vector(3), h halfvec(3), s sparsevec(3), r real[], d double precision[], j jsonb);
INSERT INTO t (v, h, s) VALUES ('{1,2,3}'::integer[], '{1,2,3}'::numeric[], '{0,2,0}'::real[]);
INSERT INTO t (v, h, s) SELECT h, v, h FROM t;
INSERT INTO t (v, h) SELECT s, s FROM t LIMIT 1;
INSERT INTO t (r, d, j) SELECT v, h, h FROM t LIMIT 1;
INSERT INTO t (v, h, s) VALUES ('[4,5,6]'::jsonb, '[4,5,6]'::jsonb, '[4,0,6]'::jsonb);
SELECT * FROM t;
INSERT INTO t (v) VALUES ('[1,2]');
INSERT INTO t (h) VALUES ('{1,2}'::real[]);
INSERT INTO t (s) VALUES ('[1,2]'::halfvec);

-- nothing is lost on the way through arrays and the other types
SELECT count(*), bool_and(v::real[]::vector = v) AS real, bool_and(v::double precision[]::vector = v) AS double,
	bool_and(v::numeric[]::vector = v) AS numeric, bool_and(v::sparsevec::vector = v) AS sparse, bool_and(v::halfvec::vector::halfvec = v::halfvec) AS half, bool_and(v::jsonb::vector = v) AS jsonb
FROM (SELECT array_agg((sin(i * n) * 10 ^ (i % 5 - 2))::real)::vector AS v FROM generate_series(1, 700) i, generate_series(1, 20) n GROUP BY n) s;

-- values in TOAST, and with headers of one byte
CREATE TEMP TABLE toasted (v vector, h halfvec, s sparsevec, b bit(40000));
INSERT INTO toasted SELECT a, a, a, repeat('10', 20000)::bit(40000) FROM (SELECT array_agg((i % 100)::real ORDER BY i) AS a FROM generate_series(1, 4000) i) x;
INSERT INTO toasted VALUES ('[1]', '[1]', '{1:1}/1', '1'::bit(40000));
SELECT vector_dims(v), vector_dims(h), vector_dims(s), vector_dims(b), vector_norm(v), l2_norm(h), l2_norm(s), v <-> v AS v, h <-> h AS h, s <-> s AS s, b <~> b AS b,
	v::vector(4000) = v AS same FROM toasted WHERE vector_dims(v) = 4000;
SELECT vector_dims(v), vector_dims(h), vector_dims(s), v <-> '[2]' AS v, h <-> '[2]' AS h, s <-> '{1:2}/1' AS s, v::halfvec, h::sparsevec, s::vector FROM toasted WHERE vector_dims(v) = 1;
