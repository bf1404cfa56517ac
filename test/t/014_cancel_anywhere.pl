# Builds, inserts, scans and VACUUM that are cancelled at any point leave an index that
# works: committed rows are found, no defect remains.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('cancel', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_parallel_maintenance_workers = 2', 'min_parallel_table_scan_size = 0');
my $dim = 100;
my $data = clustered_vectors(3000, $dim, seed => 14);
load_vectors($node, 'pool', "vector($dim)", $data);
# Runs the statement under each timeout; returns how often it was cancelled.
my $cancel = sub {
	my ($timeouts, $statement, %opt) = @_;
	my $sql = ($opt{before} // '') . join('',
		map { ($opt{each} // '') . "SET statement_timeout = $_;\n" . ($statement =~ s/TIMEOUT/$_/gr) . ";\nSET statement_timeout = 0;\n" } @$timeouts);
	my ($rc, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 0);
	my @cancelled = $err =~ /canceling statement due to statement timeout/g;
	my @errors = grep { /ERROR/ && !/statement timeout/ } split /\n/, $err;
	is("@errors", '', "$opt{name}: no other error");
	return scalar @cancelled;
};
my $works = sub {
	my ($index, $name) = @_;
	is($node->safe_psql('postgres', index_scan() . "SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM pool WHERE id = 3)) o"),
		$node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM t'), "$name: the scan returns every row once");
	index_ok($node, $index);
};
my @timeouts = (1, 2, 3, 5, 8, 12, 18, 26, 37, 50, 70, 95, 130, 180, 250);

for my $am ('hnsw', 'ivfflat')
{
	$node->safe_psql('postgres', "DROP TABLE IF EXISTS t; CREATE TABLE t (id int, v vector($dim)); INSERT INTO t SELECT * FROM pool WHERE id < 1500;
		ALTER TABLE t SET (parallel_workers = 2); ANALYZE t");

	# Builds: serial, parallel, and concurrent ones, which leave an invalid index behind.
	my $cancelled = $cancel->(\@timeouts, "CREATE INDEX i_TIMEOUT ON t USING $am (v vector_l2_ops)", name => "$am, serial build", before => 'SET max_parallel_maintenance_workers = 0;');
	cmp_ok($cancelled, '>=', 1, "$am: builds were cancelled");
	$cancelled = $cancel->(\@timeouts, "CREATE INDEX p_TIMEOUT ON t USING $am (v vector_l2_ops)", name => "$am, parallel build");
	cmp_ok($cancelled, '>=', 1, "$am: parallel builds were cancelled");
	$cancelled = $cancel->([ 2, 8, 30, 90, 200 ], "CREATE INDEX CONCURRENTLY c_TIMEOUT ON t USING $am (v vector_cosine_ops)", name => "$am, concurrent build");
	cmp_ok($cancelled, '>=', 1, "$am: concurrent builds were cancelled");
	$node->safe_psql('postgres', $_) for split /\n/, $node->safe_psql('postgres', q{
		SELECT CASE WHEN indisvalid THEN 'DROP INDEX ' ELSE 'REINDEX INDEX ' END || indexrelid::regclass FROM pg_index WHERE indrelid = 't'::regclass});
	$node->safe_psql('postgres', $_) for split /\n/, $node->safe_psql('postgres', q{
		SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index WHERE indrelid = 't'::regclass});

	$node->safe_psql('postgres', "CREATE INDEX t_idx ON t USING $am (v vector_l2_ops)");
	$works->('t_idx', "$am, build");

	# Inserts: many rows in a statement; what a cancelled one had written is garbage.
	$cancelled = $cancel->(\@timeouts, 'INSERT INTO t SELECT 10000 + id * 1000 + TIMEOUT, v FROM pool WHERE id BETWEEN 1500 AND 1700', name => "$am, insert");
	cmp_ok($cancelled, '>=', 1, "$am: inserts were cancelled");
	$works->('t_idx', "$am, insert");

	# Scans: the whole of the table, through beam, continuation, sweep and sort.
	$cancelled = $cancel->(\@timeouts, 'SELECT count(*) FROM (SELECT a.id FROM pool q, LATERAL (SELECT id FROM t ORDER BY v <-> q.v LIMIT 500) a) o', name => "$am, scan", before => index_scan());
	cmp_ok($cancelled, '>=', 1, "$am: scans were cancelled");
	$works->('t_idx', "$am, scan");

	# VACUUM: there are the rows of the cancelled inserts, and more die before each try.
	$cancelled = $cancel->(\@timeouts, 'VACUUM (INDEX_CLEANUP ON) t', name => "$am, VACUUM",
		each => "DELETE FROM t WHERE id % 23 = (random() * 22)::int;\nINSERT INTO t SELECT 5000000 + id, v FROM pool WHERE id % 37 = (random() * 36)::int;\n");
	$works->('t_idx', "$am, cancelled VACUUM");
	# With a delay VACUUM cannot be faster than the timeout.
	$cancelled += $cancel->([ 1, 2, 4, 7, 11, 16, 22, 30 ], 'VACUUM (INDEX_CLEANUP ON) t', name => "$am, slow VACUUM",
		before => "SET vacuum_cost_delay = 5; SET vacuum_cost_limit = 20;",
		each => "DELETE FROM t WHERE id % 23 = (random() * 22)::int;\n");
	cmp_ok($cancelled, '>=', 1, "$am: VACUUM was cancelled");
	$works->('t_idx', "$am, slow VACUUM");
	$node->safe_psql('postgres', 'VACUUM t');
	$node->safe_psql('postgres', 'INSERT INTO t SELECT 7000000 + id, v FROM pool WHERE id >= 2000');
	$works->('t_idx', "$am, VACUUM and inserts at the end");

	# Everything at once, from several clients.
	my %script = (
		insert => "SET statement_timeout = :timeout;\nINSERT INTO t SELECT 8000000 + id, v FROM pool WHERE id % 97 = :n;",
		scan => index_scan() . "SET statement_timeout = :timeout;\nSELECT count(*) FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM pool WHERE id = :n) LIMIT 300) o;",
		delete => "SET statement_timeout = :timeout;\nDELETE FROM t WHERE id % 197 = :n AND id > 100;",
		vacuum => "SET statement_timeout = :timeout;\nVACUUM t;");
	for my $name (sort keys %script)
	{
		append_to_file($node->basedir . "/$am-$name.sql", "\\set n random(0, 96)\n\\set timeout random(1, 40)\n$script{$name}\n");
	}
	# pgbench ends a client at its first error: many short runs
	my @runs;
	for my $round (1 .. 12)
	{
		for my $name (sort keys %script)
		{
			my ($in, $out) = ('', '');
			push @runs, IPC::Run::start([ 'pgbench', '-n', '-T', '2', '-f', $node->basedir . "/$am-$name.sql", '-h', $node->host, '-p', $node->port, 'postgres' ], '<', \$in, '>&', \$out);
		}
		if (@runs >= 12) { eval { IPC::Run::finish($_) } for @runs; @runs = (); }
	}
	eval { IPC::Run::finish($_) } for @runs;
	$works->('t_idx', "$am, cancelled statements of several clients");
}
log_ok($node);
$node->stop;
done_testing();
