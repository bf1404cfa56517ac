-- Every object of pgvector 0.8 exists here with the same properties: compares
-- the catalogs with test/compat/pgvector-0.8.tsv and reports only differences.
\set surface `cat "$PG_ABS_SRCDIR/test/compat/pgvector-0.8.tsv"`
CREATE TEMP TABLE expected AS
SELECT string_to_array(replace(line, 'public.', ''), E'\t') AS row
FROM regexp_split_to_table(:'surface', E'\n') line
WHERE line !~ '^(#|$)';

-- Settings and options are tested with their access method.
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
