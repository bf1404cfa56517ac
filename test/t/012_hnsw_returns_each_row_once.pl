# An ordered scan without LIMIT returns every visible row exactly once, in order, rows
# whose distance is NaN and NULLs last, while others insert, update, delete and VACUUM.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('hnsw_once', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_connections = 30');
my $seconds = 4;
my $dim = 40;

my $data = clustered_vectors(1800, $dim, seed => 12);
load_vectors($node, 'pool', "vector($dim)", $data);
$node->safe_psql('postgres', <<"SQL");
CREATE UNIQUE INDEX ON pool (id);
CREATE TABLE t (id int, v vector($dim), b bit($dim));
-- a third are equal vectors, NULLs and vectors without a direction
INSERT INTO t SELECT id, CASE WHEN id < 900 THEN v WHEN id < 1000 THEN (SELECT v FROM pool WHERE id = 5)
	WHEN id < 1060 THEN NULL ELSE array_fill(0, ARRAY[$dim])::vector END, binary_quantize(v)::bit($dim) FROM pool WHERE id < 1100;
CREATE INDEX t_l2 ON t USING hnsw (v vector_l2_ops);
CREATE INDEX t_cosine ON t USING hnsw (v vector_cosine_ops);
CREATE INDEX t_bit ON t USING hnsw (b bit_hamming_ops);
ANALYZE t;
SQL
my $query = "'" . vector_text($data->[3]) . "'";
my $bits = "(SELECT b FROM t WHERE id = 3 LIMIT 1)";

# Cursors over three indexes, read in pieces between changes of every kind.
my %order = (l2 => "v <-> $query", cosine => "v <=> $query", bit => "b <~> $bits");
my $scan = $node->background_psql('postgres');
$scan->query_safe(index_scan());
my $visible = $node->safe_psql('postgres', 'SELECT id FROM t ORDER BY id');
$scan->query_safe('BEGIN');
my %got;
for my $name (sort keys %order)
{
	like(answer($scan, "EXPLAIN (COSTS OFF) SELECT id FROM t ORDER BY $order{$name}"), qr/Index Scan using t_$name/, "$name is read from its index");
	$scan->query_safe("DECLARE $name CURSOR FOR SELECT id, $order{$name} FROM t ORDER BY $order{$name}");
	$got{$name} = [];
}
my @changes = (
	'INSERT INTO t SELECT 10000 + id, v, binary_quantize(v)::bit(' . $dim . ') FROM pool WHERE id BETWEEN 1100 AND 1400',
	'DELETE FROM t WHERE id % 3 = 0',
	'VACUUM t',
	'INSERT INTO t SELECT 20000 + id, NULL, NULL FROM pool WHERE id < 50',
	'UPDATE t SET v = v + v WHERE id % 3 = 1',
	'DELETE FROM t WHERE id > 10000',
	'VACUUM t',
	'INSERT INTO t SELECT 30000 + id, v, binary_quantize(v)::bit(' . $dim . ') FROM pool WHERE id >= 1100',
	'VACUUM t');
for my $change ('', @changes, '')
{
	$node->safe_psql('postgres', $change) if $change ne '';
	for my $name (sort keys %order)
	{
		my $count = $change eq $changes[-1] ? 'ALL' : 60;
		push @{ $got{$name} }, split /\n/, answer($scan, "FETCH $count FROM $name");
	}
}
for my $name (sort keys %order)
{
	my @rows = map { [ split /\|/, $_, 2 ] } @{ $got{$name} };
	is(join("\n", sort { $a <=> $b } map { $_->[0] } @rows), $visible, "$name: the rows of the cursor's snapshot, each once");

	my ($last, $wrong) = ('', 0);
	my $rank = sub { $_[0] eq '' ? 3 : $_[0] eq 'NaN' ? 2 : 1 };
	my $tail = 0;
	for my $row (@rows)
	{
		if ($last ne '')
		{
			$wrong++ if $rank->($row->[1]) < $rank->($last);
			$tail++ if $rank->($row->[1]) == 1 && $rank->($last) == 1 && $row->[1] < $last;
		}
		elsif ($row != $rows[0]) { $wrong++ if $row->[1] ne ''; }
		$last = $row->[1];
	}
	is($wrong, 0, "$name: NaN before NULL, both last");
	# rows that were found after a farther one had been returned form one tail
	cmp_ok($tail, '<=', 1, "$name: sorted, and so is the tail");
}
$scan->query_safe('COMMIT');
$scan->quit;

# The same under load, in each client's own snapshot.
my %script = (
	scan => index_scan() . <<"SQL",
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 / (array_agg(id ORDER BY id) = (SELECT array_agg(id ORDER BY id) FROM t))::int FROM (SELECT id FROM t ORDER BY v <-> $query) r;
SELECT 1 / (array_agg(id ORDER BY id) = (SELECT array_agg(id ORDER BY id) FROM t))::int FROM (SELECT id FROM t ORDER BY v <=> $query) r;
SELECT 1 / (array_agg(id ORDER BY id) = (SELECT array_agg(id ORDER BY id) FROM t))::int FROM (SELECT id FROM t ORDER BY b <~> $bits) r;
COMMIT;
SQL
	insert => <<"SQL",
\\set n random(0, 1799)
INSERT INTO t SELECT nextval('ids'), v, binary_quantize(v)::bit($dim) FROM pool WHERE id = :n;
INSERT INTO t SELECT nextval('ids'), NULL, NULL WHERE :n % 5 = 0;
INSERT INTO t SELECT nextval('ids'), array_fill(0, ARRAY[$dim])::vector, NULL WHERE :n % 7 = 0;
SQL
	delete => <<'SQL',
\set n random(0, 40)
DELETE FROM t WHERE id % 41 = :n AND id > (SELECT max(id) FROM t) - 400;
SQL
	vacuum => <<'SQL',
\sleep 50 ms
VACUUM t;
SQL
);
$node->safe_psql('postgres', "CREATE SEQUENCE ids MINVALUE 100000; TRUNCATE t;
	INSERT INTO t SELECT id, v, binary_quantize(v)::bit($dim) FROM pool WHERE id < 500");
append_to_file($node->basedir . "/$_.sql", $script{$_}) for keys %script;
my ($in, $out) = ('', '');
my $vacuum = IPC::Run::start([ 'pgbench', '-n', '-T', $seconds, '-f', $node->basedir . '/vacuum.sql', '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \$in, '>&', \$out);
$node->command_ok([ 'pgbench', '-n', '-c', '5', '-j', '2', '-T', $seconds, '-f', $node->basedir . '/scan.sql@2',
		'-f', $node->basedir . '/insert.sql@6', '-f', $node->basedir . '/delete.sql@1', 'postgres' ],
	'no client saw a row twice or missed one');
ok(IPC::Run::finish($vacuum), 'VACUUM came to its end') or diag($out);
index_ok($node, $_) for 't_l2', 't_cosine', 't_bit';
log_ok($node);
$node->stop;
done_testing();
