# Tens of thousands of rescans take no more memory than a few; scans may be open at once,
# and one that an error ends in the middle leaves nothing behind.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('rescan', 'autovacuum = off', 'jit = off', 'fsync = off', "work_mem = '4MB'");
my $dim = 40;
my $data = clustered_vectors(700, $dim, seed => 13);
load_vectors($node, 't', "vector($dim)", $data);
$node->safe_psql('postgres', <<"SQL");
ALTER TABLE t ADD s sparsevec($dim), ADD h halfvec($dim);
UPDATE t SET s = v::sparsevec, h = v;
UPDATE t SET v = NULL, s = NULL, h = NULL WHERE id % 100 = 99;
INSERT INTO t SELECT 1000 + i, v, s, h FROM generate_series(1, 30) i, t WHERE id = 1;
VACUUM FULL ANALYZE t;
CREATE INDEX ON t USING hnsw (v vector_l2_ops);
CREATE INDEX ON t USING hnsw (s sparsevec_l2_ops);
CREATE INDEX ON t USING hnsw (h halfvec_l1_ops);
CREATE INDEX ON t USING ivfflat (v vector_cosine_ops);
CREATE INDEX ON t USING ivfflat (h halfvec_ip_ops) WITH (quantizer = none);
CREATE TABLE q AS SELECT row_number() OVER () - 1 AS id, v, s, h FROM t WHERE id % 14 = 3 AND id < 700;
ANALYZE q;
-- Bytes of this backend's memory contexts, and of its resident memory where /proc tells.
CREATE FUNCTION memory(i int) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts';
CREATE FUNCTION resident(i int) RETURNS bigint LANGUAGE plpgsql VOLATILE AS \$\$
BEGIN
	RETURN substring(pg_read_file('/proc/self/status') FROM 'RssAnon:\\s*([0-9]+)')::bigint * 1024;
EXCEPTION WHEN OTHERS THEN
	RETURN 0;
END \$\$;
SQL

# Measured while the query runs, when a leak per rescan has not been cleared away.
for my $case (
	[ 'coded rows', 20000, 'v <-> CASE WHEN i > 0 THEN q.v END LIMIT 3' ],
	[ 'rows scored from their own pages', 4000, 'h <+> CASE WHEN i > 0 THEN q.h END LIMIT 3' ],
	[ 'vectors in pages of their own', 2000, 's <-> CASE WHEN i > 0 THEN q.s END LIMIT 3' ],
	[ 'sweeps to the last row', 200, 'v <-> CASE WHEN i > 0 THEN q.v END' ],
	[ 'NULL queries', 200, 'v <-> CASE WHEN i < 0 THEN q.v END' ],
	[ 'lists of codes', 20000, 'v <=> CASE WHEN i > 0 THEN q.v END LIMIT 3' ],
	[ 'lists of vectors', 2000, 'h <#> CASE WHEN i > 0 THEN q.h END LIMIT 3' ],
	[ 'lists to the last row', 200, 'v <=> CASE WHEN i > 0 THEN q.v END' ],
	[ 'lists that are sorted on disk', 200, 'h <#> CASE WHEN i > 0 THEN q.h END', q{SET work_mem = '64kB';} ],
	[ 'lists and NULL queries', 200, 'v <=> CASE WHEN i < 0 THEN q.v END' ])
{
	my ($name, $rescans, $order, $more) = @$case;
	my $early = $rescans / 20;
	my $queries = $node->safe_psql('postgres', 'SELECT count(*) FROM q');
	my $sql = <<"SQL";
SELECT i, CASE WHEN i IN ($early, $rescans) THEN memory(i) END AS memory, CASE WHEN i IN ($early, $rescans) THEN resident(i) END AS resident, n.rows
	FROM generate_series(1, $rescans) i JOIN q ON q.id = i % $queries, LATERAL (SELECT count(*) AS rows FROM (SELECT id FROM t ORDER BY $order) o) n
SQL
	my $settings = index_scan() . 'SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off;' . ($more // '');
	like(plan_of($node, $sql, $settings), qr/Index Scan using t_\w+ on t\s+Order By/, "$name: rescans of an index");
	my $result = $node->safe_psql('postgres', "$settings BEGIN; CREATE TEMP TABLE r AS $sql;
		SELECT (SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relid = 't'::regclass), count(*), min(rows), max(rows),
		max(memory) FILTER (WHERE i = $rescans) - max(memory) FILTER (WHERE i = $early),
		max(resident) FILTER (WHERE i = $rescans) - max(resident) FILTER (WHERE i = $early) FROM r");
	my ($scans, $count, $min, $max, $memory, $resident) = split /\|/, $result;
	my $rows = $order =~ /LIMIT (\d+)/ ? $1 : 730;
	is("$scans $count $min $max", "$rescans $rescans $rows $rows", "$name: every rescan has its rows");
	# 17 keeps some 75 kB once, whatever the number of rescans; one allocation per rescan would be far more.
	cmp_ok($memory, '<', 128 * 1024, "$name: memory contexts do not grow");
	cmp_ok($resident, '<', 2 * 1024 * 1024, "$name: nor does the process");
}

# Scans inside scans, of one index and of several, in one query.
my $nested = <<'SQL';
SELECT count(*), count(DISTINCT a.id), sum((a.id = b.id)::int) FROM (SELECT id, v FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 0) LIMIT 40) a,
	LATERAL (SELECT id, h FROM t WHERE v IS NOT NULL ORDER BY v <-> a.v LIMIT 5) b,
	LATERAL (SELECT id FROM t ORDER BY h <+> b.h LIMIT 2) c
SQL
is($node->safe_psql('postgres', index_scan() . $nested),
	$node->safe_psql('postgres', 'SET enable_indexscan = off;' . $nested), 'scans within scans of scans');

# Errors in the middle of a scan, in the middle of another, in subtransactions; the
# backend's memory afterwards is what it was before.
my $errors = index_scan() . <<'SQL';
CREATE FUNCTION failing(stop int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	n int := 0;
	r record;
BEGIN
	FOR r IN SELECT id, 1 / (row_number() OVER () - stop)::int AS x FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = stop % 30)) o
	LOOP
		n := n + 1;
		PERFORM id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 2) LIMIT 1;
	END LOOP;
	RETURN n;
