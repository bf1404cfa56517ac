# Included columns while everything happens at once: every filtered scan returns each row of
# its tenant that its snapshot sees exactly once, whether the index finds the tenant's rows
# by their chain, by searching, or by going through its lists; no defect afterwards.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node(
	'include_races', 'autovacuum = off', 'shared_buffers = 1MB', 'fsync = off', 'max_connections = 30', 'work_mem = 64kB');
my $dir = $node->basedir;

my $vector = '(SELECT array_agg(random()) FROM generate_series(1, 40))::vector';
my %script = (
	insert => qq{
\\set i random(1, 12)
\\set t random(0, 19)
INSERT INTO t VALUES (nextval('s'), :t, $vector), (nextval('s'), :t, (SELECT v FROM twelve WHERE id = :i)), (nextval('s'), :t, NULL);
},
	# Rows of one tenant become another's: of their chain they leave one place and take another.
	move => q{
\set t random(0, 19)
UPDATE t SET tenant = :t WHERE id IN (SELECT id FROM t TABLESAMPLE BERNOULLI (3) LIMIT 3);
},
	delete => q{
DELETE FROM t WHERE id IN (SELECT id FROM t TABLESAMPLE BERNOULLI (5) LIMIT 7) AND
	(SELECT count(*) FROM t) > 500;
},
	# Division by zero if a row is missing, or comes twice.
	scan => q{
\set i random(1, 12)
\set t random(0, 19)
SET enable_sort = off;
SET enable_seqscan = off;
SELECT 1 / (count(*) = (SELECT count(*) FROM t WHERE tenant + 0 = :t) AND count(*) = count(DISTINCT id))::int
FROM (SELECT id FROM t WHERE tenant = :t ORDER BY v <-> (SELECT v FROM twelve WHERE id = :i)) s;
},
	range => q{
\set i random(1, 12)
\set t random(0, 19)
SET enable_sort = off;
SET enable_seqscan = off;
SELECT 1 / (count(*) = (SELECT count(*) FROM t WHERE tenant + 0 >= :t) AND count(*) = count(DISTINCT id))::int
FROM (SELECT id FROM t WHERE tenant >= :t ORDER BY v <-> (SELECT v FROM twelve WHERE id = :i)) s;
},
	few => q{
\set i random(1, 12)
\set t random(0, 19)
SELECT id FROM t WHERE tenant IN (:t, 5) ORDER BY v <-> (SELECT v FROM twelve WHERE id = :i) LIMIT 10;
},
	vacuum => "VACUUM t;\n");
pgbench_scripts($node, %script);

# Rows of one tenant by clients that all want room in its chain: when a piece is full, one new piece comes.
$node->safe_psql('postgres', 'CREATE TABLE crowd (tenant int, v vector(3)); CREATE INDEX crowd_idx ON crowd USING hnsw (v vector_l2_ops) INCLUDE (tenant) WITH (m = 2, ef_construction = 4)');
append_to_file("$dir/crowd.sql", "INSERT INTO crowd SELECT 1, ARRAY[random(), random(), i]::vector FROM generate_series(1, 50) i;\n");
$node->command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 25, '-f', "$dir/crowd.sql", 'postgres' ], 'inserts of one tenant');
is($node->safe_psql('postgres', "SELECT value FROM ann_index_info('crowd_idx') WHERE name = 'cards in chains'"),
	'10000 in 1250 pieces of 8', 'its cards are in as few pieces as can hold them');
index_ok($node, 'crowd_idx');

for my $kind (
	[ 'hnsw', 'INCLUDE (tenant)' ],
	[ 'hnsw', 'INCLUDE (tenant) WITH (quantizer = none)' ],
	[ 'hnsw', 'INCLUDE (id, tenant)' ],
	[ 'ivfflat', 'INCLUDE (tenant) WITH (lists = 8)' ])
{
	my ($method, $rest) = @$kind;
	my $name = "$method $rest";
	$node->safe_psql(
		'postgres', qq{
		DROP TABLE IF EXISTS t, twelve;
		DROP SEQUENCE IF EXISTS s;
		CREATE TABLE t (id int, tenant int, v vector(40));
		CREATE SEQUENCE s;
		CREATE TABLE twelve AS SELECT i AS id, (SELECT array_agg(random() + (i + j) * 0) FROM generate_series(1, 40) j)::vector AS v
			FROM generate_series(1, 12) i;
		INSERT INTO t SELECT nextval('s'), i % 20, (SELECT array_agg(random() + (i + j) * 0) FROM generate_series(1, 40) j)::vector
			FROM generate_series(1, 600) i;
		CREATE INDEX t_idx ON t USING $method (v vector_l2_ops) $rest;
		ANALYZE t;
	});
	like(
		plan_of(
			$node,
			'SELECT id FROM t WHERE tenant = 3 ORDER BY v <-> (SELECT v FROM twelve WHERE id = 1)',
			'SET enable_sort = off; SET enable_seqscan = off'),
		qr/Custom Scan \(AnnScan\) on t.*Index Filter: \(t.tenant = 3\)/s,
		"$name: the index tests the tenant");
	$node->command_ok(
		[
			'pgbench', '-n', '-c', 8, '-j', 2, '-T', 6, '-f', "$dir/insert.sql\@4", '-f', "$dir/move.sql\@4",
			'-f', "$dir/delete.sql\@4", '-f', "$dir/scan.sql\@3", '-f', "$dir/range.sql\@1",
			'-f', "$dir/few.sql\@4", '-f', "$dir/vacuum.sql\@1", 'postgres'
		],
		"$name: all at once");
	index_ok($node, 't_idx');
	$node->safe_psql('postgres', 'VACUUM t');
	index_ok($node, 't_idx');
}
log_ok($node);
$node->stop;
done_testing();
