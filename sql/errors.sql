-- Bad input of every kind: message, SQLSTATE and the position of the culprit.
\set SHOW_CONTEXT never

CREATE FUNCTION try(command text) RETURNS TABLE (state text, message text, detail text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	state := 'no error';
	RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN NEXT;
END $$;

-- malformed text
CREATE TEMP TABLE malformed (n serial, type text, input text);
INSERT INTO malformed (type, input)
SELECT type, input
FROM unnest(ARRAY['vector', 'halfvec']) type,
	unnest(ARRAY['', ' ', '1,2]', '[', '[1', '[1,', '[1,2', '[]', '[ ]', '[,1]', '[1,,2]', '[1,]', '[1 2]', '[1;2]', '[1,a]', '[1,2]]', '[1,2] x',
		'[[1]]', '{1,2}', '[1e]', '[1.2.3]', '[--1]', '[+]', '[.]', '[0x]', '[1_000]', '[1,NaN]', '[nan(1)]', '[inf,1]', '[1,-Infinity]',
		'[1,2,1e39]', '[-1e400]', '[1,NULL]']) input;
INSERT INTO malformed (type, input)
SELECT 'halfvec', unnest(ARRAY['[1,65520]', '[-65520]', '[1,1e10,1]']);
INSERT INTO malformed (type, input)
SELECT 'sparsevec', unnest(ARRAY['', '{', '{}', '{}/', '{}/x', '{}/5x', '{}/5 5', '{}/0', '{}/-1', '{}/1000000001', '{}/99999999999999999999', '[1,2]', '1:1}/5',
		'{1}/5', '{1:}/5', '{:1}/5', '{1:1', '{1:1,', '{1:1,}/5', '{1:1 2:2}/5', '{1:1}', '{1:1;2:2}/5', '{a:1}/5', '{1:a}/5', '{1.5:1}/5', '{1:1}}/5',
		'{0:1}/5', '{-1:1}/5', '{6:1}/5', '{1:1,99999999999:1}/5', '{1:1,2:1,1:2}/5', '{1:1,2:nan}/5', '{1:inf}/5', '{2:1e39}/5', '{2:1e-50}/5']);
SELECT type, input, t.* FROM malformed, try(format('SELECT %L::%s', input, type)) t ORDER BY n;
SELECT t.* FROM try($$SELECT '[65519.99,-65519.99]'::halfvec$$) t;

-- From PostgreSQL 16 on these are soft errors, with the same message.
DO $$
DECLARE
	bad record;
	soft text;
BEGIN
	IF current_setting('server_version_num')::integer >= 160000 THEN
		FOR bad IN SELECT m.*, t.* FROM malformed m, try(format('SELECT %L::%s', input, type)) t LOOP
			EXECUTE format('SELECT message FROM pg_input_error_info(%L, %L)', bad.input, bad.type) INTO soft;
			IF soft IS DISTINCT FROM bad.message THEN
				RAISE WARNING 'error for % "%": "%", when soft: "%"', bad.type, bad.input, bad.message, soft;
			END IF;
		END LOOP;
	END IF;
END $$;

-- limits
SELECT t.* FROM generate_series(15999, 16001) n, unnest(ARRAY['vector', 'halfvec']) type,
	try(format('SELECT %L::%s', '[' || repeat('1,', n - 1) || '1]', type)) t;
SELECT t.* FROM unnest(ARRAY['vector', 'halfvec', 'sparsevec']) type, generate_series(16000, 16001) n,
	try(format('SELECT array_fill(1::real, ARRAY[%s])::%s', n, type)) t;
SELECT t.* FROM generate_series(16000, 16001) n, LATERAL (
	SELECT '{' || string_agg(i || ':1', ',' ORDER BY i) || '}/1000000000' AS input FROM generate_series(1, n) i) s,
	try(format('SELECT %L::sparsevec', input)) t;
SELECT t.* FROM unnest(ARRAY['vector', 'halfvec']) type,
	try(format('SELECT %L::sparsevec::%s', '{}/16001', type)) t;
SELECT t.* FROM unnest(ARRAY['vector', 'halfvec']) type, generate_series(8000, 8001) n,
	try(format('SELECT v || v FROM (SELECT array_fill(1::real, ARRAY[%s])::%s AS v) s', n, type)) t;

-- type modifiers
SELECT type, modifier, t.* FROM unnest(ARRAY['vector', 'halfvec', 'sparsevec']) type, unnest(ARRAY['0', '-1', '1,2', '16001', '1000000001', 'a', '3']) modifier,
	try(format('CREATE TEMP TABLE t_%s_%s (v %s(%s))', type, translate(modifier, '-,', ''), type, modifier)) t;
SELECT type, t.* FROM (VALUES ('vector', '[1,2]'), ('halfvec', '[1,2]'), ('sparsevec', '{}/2')) v(type, input),
	try(format('SELECT %L::%s(3)', input, type)) t
UNION ALL
SELECT type, t.* FROM (VALUES ('vector', '[1,2]'), ('halfvec', '[1,2]'), ('sparsevec', '{}/2')) v(type, input),
	try(format('SELECT %L::%s::%s(3)', input, type, type)) t;

-- dimensions that differ
SELECT format(f, type) AS function, type, t.*
FROM unnest(ARRAY['l2_distance', 'inner_product', 'cosine_distance', 'l1_distance', '%s_l2_squared_distance', '%s_negative_inner_product',
		'%s_spherical_distance', '%s_add', '%s_sub', '%s_mul']) f,
	(VALUES ('vector', '[1,2]', '[1,2,3]'), ('halfvec', '[1,2]', '[1,2,3]'), ('sparsevec', '{}/2', '{}/3')) v(type, a, b),
	try(format('SELECT ' || format(f, type) || '(%L::%s, %L::%s)', a, type, b, type)) t
WHERE type <> 'sparsevec' OR f !~ '_(add|sub|mul)$';

-- arithmetic out of range
SELECT expression, t.* FROM unnest(ARRAY[
	$$'[3e38]'::vector + '[3e38]'$$, $$'[-3e38]'::vector - '[3e38]'$$, $$'[1,1e30]'::vector * '[1,1e30]'$$, $$'[1e-30]'::vector * '[-1e-30]'$$,
	$$'[60000]'::halfvec + '[60000]'$$, $$'[-60000]'::halfvec - '[60000]'$$, $$'[300]'::halfvec * '[300]'$$, $$'[1e-4]'::halfvec * '[1e-4]'$$]) expression,
	try('SELECT ' || expression) t;

-- conversions
SELECT expression, t.* FROM unnest(ARRAY[
	$$'{}'::integer[]::vector$$, $$'{1,NULL}'::integer[]::vector$$, $$'{{1},{2}}'::integer[]::vector$$,
	$$'{1,NaN}'::real[]::vector$$, $$'{1,-Infinity}'::double precision[]::vector$$, $$'{1,1e39}'::double precision[]::vector$$,
	$$'{NaN}'::numeric[]::vector$$, $$'{1,2}'::real[]::vector(3)$$,
	$$'{}'::real[]::halfvec$$, $$'{1,NULL}'::real[]::halfvec$$, $$'{1,65520}'::integer[]::halfvec$$, $$'{1e39}'::double precision[]::halfvec$$,
	$$'[1,65520]'::vector::halfvec$$, $$'{2:65520}/3'::sparsevec::halfvec$$, $$'[1,2]'::vector::halfvec(3)$$, $$'[1,2]'::halfvec::vector(3)$$,
	$$'{}'::real[]::sparsevec$$, $$'{1,NULL}'::real[]::sparsevec$$, $$'{1,NaN}'::real[]::sparsevec$$, $$'{1,2}'::real[]::sparsevec(3)$$,
	$$'[1,2]'::vector::sparsevec(3)$$, $$'[1,2]'::halfvec::sparsevec(3)$$, $$'{}/2'::sparsevec::vector(3)$$, $$'{}/2'::sparsevec::halfvec(3)$$,
	$$'[1,2.5e9]'::vector::integer[]$$,
	$$'1'::jsonb::vector$$, $$'{"a": 1}'::jsonb::vector$$, $$'[]'::jsonb::vector$$, $$'[1,"2"]'::jsonb::vector$$, $$'[1,[2]]'::jsonb::vector$$,
	$$'[1,null]'::jsonb::vector$$, $$'[1,1e39]'::jsonb::vector$$, $$'[1,1e5]'::jsonb::halfvec$$, $$'[1,2]'::jsonb::sparsevec(3)$$, $$'[]'::jsonb::sparsevec$$,
	$$'null'::jsonb::vector$$]) expression,
	try('SELECT ' || expression) t;

-- aggregate states that are none
SELECT input, t.* FROM unnest(ARRAY['{}', '{{0}}', '{NULL}', '{1,NULL}']) input, try(format('SELECT vector_accum(%L, %L)', input, '[1]')) t;
SELECT expression, t.* FROM unnest(ARRAY[$$vector_accum('{1,2,3}', '[1,2,3]')$$, $$halfvec_accum('{1,2,3}', '[1,2,3]')$$,
	$$vector_combine('{1,2}', '{1,2,3}')$$, $$vector_avg('{1,1e300}')$$, $$vector_avg('{1,NaN}')$$, $$vector_avg('{1}')$$, $$halfvec_avg('{1,65520}')$$,
	$$vector_sum('{1,4e38}')$$]) expression,
	try('SELECT ' || expression) t;

-- malformed binary input
CREATE TEMP TABLE bad (type text, what text, hex text);
INSERT INTO bad
SELECT type, what, dim || unused || elements
FROM unnest(ARRAY['vector', 'halfvec']) type,
	LATERAL (SELECT CASE type WHEN 'vector' THEN '3f800000' ELSE '3c00' END AS one) o,
	LATERAL (VALUES
		('good', '0002', '0000', one || one),
		('nothing', '', '', ''),
		('header cut', '0002', '', ''),
		('dimension 0', '0000', '0000', ''),
		('dimension -1', 'ffff', '0000', one),
		('dimension -32768', '8000', '0000', one),
		('dimension 16001', '3e81', '0000', repeat(one, 16001)),
		('dimension 32767', '7fff', '0000', one),
		('reserved', '0001', '0001', one),
		('reserved', '0001', 'ffff', one),
		('short', '0003', '0000', one || one),
		('a byte short', '0002', '0000', one || left(one, -2)),
		('long', '0001', '0000', one || one),
		('a byte long', '0001', '0000', one || '00'),
		('NaN', '0002', '0000', one || CASE type WHEN 'vector' THEN '7fc00000' ELSE '7e00' END),
		('signalling NaN', '0002', '0000', one || CASE type WHEN 'vector' THEN '7f800001' ELSE 'fc01' END),
		('infinity', '0001', '0000', CASE type WHEN 'vector' THEN '7f800000' ELSE '7c00' END),
		('-infinity', '0002', '0000', one || CASE type WHEN 'vector' THEN 'ff800000' ELSE 'fc00' END)) v(what, dim, unused, elements);
INSERT INTO bad
SELECT 'sparsevec', what, dim || nnz || unused || indices || elements
FROM (VALUES
	('good', '00000005', '00000002', '00000000', '0000000000000004', '3f8000003f800000'),
	('no elements', '3b9aca00', '00000000', '00000000', '', ''),
	('nothing', '', '', '', '', ''),
	('header cut', '00000005', '00000002', '', '', ''),
	('dimension 0', '00000000', '00000000', '00000000', '', ''),
	('dimension -1', 'ffffffff', '00000000', '00000000', '', ''),
	('dimension 1000000001', '3b9aca01', '00000000', '00000000', '', ''),
	('elements -1', '00000005', 'ffffffff', '00000000', '', ''),
	('elements more than dimensions', '00000001', '00000002', '00000000', '0000000000000001', '3f8000003f800000'),
	('elements 16001', '3b9aca00', '00003e81', '00000000', '00000000', '3f800000'),
	('elements 2^31-1', '3b9aca00', '7fffffff', '00000000', '00000000', '3f800000'),
	('reserved', '00000005', '00000001', '00000001', '00000000', '3f800000'),
	('short', '00000005', '00000002', '00000000', '0000000000000001', '3f800000'),
	('long', '00000005', '00000001', '00000000', '00000000', '3f8000003f800000'),
	('index -1', '00000005', '00000001', '00000000', 'ffffffff', '3f800000'),
	('index 5 of 5', '00000005', '00000001', '00000000', '00000005', '3f800000'),
	('unsorted', '00000005', '00000002', '00000000', '0000000400000000', '3f8000003f800000'),
	('duplicate', '00000005', '00000002', '00000000', '0000000400000004', '3f8000003f800000'),
	('zero', '00000005', '00000001', '00000000', '00000000', '00000000'),
	('-zero', '00000005', '00000001', '00000000', '00000000', '80000000'),
	('NaN', '00000005', '00000001', '00000000', '00000000', '7fc00000'),
	('infinity', '00000005', '00000002', '00000000', '0000000000000001', '3f800000ff800000')) v(what, dim, nnz, unused, indices, elements);

-- COPY's own frame: signature, flags, extension; one row of one field; trailer
CREATE TEMP TABLE target_vector (v vector);
CREATE TEMP TABLE target_halfvec (v halfvec);
CREATE TEMP TABLE target_sparsevec (v sparsevec);
CREATE TEMP TABLE target_vector_3 (v vector(3));
CREATE TEMP TABLE target_halfvec_3 (v halfvec(3));
CREATE TEMP TABLE target_sparsevec_3 (v sparsevec(3));
CREATE FUNCTION receive(target text, hex text) RETURNS TABLE (state text, message text, detail text) LANGUAGE plpgsql AS $$
DECLARE
	body bytea := decode('5047434f50590aff0d0a00' || '0000000000000000' || '0001' || lpad(to_hex(length(hex) / 2), 8, '0') || hex || 'ffff', 'hex');
	program text := format('echo %s | base64 -d', translate(encode(body, 'base64'), E'\n', ''));
BEGIN
	RETURN QUERY SELECT t.* FROM try(format('COPY %s FROM PROGRAM %L (FORMAT binary)', target, program)) t;
END $$;
SELECT type, what, t.* FROM bad, receive('target_' || type, hex) t;
SELECT type, t.* FROM bad, receive('target_' || type || '_3', hex) t WHERE what = 'good';
SELECT * FROM target_vector;
SELECT * FROM target_halfvec;
SELECT * FROM target_sparsevec;
DROP FUNCTION receive;
DROP FUNCTION try;
