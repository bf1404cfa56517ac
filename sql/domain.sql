-- Indexes on columns of a domain: it says how many dimensions there are.

SET client_min_messages = warning;
SET enable_seqscan = off;
SET jit = off;
SET hnsw.ef_search = 400;
SET ivfflat.probes = 5;

CREATE DOMAIN embedding AS vector(3);
CREATE DOMAIN nonzero_embedding AS embedding CHECK (vector_norm(VALUE) > 0);
CREATE DOMAIN short_embedding AS halfvec(3);
CREATE DOMAIN sparse_embedding AS sparsevec(3);
CREATE DOMAIN flags AS bit(6);
CREATE DOMAIN any_vector AS vector;

CREATE TABLE in_domains (id int, v embedding, n nonzero_embedding, h short_embedding, s sparse_embedding, b flags, a any_vector);
INSERT INTO in_domains SELECT i, v, v, v::halfvec, v::sparsevec, (i % 64)::bit(6), v
	FROM (SELECT i, ARRAY[i, 2 * i % 7, 3]::vector AS v FROM generate_series(1, 300) i) t;

CREATE INDEX by_v_hnsw ON in_domains USING hnsw (v vector_l2_ops);
CREATE INDEX by_v_ivfflat ON in_domains USING ivfflat (v vector_cosine_ops) WITH (lists = 5);
CREATE INDEX by_n ON in_domains USING hnsw (n vector_ip_ops);
CREATE INDEX by_n_ivfflat ON in_domains USING ivfflat (n vector_l2_ops) WITH (lists = 5);
CREATE INDEX by_h ON in_domains USING hnsw (h halfvec_l2_ops);
CREATE INDEX by_s ON in_domains USING hnsw (s sparsevec_l2_ops);
CREATE INDEX by_b ON in_domains USING hnsw (b bit_hamming_ops);
CREATE INDEX by_b_ivfflat ON in_domains USING ivfflat (b bit_hamming_ops) WITH (lists = 5);
CREATE INDEX ON in_domains USING hnsw (a vector_l2_ops);
CREATE INDEX ON in_domains USING ivfflat (a vector_l2_ops);
CREATE INDEX by_a ON in_domains USING hnsw ((a::vector(3)) vector_l2_ops);

INSERT INTO in_domains VALUES (301, '[301,0,3]', '[301,0,3]', '[301,0,3]', '{1:301,3:3}/3', B'101101', '[301,0,3]');
INSERT INTO in_domains (v) VALUES ('[1,2]');
INSERT INTO in_domains (n) VALUES ('[0,0,0]');

EXPLAIN (COSTS off) SELECT id FROM in_domains ORDER BY v <-> '[7,0,3]' LIMIT 3;
EXPLAIN (COSTS off) SELECT id FROM in_domains ORDER BY v <=> '[7,0,3]' LIMIT 3;
EXPLAIN (COSTS off) SELECT id FROM in_domains ORDER BY v <-> '[7,0,3]'::embedding LIMIT 3;
EXPLAIN (COSTS off) SELECT id FROM in_domains WHERE id % 10 = 1 ORDER BY n <-> '[7,0,3]' LIMIT 3;

-- The index finds what the table has.
CREATE FUNCTION nearest_in_domains(expression text) RETURNS float8[] LANGUAGE plpgsql AS $$
DECLARE
	result float8[];
BEGIN
	EXECUTE format('SELECT array_agg(d) FROM (SELECT %1$s AS d FROM in_domains ORDER BY %1$s LIMIT 5) o', expression) INTO result;
	RETURN result;
END
$$;
CREATE TABLE searches (expression text);
INSERT INTO searches VALUES ('v <-> ''[7,0,3]'''), ('v <=> ''[7,0,3]'''), ('n <#> ''[7,0,3]'''), ('n <-> ''[7,0,3]''::embedding'), ('h <-> ''[7,0,3]'''),
	('s <-> ''{1:7,3:3}/3'''), ('b <~> B''010101'''), ('a::vector(3) <-> ''[7,0,3]''');
CREATE TABLE found AS SELECT expression, nearest_in_domains(expression) FROM searches;
SET enable_seqscan = on;
SET enable_indexscan = off;
SELECT expression, nearest_in_domains = nearest_in_domains(expression) AS right FROM found;

SELECT relname, defect FROM pg_class, ann_index_check(oid, true) WHERE relname LIKE 'by\_%';

DROP TABLE in_domains, searches, found;
DROP FUNCTION nearest_in_domains;
DROP DOMAIN nonzero_embedding, embedding, short_embedding, sparse_embedding, flags, any_vector;
