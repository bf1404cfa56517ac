# Thousands of rescans of an AnnScan take no more memory than a few, whether the query, the
# filter or both change, members are searched for or ranked; nor do errors in the middle.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('annscan_rescan', 'autovacuum = off', 'jit = off', 'fsync = off', "work_mem = '4MB'");
my $dim = 24;
my $data = clustered_vectors(1200, $dim, seed => 42);
load_vectors($node, 't', "vector($dim)", $data);
$node->safe_psql('postgres', <<"SQL");
ALTER TABLE t ADD c int;
UPDATE t SET c = id % 40;
UPDATE t SET v = NULL WHERE id % 400 = 7;
VACUUM FULL t;
CREATE INDEX ON t USING hnsw (v vector_l2_ops);
CREATE INDEX ON t (c);
VACUUM ANALYZE t;
CREATE TABLE q AS SELECT row_number() OVER () - 1 AS id, v FROM t WHERE id % 30 = 3;
ANALYZE q;
CREATE FUNCTION memory(i int) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts';
SQL

my $settings = 'SET enable_seqscan = off; SET enable_sort = off; SET enable_hashjoin = off; SET enable_mergejoin = off;'
  . 'SET enable_material = off; SET enable_memoize = off; SET max_parallel_workers_per_gather = 0;';
for my $case (
	[ 'ranked, the query changes', 8000, 'c = 5', 'q.v', 3, '' ],
	[ 'ranked, the filter changes', 8000, 'c = i % 40', '(SELECT v FROM q WHERE id = 1)', 3, '' ],
	[ 'ranked, both change', 4000, 'c = i % 40', 'q.v', 3, '' ],
	[ 'searched for, both change', 2000, 'c IN (i % 40, 3, 7, 9, 11, 13)', 'q.v', 5, 'SET cpu_tuple_cost = 10;' ],
	[ 'all members', 400, 'c = i % 40', 'q.v', 100, '' ])
{
	my ($name, $rescans, $where, $query, $limit, $more) = @$case;
	my $early = $rescans / 20;
	my $sql = <<"SQL";
SELECT i, CASE WHEN i IN ($early, $rescans) THEN memory(i) END AS memory, n.rows
	FROM generate_series(1, $rescans) i JOIN q ON q.id = i % 40,
	LATERAL (SELECT count(*) AS rows FROM (SELECT id FROM t WHERE $where ORDER BY v <-> CASE WHEN i > 0 THEN $query END LIMIT $limit) o) n
SQL
	like(plan_of($node, $sql, "$settings $more"), qr/AnnScan.*Bitmap Index Scan/s, "$name: AnnScan within a bitmap");
	my $result = $node->safe_psql('postgres', "$settings $more BEGIN; CREATE TEMP TABLE r AS $sql;
		SELECT count(*), min(rows), max(rows), max(memory) FILTER (WHERE i = $rescans) - max(memory) FILTER (WHERE i = $early) FROM r");
	my ($count, $min, $max, $memory) = split /\|/, $result;
	my $rows = $limit > 30 ? 30 : $limit;
	is("$count $min $max", "$rescans $rows $rows", "$name: every rescan has its rows");
	cmp_ok($memory, '<', 128 * 1024, "$name: memory does not grow");
}

# Errors while a filter is evaluated, caught: memory is what it was, and nothing leaks.
my $errors = "$settings " . <<'SQL';
CREATE FUNCTION failing(stop int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	PERFORM id FROM t WHERE c = stop % 40 AND 1 / (id - (SELECT max(id) FROM t WHERE c = stop % 40)) < 2 ORDER BY v <-> (SELECT v FROM q WHERE id = stop % 40) LIMIT 30;
	RETURN 0;
EXCEPTION WHEN division_by_zero THEN
	RETURN 1;
END $$;
SELECT count(*) FROM generate_series(1, 30) i WHERE failing(i) <> 1;
SELECT memory(1) AS before \gset
SELECT count(*) FROM generate_series(1, 300) i WHERE failing(i) <> 1;
SELECT memory(1) - :before < 65536;
SQL
is($node->safe_psql('postgres', $errors), "0\n0\nt", 'scans ended by errors cost no memory');
log_ok($node);
$node->stop;
done_testing();
