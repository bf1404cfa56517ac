# Races of hnsw by name.  VACUUM is held between two of its steps while others insert what it is about to free, and
# replace entries; an insert is held between its search and its last edge while others insert beside
# it, extend the index and link the same neighbours.  Processes are held by signals where they hold no lock of a page.
use strict;
use warnings;

use AnnTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = ann_node('held', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_wal_size = 2GB');
my $random = random_numbers(38);
my $dim = 40;
load_vectors($node, 'base', "vector($dim)", random_vectors(1400, $dim, seed => 38));

sub info
{
	my ($index, $name) = @_;
	return $node->safe_psql('postgres', "SELECT value FROM ann_index_info('$index') WHERE name = '$name'");
}

# No defect, each row once, all in reach.
sub healthy
{
	my ($table, $order, $when) = @_;
	index_ok($node, "${table}_idx");
	is($node->safe_psql('postgres', index_scan() . "SELECT count(*) - (SELECT count(*) FROM $table), count(*) - count(DISTINCT id)
		FROM (SELECT id FROM $table ORDER BY v $order (SELECT v FROM base WHERE id = 5)) s"), '0|0', "$when: each row once");
	is(info("${table}_idx", 'rows out of reach'), 0, "$when: all rows in reach");
	return;
}

# The pages of entries.
sub entries
{
	my ($index) = @_;
	my $path = $node->safe_psql('postgres', "CHECKPOINT; SELECT pg_relation_filepath('$index')");
	return join('', grep { unpack('S', substr($_, 8192 - 4, 2)) == 3 } unpack('(a8192)*', slurp_file($node->data_dir . "/$path")));
}

# Holds VACUUM of a table in a nap, when all of its $dead rows are marked and none is free yet, up to $naps naps later.
# VACUUM naps before it looks at a page.  Returns false if it ended before.
sub hold_vacuum
{
	my ($pid, $index, $dead, $naps) = @_;
	for (1 .. 20000)
	{
		hold($node, $pid) or return 0;
		my $state = $node->safe_psql('postgres', "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid AND application_name = 'vacuum' AND state = 'active'");
		return 0 if $state eq '' && !$node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND application_name = 'vacuum' AND state = 'active'");
		return 1 if $state eq 'VacuumDelay' && info($index, 'dead rows') == $dead && $naps-- <= 0;
		release($pid);
		usleep(2000);
	}
	die 'VACUUM could not be held';
}

# ---- VACUUM is held

for my $case ([ 'coded', 'vector_l2_ops', '<->', '' ], [ 'plain', 'vector_l1_ops', '<+>', 'WITH (m = 6)' ], [ 'carded', 'vector_l2_ops', '<->', 'INCLUDE (id)' ])
{
	my ($table, $opclass, $operator, $with) = @$case;
	my ($held, $replaced) = (0, 0);
	for my $naps (0, 5, 20)
	{
		my $when = "$table, $naps naps";
		# A place goes, so that dead rows have dead neighbours.
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS $table, gone;
			CREATE TABLE $table AS SELECT id, v FROM base WHERE id < 600;
			CREATE INDEX ${table}_idx ON $table USING hnsw (v $opclass) $with;
			CREATE TABLE gone AS SELECT id, v FROM $table ORDER BY v <-> (SELECT v FROM base WHERE id = 700) LIMIT 80;
			DELETE FROM $table WHERE id IN (SELECT id FROM gone)");
		my ($vacuum, $out, $pid) = client($node, 'vacuum', '-c', 'SET vacuum_cost_limit = 1; SET vacuum_cost_delay = 1', '-c', "VACUUM (PARALLEL 0) $table");
		if (hold_vacuum($pid, "${table}_idx", 80, $naps))
		{
			$held++;
			my $before = entries("${table}_idx");
			# What VACUUM is about to free, near it, and elsewhere.
			$node->safe_psql('postgres', "INSERT INTO $table SELECT 10000 + id, v FROM gone;
				INSERT INTO $table SELECT 20000 + id, v * array_fill(0.9, ARRAY[$dim])::vector FROM gone;
				INSERT INTO $table SELECT 30000 + id, v FROM base WHERE id BETWEEN 700 AND 800");
			is(info("${table}_idx", 'dead rows'), 80, "$when: nothing was added to dead rows");
			$replaced++ if entries("${table}_idx") ne $before;
			is($node->safe_psql('postgres', index_scan() . "SELECT count(*) - (SELECT count(*) FROM $table), count(*) - count(DISTINCT id)
				FROM (SELECT id FROM $table ORDER BY v $operator (SELECT v FROM gone LIMIT 1)) s"), '0|0', "$when: each row once while VACUUM is held");
		}
		release($pid);
		$vacuum->finish;
		is($$out, '', "$when: VACUUM");
		is(info("${table}_idx", 'dead rows'), 0, "$when: dead rows are gone");
		healthy($table, $operator, $when);
	}
	cmp_ok($held, '>=', 2, "$table: VACUUM was held");
	cmp_ok($replaced, '>=', 2, "$table: entries were replaced meanwhile");
	$node->safe_psql('postgres', "DELETE FROM $table WHERE id % 3 = 0; VACUUM $table");
	healthy($table, $operator, "$table, in the end");
}

# ---- VACUUM is held while it repairs, an insert that began after that is held among its edges: both link the same rows

{
	my $both = 0;
	for my $try (1 .. 40)
	{
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS repaired;
			CREATE TABLE repaired AS SELECT id, v FROM base WHERE id < 400;
			CREATE INDEX repaired_idx ON repaired USING hnsw (v vector_l2_ops) WITH (m = 40, ef_construction = 300);
			DELETE FROM repaired WHERE id % 2 = 0");
		my ($vacuum, $out, $pid) = client($node, 'vacuum', '-c', 'SET vacuum_cost_limit = 10; SET vacuum_cost_delay = 1', '-c', 'VACUUM (PARALLEL 0) repaired');
		if (hold_vacuum($pid, 'repaired_idx', 200, 2 * ($try % 12)))
		{
			my ($insert, $said, $inserter) = client($node, 'insert', '-c', 'INSERT INTO repaired SELECT 1000 + id, v FROM base WHERE id >= 700');
			usleep(int($random->() * 100000));
			if (hold($node, $inserter))
			{
				my $at_work = $node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $inserter AND locktype = 'page' AND page = 0 AND mode = 'ShareLock' AND granted");
				release($pid);
				# It may have to wait for the insert; then it does not count.
				$both++ if ends($node, $vacuum, 'vacuum') && $at_work;
				release($inserter);
			}
			$insert->finish;
			is($$said, '', "try $try: the insert");
		}
		release($pid);
		$vacuum->finish;
		is($$out, '', "try $try: VACUUM");
		healthy('repaired', '<->', "try $try");
		last if $both >= 2;
	}
	cmp_ok($both, '>=', 1, 'VACUUM repaired beside an insert that was held');
}

# ---- An insert is held that may have found an equal row, which VACUUM marks dead meanwhile

{
	my ($held, $tries) = (0, 0);
	while ($held < 6 && $tries++ < 15)
	{
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS same;
			CREATE TABLE same AS SELECT id, v FROM base WHERE id < 600;
			CREATE INDEX same_idx ON same USING hnsw (v vector_l2_ops) WITH (m = 40, ef_construction = 1000);
			DELETE FROM same WHERE id % 2 = 0");
		my ($insert, $out, $pid) = client($node, 'insert', '-c', 'INSERT INTO same SELECT 1000 + id, v FROM base WHERE id < 600 AND id % 2 = 0');
		usleep(int($random->() * 50000));
		if (hold($node, $pid) && $node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'page' AND page = 0 AND mode = 'ShareLock' AND granted"))
		{
			my ($vacuum, $said) = client($node, 'vacuum', '-c', 'VACUUM (PARALLEL 0) same');
			$held++;
			# It marks rows, and waits for the insert, unless it has to wait for a page before.
			for (1 .. 40)
			{
				$vacuum->pump_nb if $vacuum->pumpable;
				last if !$vacuum->pumpable || $node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'page' AND page = 0 AND NOT granted AND mode = 'ExclusiveLock'");
				usleep(50000);
			}
			release($pid);
			$vacuum->finish;
			is($$said, '', "same, try $tries: VACUUM");
		}
		release($pid);
		$insert->finish;
		is($$out, '', "same, try $tries: the insert");
		healthy('same', '<->', "same, try $tries");
	}
	cmp_ok($held, '>=', 3, 'VACUUM began while an insert was held');
}

# ---- An insert is held

# With so wide a search and so many edges an insert takes long enough to be found at work.
for my $case ([ 'wide', 'vector_l2_ops', '<->', '' ], [ 'wide_plain', 'vector_l1_ops', '<+>', '' ])
{
	my ($table, $opclass, $operator) = @$case;
	my ($beside, $tries) = (0, 0);
	$node->safe_psql('postgres', "CREATE TABLE $table AS SELECT id, v FROM base; CREATE INDEX ${table}_idx ON $table USING hnsw (v $opclass) WITH (m = 60, ef_construction = 600)");
	my $pages = info("${table}_idx", 'pages');
	while ($beside < 10 && $tries++ < 40)
	{
		# All in one place, so that they choose the same neighbours, and each other.
		my $sql = "INSERT INTO $table SELECT 10000 + 1000 * $tries + i, (SELECT v FROM base WHERE id = 7) + (SELECT array_agg(random() + 0 * (i + j)) FROM generate_series(1, $dim) j)::vector
			FROM generate_series(1, 60) i";
		my ($insert, $out, $pid) = client($node, 'insert', '-c', $sql);
		usleep(int($random->() * 30000));
		if (hold($node, $pid))
		{
			my $other = '';
			my $at_work = $node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype = 'page' AND page = 0 AND mode = 'ShareLock' AND granted");
			my $second = IPC::Run::start([ 'psql', '-qAtX', '-d', $node->connstr('postgres'), '-c', $sql =~ s/10000 \+/100000 +/r =~ s/60\) i/4) i/r, '-c', "SELECT 'done'" ],
				'<', \undef, '>&', \$other, my $timer = IPC::Run::timer(5));
			# It may wait for a page that the first has locked; then it does not count.
			$second->pump_nb, usleep(5000) until $other ne '' || $timer->is_expired || !$second->pumpable;
			$beside++ if $at_work && $other eq "done\n";
			release($pid);
			$second->finish;
			is($other, "done\n", "$table, try $tries: the other insert");
		}
		$insert->finish;
		is($$out, '', "$table, try $tries: the insert");
	}
	cmp_ok($beside, '>=', 10, "$table: inserts ended while another one was held");
	cmp_ok(info("${table}_idx", 'pages'), '>', $pages, "$table: they extended the index");
	healthy($table, $operator, $table);
	$node->safe_psql('postgres', "DELETE FROM $table WHERE id % 2 = 0; VACUUM $table");
	healthy($table, $operator, "$table, after VACUUM");
}
log_ok($node);
$node->stop;
done_testing();
