# An insert that is stopped in the middle: VACUUM waits for it before it frees rows, and
# where it is killed instead, VACUUM removes what it has left of its vector.
use strict;
use warnings;

use AnnTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = ann_node('in_flight', 'autovacuum = off', 'restart_after_crash = on', 'max_wal_size = 4GB');
my $random = random_numbers(5);

# Vectors of 64 kB, in eight items each: with a short search writing them is most of an insert.
my $dim = 16000;
$node->safe_psql('postgres', "CREATE TABLE part (id int, v vector($dim)); ALTER TABLE part ALTER v SET STORAGE EXTERNAL;
	INSERT INTO part SELECT i, (SELECT array_agg(sin(i * j)) FROM generate_series(1, $dim) j)::vector FROM generate_series(1, 60) i");
$node->safe_psql(
	'postgres', "CREATE TABLE t (id int, v vector($dim));
	ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
	CREATE INDEX t_idx ON t USING hnsw (v vector_l2_ops) WITH (quantizer = none, refine_type = full, ef_construction = 4);
	INSERT INTO t SELECT id, v FROM part");

sub background
{
	my ($name, $sql) = @_;
	my $out = '';
	return IPC::Run::start([ 'psql', '-qAtX', '-d', $node->connstr('postgres') . " application_name=$name", '-c', $sql ], '<', \undef, '>&', \$out);
}

# The answer, or undef if there is none within seconds: a process that is stopped
# may hold what the query needs.
sub try_query
{
	my ($sql) = @_;
	my $timed_out = 0;
	my $out;
	$node->psql('postgres', $sql, stdout => \$out, timeout => 3, timed_out => \$timed_out);
	return $timed_out ? undef : $out;
}

sub orphans
{
	return $node->safe_psql('postgres', "SELECT value FROM ann_index_info('t_idx') WHERE name = 'vector items without a row'");
}

# A client that inserts row after row, each of another vector.  Returns it and its
# backend's pid.
my $inserts = 0;
sub inserter
{
	$inserts++;
	my $client = background('inserter',
		"INSERT INTO t SELECT 0, a.v + b.v + c.v FROM part c, part b, part a WHERE c.id = $inserts AND b.id > 0 AND a.id > 0");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'inserter' AND query LIKE '%INSERT%'") or die;
	return ($client, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = 'inserter'"));
}

# Stops the backend while it has the lock that VACUUM waits for.
sub stop_insert
{
	my ($pid) = @_;
	for my $attempt (1 .. 500)
	{
		usleep(1000 + int($random->() * 5000));
		kill('STOP', $pid) or die 'the insert has ended';
		my $held = try_query("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'page' AND page = 0 AND mode = 'ShareLock' AND granted");
		return if $held;
		kill('CONT', $pid);
	}
	die 'no insert could be stopped';
}

# VACUUM waits.
my $waited = 0;
my ($client, $pid);
for (1 .. 20)
{
	# Dead before the insert begins: its snapshot keeps what is deleted later.
	$node->safe_psql('postgres', 'DELETE FROM t WHERE ctid IN (SELECT ctid FROM t LIMIT 3)');
	($client, $pid) = inserter();
	stop_insert($pid);
	my $vacuum = background('vacuum', 'VACUUM t');
	for (1 .. 20)
	{
		$waited = try_query("SELECT count(*) FROM pg_locks WHERE locktype = 'page' AND page = 0 AND mode = 'ExclusiveLock' AND NOT granted");
		last if $waited || !defined $waited;
		usleep(100000);
	}
	kill('CONT', $pid);
	$vacuum->finish;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
	$client->finish;
	last if $waited;
	# Something else that the insert held was in its way.
}
ok($waited, 'VACUUM waits for an insert under way');
index_ok($node, 't_idx');
$node->safe_psql('postgres', 'VACUUM t');
is(orphans(), 0, 'every vector has its row');

# Killed: what has reached the log by then is there afterwards.
my $left = 0;
for (1 .. 40)
{
	($client, $pid) = inserter();
	stop_insert($pid);
	try_query('INSERT INTO part VALUES (0, NULL)');
	kill('KILL', $pid);
	$client->finish;
	$node->poll_query_until('postgres', 'SELECT true') or die;
	$left = orphans();
	last if $left > 0;
}
cmp_ok($left, '>', 0, 'an insert was killed between its vector and its row');
$node->safe_psql('postgres', 'VACUUM t');
is(orphans(), 0, 'VACUUM removes the vector');
index_ok($node, 't_idx');
is( $node->safe_psql('postgres', index_scan() . 'SELECT count(*) = (SELECT count(*) FROM t) FROM (SELECT 1 FROM t ORDER BY v <-> (SELECT v FROM part WHERE id = 1)) s'),
	't', 'no vector of a row is gone');
$node->stop;
done_testing();
