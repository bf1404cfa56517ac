# pg_stat_progress_create_index tells the phase of a build and how many rows it has dealt with;
# pg_stat_user_indexes counts scans and rows, those of AnnScan as those of index scans.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('progress', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_parallel_maintenance_workers = 0', 'max_parallel_workers_per_gather = 0');
my $count = 4000;
load_vectors($node, 't', 'vector(8)', random_vectors($count, 8, seed => 6));

# ---- Builds stop at a row of the table, each time they read it, until a lock is let go.

$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION gate(id int, v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF id = 3500 THEN
		PERFORM pg_advisory_lock(1);
		PERFORM pg_advisory_unlock(1);
		PERFORM pg_advisory_lock(2);
		PERFORM pg_advisory_unlock(2);
	END IF;
	RETURN v;
END $$;
SQL
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');

# The progress of the build, when it has come to the row.
my $progress = sub {
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted") or die 'the build does not come to the row';
	return split /\|/, $node->safe_psql('postgres', 'SELECT phase, tuples_total, tuples_done FROM pg_stat_progress_create_index');
};
# Lets it go on to where it reads the row again.
my $go_on = sub {
	$holder->query_safe('SELECT pg_advisory_lock(2); SELECT pg_advisory_unlock(1)');
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND NOT granted") or die 'the build does not go on';
	$holder->query_safe('SELECT pg_advisory_lock(1); SELECT pg_advisory_unlock(2)');
};
for my $kind ([ 'hnsw', 'building graph' ], [ 'ivfflat', 'assigning rows to lists' ])
{
	my ($am, $main_phase) = @$kind;
	my ($in, $out) = ('', '');
	my $build = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', "CREATE INDEX gated ON t USING $am ((gate(id, v)::vector(8)) vector_l2_ops)" ], '<', \$in, '>&', \$out);
	my ($phase, $total, $done) = $progress->();
	is($phase, 'building index: sampling table', "$am: the first phase");
	# It may read the table more than once for that.
	for (1 .. 4)
	{
		$go_on->();
		($phase, $total, $done) = $progress->();
		last if $phase !~ /sampling/;
	}
	is($phase, "building index: $main_phase", "$am: the next one that reads the table");
	cmp_ok(abs($total - $count), '<', 0.2 * $count, "$am: rows expected: $total");
	ok($done > 0 && $done <= 3500, "$am: rows done: $done");
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	ok($build->finish, "$am: built") or diag($out);
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_progress_create_index'), 0, "$am: no progress afterwards");
	# every number up to the last phase has a name
	is($node->safe_psql('postgres', "SELECT count(pg_indexam_progress_phasename(oid, n)) >= 6 AND max(n) FILTER (WHERE pg_indexam_progress_phasename(oid, n) IS NOT NULL) =
		count(pg_indexam_progress_phasename(oid, n)) FROM pg_am, generate_series(1, 30) n WHERE amname = '$am'"), 't', "$am: names of phases");
	$node->safe_psql('postgres', 'DROP INDEX gated');
	$holder->query_safe('SELECT pg_advisory_lock(1)');
}
$holder->query_safe('SELECT pg_advisory_unlock_all()');
$holder->quit;

# ---- Statistics

my $query = "(SELECT v FROM t WHERE id = 7)";
$node->safe_psql('postgres', 'ALTER TABLE t ADD c int, ADD d int; UPDATE t SET c = id % 8, d = id % 8; VACUUM FULL t; CREATE INDEX t_c ON t (c)');
for my $am ('hnsw', 'ivfflat')
{
	$node->safe_psql('postgres', "DROP INDEX IF EXISTS t_v; CREATE INDEX t_v ON t USING $am (v vector_l2_ops) INCLUDE (d); VACUUM ANALYZE t");
	for my $case (
		[ 'an index scan', 'true', index_scan(), qr/Index Scan using t_v/ ],
		[ 'AnnScan', 'd = 3', 'SET enable_seqscan = off; SET enable_sort = off; SET cpu_tuple_cost = 10;', qr/AnnScan.*Index Filter/s ],
		[ 'AnnScan within a bitmap', 'c = 3', 'SET enable_seqscan = off; SET enable_sort = off; SET cpu_tuple_cost = 10;', qr/AnnScan.*Bitmap Index Scan on t_c/s ])
	{
		my ($name, $where, $settings, $plan) = @$case;
		my $sql = "SELECT count(*) FROM (SELECT id FROM t WHERE $where ORDER BY v <-> $query LIMIT 20) s";
		like(plan_of($node, $sql, $settings), $plan, "$am, $name: the plan");
		my ($scans, $read, $fetched) = split /\|/, (split /\n/, $node->safe_psql('postgres', "
			SELECT pg_stat_reset_single_table_counters('t_v'::regclass);
			$settings $sql; $sql; $sql;
			SELECT pg_stat_force_next_flush();
			SELECT idx_scan, idx_tup_read, idx_tup_fetch FROM pg_stat_user_indexes WHERE indexrelname = 't_v'"))[-1];
		is($scans, 3, "$am, $name: scans");
		cmp_ok($read, '>=', 60, "$am, $name: rows read");
		# AnnScan may fetch a row twice: to test its filter, and when its turn comes
		ok($fetched >= 60 && $fetched <= 2 * $read, "$am, $name: rows fetched") or diag("$fetched of $read");
	}
}
log_ok($node);
$node->stop;
done_testing();
