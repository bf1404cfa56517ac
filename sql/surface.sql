-- Every object of pgvector 0.8 exists here with the same properties: compares
-- the catalogs with test/compat/pgvector-0.8.tsv and reports only differences.
\set surface `cat "$PG_ABS_SRCDIR/test/compat/pgvector-0.8.tsv"`
CREATE TEMP TABLE expected AS
SELECT string_to_array(replace(line, 'public.', ''), E'\t') AS row
FROM regexp_split_to_table(:'surface', E'\n') line
WHERE line !~ '^(#|$)';

-- Settings and options come further down: there are differences on purpose.
CREATE TEMP TABLE tuning AS SELECT row FROM expected WHERE row[1] IN ('setting', 'reloption');
DELETE FROM expected WHERE row[1] IN ('setting', 'reloption');

-- Limits are tested where the types are.
DELETE FROM expected WHERE row[1] = 'limit';

CREATE TEMP TABLE actual (row text[]);

INSERT INTO actual
SELECT ARRAY['function', p.proname::text, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid),
	p.provolatile::text, p.proisstrict::text, p.proparallel::text, p.prokind::text]
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND d.deptype = 'e';

INSERT INTO actual
SELECT ARRAY['operator', format_type(o.oprleft, NULL), o.oprname, format_type(o.oprright, NULL), format_type(o.oprresult, NULL),
	coalesce(c.oprname, ''), coalesce(n.oprname, ''), p.proname]
FROM pg_operator o
JOIN pg_depend d ON d.objid = o.oid AND d.classid = 'pg_operator'::regclass
JOIN pg_proc p ON p.oid = o.oprcode
LEFT JOIN pg_operator c ON c.oid = o.oprcom
LEFT JOIN pg_operator n ON n.oid = o.oprnegate
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND d.deptype = 'e';

INSERT INTO actual
SELECT ARRAY['cast', format_type(castsource, NULL), format_type(casttarget, NULL), castcontext::text]
FROM pg_cast c JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_cast'::regclass
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND d.deptype = 'e';

INSERT INTO actual
SELECT ARRAY['opclass', am.amname::text, opc.opcname, format_type(opc.opcintype, NULL), left(opc.opcdefault::text, 1),
	(SELECT string_agg(format('%s(%s,%s)/%s', o.oprname, format_type(o.oprleft, NULL), format_type(o.oprright, NULL), a.amoppurpose), ', '
			ORDER BY a.amopstrategy)
		FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr WHERE a.amopfamily = opc.opcfamily)]
FROM pg_opclass opc
JOIN pg_am am ON am.oid = opc.opcmethod
JOIN pg_depend d ON d.objid = opc.oid AND d.classid = 'pg_opclass'::regclass
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND d.deptype = 'e';

INSERT INTO actual
SELECT ARRAY['type', t.typname::text, t.typlen::text, t.typstorage::text, t.typmodin::text, t.typsend::text, t.typreceive::text]
FROM pg_type t
WHERE t.typname IN ('vector', 'halfvec', 'sparsevec') AND pg_type_is_visible(t.oid);

-- booleans as the file writes them
UPDATE actual SET row[6] = left(row[6], 1) WHERE row[1] = 'function';

SELECT row[1] AS kind, count(*) > 0 AS compared FROM expected GROUP BY 1 ORDER BY 1;
SELECT row AS missing_or_different FROM expected EXCEPT SELECT row FROM actual;

-- Calls that are unambiguous in pgvector are so here.
SELECT l2_distance('[1,2]'::vector, '[1,2]'), vector_dims('[1,2]'::vector), vector_norm('[3,4]'),
	hamming_distance('101', '110'), jaccard_distance('101', '110'), vector_l2_squared_distance('[1,2]', '[1,2]'),
	l2_norm('[3,4]'::halfvec), l2_normalize('[3,4]'::vector), binary_quantize('[1,-1]'::halfvec), subvector('[1,2]'::vector, 1, 1);
SELECT '[1,2]'::vector <-> '[1,3]', '[1,3]' <-> '[1,2]'::halfvec, '[1,2]'::vector = '[1,2]', '{1:1}/2'::sparsevec < '{2:1}/2';
SELECT '[1,2]'::vector <-> '[1,4]'::halfvec, '[1,2]'::halfvec <-> '{1:1}/2'::sparsevec, '[1,2]'::vector <-> '{1:1}/2'::sparsevec;

-- Functions of the types see no NULL.
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND p.prokind = 'f' AND NOT p.proisstrict
	AND p.proargtypes::oid[] && ARRAY['vector'::regtype, 'halfvec'::regtype, 'sparsevec'::regtype]::oid[];

-- Operator classes are complete.
SELECT opcname, amname FROM pg_opclass opc JOIN pg_am am ON am.oid = opcmethod
JOIN pg_depend d ON d.objid = opc.oid AND d.classid = 'pg_opclass'::regclass
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann') AND NOT amvalidate(opc.oid);

-- Settings: each is there and takes what pgvector takes.
CREATE TEMP TABLE setting AS
SELECT row[2] AS name, row[3] AS pgvector_default, boot_val AS default, nullif(row[4], '')::float8 AS pgvector_min, min_val::float8 AS min,
	nullif(row[5], '')::float8 AS pgvector_max, max_val::float8 AS max, string_to_array(row[6], ',') AS pgvector_values, enumvals AS values
FROM tuning LEFT JOIN pg_settings ON name = row[2]
WHERE row[1] = 'setting';
SELECT count(*) AS settings FROM setting;
SELECT name AS missing_or_narrower FROM setting
WHERE "default" IS NULL OR coalesce(min > pgvector_min, pgvector_min IS NOT NULL) OR coalesce(max < pgvector_max, pgvector_max IS NOT NULL)
	OR NOT pgvector_values <@ coalesce(values, '{}');

-- All differences, on purpose: nothing is silently short, and what is not set the index decides.
SELECT name, nullif(pgvector_default, "default") || ' -> ' || "default" AS default, nullif(pgvector_min, min) || ' -> ' || min AS min,
	nullif(pgvector_max, max) || ' -> ' || max AS max, ARRAY(SELECT unnest(values) EXCEPT SELECT unnest(pgvector_values)) AS more_values
FROM setting
WHERE (pgvector_default, pgvector_min, pgvector_max) IS DISTINCT FROM ("default", min, max) OR NOT values <@ pgvector_values
ORDER BY name COLLATE "C";

-- Options: each is there and takes what pgvector takes.  On purpose ivfflat's lists may be 0, which derives the number from the
-- rows, and is the default; and hnsw's ef_construction may be less than 2 * m.
CREATE FUNCTION surface_option(am text, option text, value text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE INDEX surface_option_idx ON surface_rows USING %I (v vector_l2_ops) WITH (%I = %s)', am, option, value);
	DROP INDEX surface_option_idx;
	RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN false;
END
$$;
CREATE TEMP TABLE surface_rows (v vector(3));
SET client_min_messages = warning;
SELECT row[2] AS am, row[3] AS option, row[4] AS pgvector,
	surface_option(row[2], row[3], least) AS least, surface_option(row[2], row[3], (least::int - 1)::text) AS less,
	surface_option(row[2], row[3], most) AS most, surface_option(row[2], row[3], (most::int + 1)::text) AS more
FROM tuning, regexp_match(row[4], '(\d+)\.\.(\d+)') limits, LATERAL (SELECT limits[1], limits[2]) l (least, most)
WHERE row[1] = 'reloption'
ORDER BY row COLLATE "C";
RESET client_min_messages;
DROP FUNCTION surface_option;
