# Inserts, updates, deletes, scans and VACUUM at once, with few buffers: every scan
# returns each row of its snapshot exactly once, and the index has no defect afterwards.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node(
	'races', 'autovacuum = off', 'shared_buffers = 1MB', 'fsync = off', 'max_connections = 30', 'work_mem = 64kB');
my $dir = $node->basedir;

# Twelve vectors come again and again (rows with chains), the others are new each time.
my %script = (
	insert => q{
\set i random(1, 12)
INSERT INTO t VALUES (nextval('s'), (SELECT array_agg(random()) FROM generate_series(1, 40))::vector),
	(nextval('s'), (SELECT v FROM twelve WHERE id = :i)), (nextval('s'), NULL);
},
	update => q{
\set i random(1, 12)
UPDATE t SET v = (SELECT v FROM twelve WHERE id = :i) WHERE id IN (SELECT id FROM t TABLESAMPLE BERNOULLI (2) LIMIT 2);
},
	delete => q{
DELETE FROM t WHERE id IN (SELECT id FROM t TABLESAMPLE BERNOULLI (5) LIMIT 6) AND
	(SELECT count(*) FROM t) > 500;
},
	rollback => q{
BEGIN;
INSERT INTO t VALUES (nextval('s'), (SELECT array_agg(random()) FROM generate_series(1, 40))::vector);
ROLLBACK;
},
	# Division by zero if a row is missing, or comes twice.
	scan => q{
\set i random(1, 12)
SET enable_sort = off;
SELECT 1 / (count(*) = (SELECT count(*) FROM t) AND count(*) = count(DISTINCT id))::int
FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM twelve WHERE id = :i)) s;
},
	few => q{
\set i random(1, 12)
SELECT id FROM t ORDER BY v <-> (SELECT v FROM twelve WHERE id = :i) LIMIT 10;
},
	vacuum => "VACUUM t;\n");
pgbench_scripts($node, %script);

for my $kind ([ 'coded', '' ], [ 'plain', 'WITH (quantizer = none)' ])
{
	my ($name, $with) = @$kind;
	$node->safe_psql(
		'postgres', qq{
		DROP TABLE IF EXISTS t, twelve;
		DROP SEQUENCE IF EXISTS s;
		CREATE TABLE t (id int, v vector(40));
		CREATE SEQUENCE s;
		CREATE TABLE twelve AS SELECT i AS id, (SELECT array_agg(random() + (i + j) * 0) FROM generate_series(1, 40) j)::vector AS v
			FROM generate_series(1, 12) i;
		INSERT INTO t SELECT nextval('s'), (SELECT array_agg(random() + (i + j) * 0) FROM generate_series(1, 40) j)::vector
			FROM generate_series(1, 600) i;
		CREATE INDEX t_idx ON t USING hnsw (v vector_l2_ops) $with;
	});
	$node->command_ok(
		[
			'pgbench', '-n', '-c', 8, '-j', 2, '-T', 8, '-f', "$dir/insert.sql\@4", '-f', "$dir/update.sql\@3",
			'-f', "$dir/delete.sql\@4", '-f', "$dir/rollback.sql\@1", '-f', "$dir/scan.sql\@2",
			'-f', "$dir/few.sql\@6", '-f', "$dir/vacuum.sql\@1", 'postgres'
		],
		"$name: all at once");
	index_ok($node, 't_idx');
	$node->safe_psql('postgres', 'VACUUM t');
	index_ok($node, 't_idx');
}
log_ok($node);
$node->stop;
done_testing();
