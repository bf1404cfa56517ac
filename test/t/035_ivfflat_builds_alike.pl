# An ivfflat index is the same whoever builds it: one process or several, with room for all rows or with
# runs in temporary files; and errors and cancellation in the midst of it leave nothing behind.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('ivfflat_builds', 'autovacuum = off', 'min_parallel_table_scan_size = 0', 'log_temp_files = 0',
	'max_worker_processes = 16', 'max_parallel_workers = 8');

# 12,000 rows of 256 dimensions around 30 centres, with NULLs; the index needs twice the least memory of a build.
$node->safe_psql(
	'postgres', q{
	SELECT setseed(0.5);
	CREATE TABLE centre AS SELECT c, array_agg(random() * 2 - 1) AS a FROM generate_series(0, 29) c, generate_series(1, 256) GROUP BY c;
	CREATE TABLE noise AS SELECT i, array_agg(random() - 0.5) AS a FROM generate_series(0, 399) i, generate_series(1, 256) GROUP BY i;
	CREATE TABLE t (id int, tag int, v vector(256));
	INSERT INTO t SELECT row_number() OVER () - 1, i % 7, CASE WHEN (i + c) % 50 <> 0 THEN
			(SELECT array_agg(x + y ORDER BY k) FROM unnest(centre.a, noise.a) WITH ORDINALITY u (x, y, k))::real[]::vector END
		FROM noise, centre ORDER BY (i * 7919 + c * 104729) % 12007, i, c;
	CREATE TABLE q AS SELECT id, v FROM t WHERE id % 300 = 5 AND v IS NOT NULL;
	ANALYZE t;
});
my $count = $node->safe_psql('postgres', 'SELECT count(*) FROM t');

# Whether a worker wrote rows that the leader was to read, since the log was $at long.
sub worker_had_rows
{
	my ($at) = @_;
	return slurp_file($node->logfile, $at) =~ m{temporary file: path "[^"]*/p[1-9]\d*\.\d+};
}

# What each query finds in its nearest list, and how many rows there are at all.
sub answers
{
	return $node->safe_psql(
		'postgres', q{
		SET enable_seqscan = off; SET enable_sort = off; SET ivfflat.probes = 1;
		SELECT string_agg(ids, ';' ORDER BY id) FROM (SELECT q.id, (SELECT string_agg(id::text, ',') FROM
			(SELECT id FROM t ORDER BY t.v <-> q.v LIMIT 20) n) AS ids FROM q) s;
		SELECT count(*) FROM (SELECT id FROM t ORDER BY v <-> (SELECT v FROM q LIMIT 1)) s});
}

sub build
{
	my ($memory, $workers, $more) = @_;
	return 'SET maintenance_work_mem = ' . "'$memory'; SET max_parallel_maintenance_workers = $workers; " . ($more // '') .
		'; CREATE INDEX t_idx ON t USING ivfflat (v vector_l2_ops) INCLUDE (tag) WITH (lists = 30)';
}

sub no_temporary_files
{
	my ($what) = @_;
	my @left = grep { !/^\.\.?$/ } slurp_dir($node->data_dir . '/base/pgsql_tmp');
	is("@left", '', "$what: no temporary files");
	return;
}

mkdir $node->data_dir . '/base/pgsql_tmp';
my $want;
for my $case (
	[ 'one process, all in memory', '512MB', 0 ],
	[ 'one process, runs', '4MB', 0 ],
	[ 'a worker', '64MB', 1 ],
	[ 'four workers', '512MB', 4 ],
	[ 'no workers to be had', '512MB', 4, 'SET max_parallel_workers = 0' ])
{
	my ($what, $memory, $workers, $more) = @$case;
	my $at;
	# Workers may come too late to have any rows.
	for my $try (1 .. 50)
	{
		$at = -s $node->logfile;
		$node->safe_psql('postgres', 'DROP INDEX IF EXISTS t_idx; ' . build($memory, $workers, $more));
		last if $workers == 0 || $more || worker_had_rows($at);
	}
	is(worker_had_rows($at) ? 1 : 0, $workers > 0 && !$more ? 1 : 0, "$what: who had rows");
	if ($what eq 'one process, runs')
	{
		my @runs = slurp_file($node->logfile, $at) =~ /temporary file: path/g;
		cmp_ok(scalar @runs, '>=', 2, "$what: several");
	}
	index_ok($node, 't_idx');
	my $got = answers();
	$want //= $got;
	is($got, $want, "$what: the same rows in the same lists");
	like($got, qr/^$count$/m, "$what: all rows");
	no_temporary_files($what);
}

# A row that a worker cannot handle.  Where all workers come too late there is no error: once more.
$node->safe_psql(
	'postgres', q{
	DROP INDEX t_idx;
	CREATE FUNCTION in_leader(v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
	BEGIN
		IF (SELECT backend_type = 'parallel worker' FROM pg_stat_get_activity(pg_backend_pid())) THEN
			RAISE EXCEPTION 'not in a worker';
		END IF;
		RETURN v;
	END $$});
my $error = '';
for my $try (1 .. 50)
{
	$node->psql('postgres',
		"SET maintenance_work_mem = '512MB'; SET max_parallel_maintenance_workers = 4;
		CREATE INDEX t_idx ON t USING ivfflat ((in_leader(v)::vector(256)) vector_l2_ops) WITH (lists = 30); DROP INDEX t_idx",
		stderr => \$error);
	last if $error ne '';
}
like($error, qr/ERROR:  not in a worker/, 'an error in a worker is the build\'s');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname = 't_idx'"), '0', 'an error in a worker: no index');
no_temporary_files('an error in a worker');

# Cancelled at any time: later and later, until it ends in time.
my ($cancelled, $milliseconds) = (0, 10);
for (; $milliseconds < 300000; $milliseconds = int($milliseconds * 1.3))
{
	my $stderr = '';
	$node->psql('postgres', "SET statement_timeout = $milliseconds; " . build('512MB', 3), stderr => \$stderr);
	last if $stderr !~ /statement timeout/;
	$cancelled++;
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname = 't_idx'"), '0', "cancelled after $milliseconds ms: no index");
	no_temporary_files("cancelled after $milliseconds ms");
}
cmp_ok($cancelled, '>', 0, 'builds were cancelled');
is(answers(), $want, 'the one that ended: the same rows in the same lists');
index_ok($node, 't_idx');

log_ok($node);
$node->stop;
done_testing();
