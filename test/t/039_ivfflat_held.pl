# Sessions at work on ivfflat are held while others change what they are at.  A scan within a list, by a signal, while VACUUM
# takes the list's pages away and inserts use them again behind it: it returns the rows of its snapshot, each once.  Inserts
# that have chosen their lists, by the hash function of an included column, while VACUUM exchanges all lists: they choose again.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = ann_node('ivf_held', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_wal_size = 2GB', 'max_connections = 40');
my $random = random_numbers(39);
my $dim = 32;
load_vectors($node, 'base', "vector($dim)", random_vectors(4000, $dim, seed => 39));

# Stops a backend where it looks for interrupts, which it does only without locks: in the midst of writing what memory it uses to
# the log, when it has been asked for that.  False if it has ended.
sub hold_without_locks
{
	my ($pid) = @_;
	for (1 .. 50)
	{
		my $offset = -s $node->logfile;
		hold($node, $pid) or return 0;
		$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
		release($pid);
		usleep(50) until slurp_file($node->logfile, $offset) =~ /logging memory contexts of PID $pid\b/ || !kill(0, $pid);
		kill('STOP', $pid) or return 0;
		return 1 if slurp_file($node->logfile, $offset) !~ /Grand total:/;
		release($pid);
	}
	return 0;
}

# All rows of a long list are dead but the first and the last: these are missed by a scan that follows a page to where it is used
# again.  A scan looks for interrupts at each page.
$node->safe_psql('postgres', 'CREATE TABLE short AS SELECT id, subvector(v, 1, 8)::vector(8) AS v FROM base;
	CREATE TABLE near AS SELECT * FROM short WHERE id < 40 OR id >= 3960; ANALYZE near');
my $nearest = "SELECT DISTINCT n, d, found FROM (SELECT count(*) AS n, count(DISTINCT s.id) AS d, bool_or(s.id = q.id) AS found
	FROM generate_series(1, 600) i, near q, LATERAL (SELECT id FROM TABLE ORDER BY v <-> q.v LIMIT 1) s GROUP BY i, q.id) a";
my $all = "SELECT DISTINCT n, d, found FROM generate_series(1, 8) i, near q, LATERAL (SELECT count(*) AS n, count(DISTINCT id) AS d, bool_or(true) AS found
	FROM (SELECT id FROM TABLE ORDER BY v <-> q.v) s) a";
for my $case (
	[ 'plain', 1, 'v', 'quantizer = none', $nearest, 1 ],
	[ 'coded', 1, 'v', 'quantizer = rabitq', $nearest, 1 ],
	[ 'missing', 8, 'NULL::vector(8)', 'quantizer = none', $all, 80 * 8 ])
{
	my ($table, $times, $value, $options, $sql, $rows) = @$case;
	my ($within, $tries) = (0, 0);
	while ($within < 12 && $tries++ < 30)
	{
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS $table;
			CREATE TABLE $table AS SELECT id + 20000 * (i - 1) AS id, id::bigint AS a, id::bigint AS b, id::bigint AS c, id::bigint AS d, $value AS v FROM short, generate_series(1, $times) i;
			CREATE INDEX ${table}_idx ON $table USING ivfflat (v) INCLUDE (id, a, b, c, d) WITH (lists = 1, $options);
			DELETE FROM $table WHERE a >= 40 AND a < 3960");
		# One snapshot, taken before the statement that is held; every rescan has to find the same rows.
		my ($scan, $out, $pid) = client($node, 'scan', '-c', index_scan(), '-c', 'BEGIN ISOLATION LEVEL REPEATABLE READ', '-c', 'TABLE pg_am LIMIT 0', '-c', $sql =~ s/TABLE/$table/r);
		usleep(int($random->() * 50000));
		my $held = hold_without_locks($pid);
		# Pages of entries and of vectors are used again in turn, the other way round: NULLs take one, so that each becomes what it was.
		my ($vacuum, $said) = client($node, 'vacuum', '-c', "VACUUM (PARALLEL 0, INDEX_CLEANUP ON) $table",
			'-c', "INSERT INTO $table SELECT 500000 + i, 0, 0, 0, 0, NULL FROM generate_series(1, 2000) i",
			'-c', "INSERT INTO $table SELECT 10000 + id, 0, 0, 0, 0, $value FROM short, generate_series(1, $times) i WHERE id < 3800");
		my $done = ends($node, $vacuum, 'vacuum') && $held;
		release($pid);
		$vacuum->finish;
		$scan->finish;
		$within++ if $done;
		is($$said, '', "$table, try $tries: VACUUM and inserts");
		is($$out, "$rows|$rows|t\n", "$table, try $tries: each rescan has the rows of its snapshot once");
	}
	cmp_ok($within, '>=', 3, "$table: VACUUM and inserts ended while the scan was held");
	index_ok($node, "${table}_idx");
}