EXCEPTION WHEN division_by_zero THEN
	RETURN (SELECT count(*) FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 3) LIMIT 20) o);
END $$;
SELECT count(*) FROM generate_series(1, 30) i WHERE failing(i % 50 + 1) <> 20;
SELECT memory(1) AS before \gset
SELECT count(*) FROM generate_series(1, 300) i WHERE failing(i % 50 + 1) <> 20;
SELECT memory(1) - :before < 65536;
SQL
is($node->safe_psql('postgres', $errors), "0\n0\nt", 'scans ended by errors in subtransactions cost no memory');

my ($rc, $out, $err) = $node->psql('postgres', index_scan() . <<'SQL', on_error_stop => 0);
DECLARE outside CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 7) LIMIT 50;
SELECT id, 1 / (id - (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 9) OFFSET 30 LIMIT 1)) FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 9);
BEGIN;
DECLARE a CURSOR FOR SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 7);
MOVE 25 IN a;
SAVEPOINT s;
DECLARE b CURSOR FOR SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 8);
MOVE 40 IN b;
SELECT id, 1 / (id - (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 9) OFFSET 30 LIMIT 1)) FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 9);
ROLLBACK TO s;
CREATE TEMP TABLE alone AS SELECT row_number() OVER () AS n, id FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE id = 7)) o;
FETCH 3 FROM a;
SELECT '=';
SELECT id FROM alone WHERE n BETWEEN 26 AND 28 ORDER BY n;
SELECT '=';
MOVE ALL IN a;
SELECT count(*), count(DISTINCT id) FROM alone;
COMMIT;
SQL
my @errors = $err =~ /division by zero/g;
is(scalar(@errors), 2, 'errors in the middle of a scan');
my ($fetched, $expected, $counts) = split /^=\n/m, $out =~ s/^(?!=|\d).*\n//mgr;
$fetched =~ s/^.*\|.*\n//mg;
is($fetched, $expected, 'a cursor goes on after the error of another scan');
is($counts, '730|730', 'and every row is found');
log_ok($node);
$node->stop;
done_testing();
