# Toasted vectors read while others update, insert, roll back, vacuum and truncate
# them.  Every element of a row's vector is made from the row's seed, so a chunk of
# another value, another version or another place shows as a non-zero distance.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = 6;
my $dim = 1100;    # three chunks, the last one short
my $node = ann_node('detoast', 'shared_buffers = 2MB', 'autovacuum = off', 'max_connections = 30',
	'max_parallel_workers_per_gather = 2', 'min_parallel_table_scan_size = 0', 'parallel_setup_cost = 0');

$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION made(seed int) RETURNS vector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS \$\$ SELECT base + array_fill(seed % 4096, ARRAY[$dim])::vector FROM (SELECT '@{[ vector_text([ 1 .. $dim ]) ]}'::vector) AS b (base) \$\$;
CREATE SEQUENCE seeds;
CREATE TABLE t (id int PRIMARY KEY, seed int NOT NULL, v vector($dim) NOT NULL);
ALTER TABLE t SET (fillfactor = 70);
INSERT INTO t SELECT i, i, made(i) FROM generate_series(1, 400) i;
SQL

my %script = (
	# readers in order, in parallel, out of order, and with a toasted query vector
	scan => <<'SQL',
SELECT 1 / (count(*) = 0)::int FROM t WHERE l1_distance(v, made(seed)) <> 0;
SQL
	serial => <<'SQL',
SET max_parallel_workers_per_gather = 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 / (count(*) = 0)::int FROM t WHERE l1_distance(v, made(seed)) <> 0;
SELECT 1 / (count(*) = 0)::int FROM t WHERE l1_distance(v, made(seed)) <> 0;
COMMIT;
SQL
	point => <<'SQL',
\set id random(1, 400)
SELECT 1 / (count(*) = 0)::int FROM t WHERE id = :id AND l1_distance(v, made(seed)) <> 0;
SELECT 1 / (count(*) = 0)::int FROM t, (SELECT v AS q, seed AS qs FROM t WHERE id = :id OFFSET 0) AS q
	WHERE id BETWEEN :id - 5 AND :id + 5 AND l1_distance(v, q) <> l1_distance(made(seed), made(qs));
SQL
	update => <<'SQL',
\set id random(1, 400)
WITH s AS (SELECT nextval('seeds')::int AS n) UPDATE t SET seed = n, v = made(n) FROM s WHERE id = :id;
SQL
	rollback => <<'SQL',
\set id random(1, 400)
BEGIN;
INSERT INTO t SELECT -:client_id * 1000 - i, i, made(i) FROM generate_series(1, 3) i;
SAVEPOINT s;
DELETE FROM t WHERE id = :id;
INSERT INTO t SELECT :id, i, made(i) FROM (SELECT nextval('seeds')::int) AS s (i);
SELECT 1 / (count(*) = 1)::int FROM t WHERE id = :id AND l1_distance(v, made(seed)) = 0;
ROLLBACK TO s;
SELECT 1 / (count(*) = 3)::int FROM t WHERE id < 0 AND l1_distance(v, made(seed)) = 0;
ROLLBACK;
SQL
	# the table's end comes and goes
	tail => <<'SQL',
INSERT INTO t SELECT 100000 + i, i, made(i) FROM generate_series(1, 60) i;
SELECT 1 / (count(*) = 60)::int FROM t WHERE id > 100000 AND l1_distance(v, made(seed)) = 0;
DELETE FROM t WHERE id > 100000;
VACUUM (TRUNCATE) t;
SQL
	rewrite => <<'SQL',
\sleep 300 ms
VACUUM FULL t;
\sleep 300 ms
CLUSTER t USING t_pkey;
SQL
);

append_to_file($node->basedir . "/$_.sql", $script{$_}) for keys %script;
my %weight = (scan => 3, serial => 2, point => 20, update => 10, rollback => 3);

# deadlocks between writers are theirs, not ours: one writer of each kind
my @background;
for my $name ('tail', 'rewrite')
{
	my ($in, $out) = ('', '');
	my $handle = IPC::Run::start([ 'pgbench', '-n', '-T', $seconds, '-f', $node->basedir . "/$name.sql",
			'-h', $node->host, '-p', $node->port, 'postgres' ], '<', \$in, '>&', \$out);
	push @background, [ $name, $handle, \$out ];
}
$node->command_ok(
	[ 'pgbench', '-n', '-c', '6', '-j', '2', '-T', $seconds, '--max-tries=20',
		(map { ('-f', $node->basedir . "/$_.sql\@$weight{$_}") } sort keys %weight), 'postgres' ],
	'no reader saw a wrong vector');
for my $run (@background)
{
	my ($name, $handle, $output) = @$run;
	ok(IPC::Run::finish($handle), "$name came to its end") or diag($$output);
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM t WHERE l1_distance(v, made(seed)) = 0'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id BETWEEN 1 AND 400'), 'every vector is right at the end');
log_ok($node);
$node->stop;
done_testing();