# Of clients of these names, how many wait for the advisory lock.
sub waiting
{
	my ($names) = @_;
	return "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '$names' AND wait_event = 'advisory'";
}

# Where held.look is set, hashing makes the backend know the newest lists.
$node->safe_psql('postgres', q{
	CREATE TYPE held AS ENUM ('one');
	CREATE FUNCTION held_equals(held, held) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2::text';
	CREATE OPERATOR === (LEFTARG = held, RIGHTARG = held, FUNCTION = held_equals);
	CREATE FUNCTION held_hash(held) RETURNS integer LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock_shared(39);
		IF current_setting('held.look', true) = 'on' THEN
			PERFORM id FROM target ORDER BY v <-> (SELECT v FROM base WHERE id = 0) LIMIT 1;
		END IF;
		RETURN 1;
	END $$;
	CREATE OPERATOR CLASS held_ops DEFAULT FOR TYPE held USING hash AS OPERATOR 1 ===, FUNCTION 1 held_hash(held)});
for my $look ('off', 'on')
{
	$node->safe_psql('postgres', "DROP TABLE IF EXISTS target;
		CREATE TABLE target AS SELECT id, v, 'one'::held AS h FROM base WHERE id < 1000;
		SET max_parallel_maintenance_workers = 0;
		CREATE INDEX target_idx ON target USING ivfflat (v) INCLUDE (h) WITH (lists = 20, quantizer = rabitq);
		INSERT INTO target SELECT id, v, 'one' FROM base WHERE id BETWEEN 1000 AND 3000");
	my $made = "SELECT value FROM ann_index_info('target_idx') WHERE name = 'rows when all lists were made'";
	is($node->safe_psql('postgres', $made), 1000, "look $look: lists of the build");
	my $holder = $node->background_psql('postgres');
	answer($holder, 'SELECT pg_advisory_lock(39)');
	my @rows = (3100 .. 3107);
	my @inserts = map { [ client($node, "insert$_", '-c', index_scan() . "SET held.look = $look", '-c', "INSERT INTO target SELECT id, v, 'one' FROM base WHERE id = $_") ] } @rows;
	ok($node->poll_query_until('postgres', waiting('^insert'), scalar @rows), "look $look: inserts are held");
	$node->safe_psql('postgres', 'VACUUM (PARALLEL 0) target');
	is($node->safe_psql('postgres', $made), 3001, "look $look: all lists were exchanged");
	is($node->safe_psql('postgres', waiting('^insert')), scalar @rows, "look $look: inserts are still held");
	answer($holder, 'SELECT pg_advisory_unlock(39)');
	for (@inserts)
	{
		$_->[0]->finish;
		is(${ $_->[1] }, '', "look $look: an insert");
	}
	$holder->quit;
	# A row is the nearest one to its vector, and in the list that is nearest to it.
	is( $node->safe_psql('postgres', index_scan() . "SET ivfflat.probes = 1; SET ivfflat.iterative_scan = off; SELECT string_agg(id::text, ' ' ORDER BY id) FROM base b
			WHERE id BETWEEN $rows[0] AND $rows[-1] AND id = (SELECT id FROM target ORDER BY v <-> b.v LIMIT 1)"),
		"@rows", "look $look: each row is in the list that is nearest to it");
	index_ok($node, 'target_idx');
}

log_ok($node);
$node->stop;
done_testing();
