# ivfflat: pages that a crash lost come back; a standby's scan of lists that were replaced ends well or
# says why not; inserts choose their list as the build does; squares of distances that overflow.
use strict;
use warnings;

use AnnTest;
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('ivfflat_upkeep');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', join("\n", 'autovacuum = off', 'wal_keep_size = 6GB', 'max_wal_size = 4GB', 'fsync = off', ''));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION ann');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('ivfflat_upkeep_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\nwal_receiver_status_interval = 1s\n");
$standby->start;

my $settings = index_scan();
my $dir = PostgreSQL::Test::Utils::tempdir();

sub info
{
	my ($index, $name) = @_;
	return $node->safe_psql('postgres', "SELECT value FROM ann_index_info('$index') WHERE name = '$name'");
}

my $dim = 32;
$node->safe_psql('postgres', <<"SQL");
SELECT setseed(0.5);
CREATE TABLE centre AS SELECT c, (array_agg(random() * 2 - 1))::real[]::vector($dim) AS v FROM generate_series(0, 99) c, generate_series(1, $dim) GROUP BY c;
CREATE TABLE stream AS SELECT id, ((array_agg(random() - 0.5))::real[]::vector + (SELECT v FROM centre WHERE c = id % 100))::vector($dim) AS v
	FROM generate_series(1, 16000) id, generate_series(1, $dim) GROUP BY id;
CREATE INDEX ON stream (id);
CREATE TABLE query AS SELECT row_number() OVER () AS q, v FROM stream WHERE id % 200 = 3;
SQL

# ---- Lost pages: what a crash leaves between the extension of an index and the record that links the page.

$node->safe_psql('postgres', 'CREATE TABLE crashed AS SELECT id, v FROM stream WHERE id <= 3000; CREATE INDEX ON crashed USING ivfflat (v)');
my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('crashed_v_idx')");
$node->stop;
append_to_file($path, "\0" x (8192 * 5));
$node->start;
is(info('crashed_v_idx', 'pages: unused'), 5, 'five pages are lost');
$node->safe_psql('postgres', 'DELETE FROM crashed WHERE id = 1; VACUUM (INDEX_CLEANUP ON) crashed');
is(info('crashed_v_idx', 'pages: unused'), '', 'VACUUM has found them');
is(info('crashed_v_idx', 'pages: FREE'), 5, 'they are free');
index_ok($node, 'crashed_v_idx');
my $size = $node->safe_psql('postgres', "SELECT pg_relation_size('crashed_v_idx')");
$node->safe_psql('postgres', 'INSERT INTO crashed SELECT id, v FROM stream WHERE id BETWEEN 3001 AND 3100');
is($node->safe_psql('postgres', "SELECT pg_relation_size('crashed_v_idx')"), $size, 'and used');
index_ok($node, 'crashed_v_idx');

# ---- A scan on the standby that began before its lists were replaced.

# Begins a scan on the standby, which goes on when told to; returns a function that does that and gives
# what psql wrote.
sub scan_on_standby
{
	my ($table) = @_;
	my ($ready, $go) = ("$dir/ready", "$dir/go");
	unlink $ready, $go;
	my ($out, $err) = ('', '');
	my $sql = <<"SQL";
$settings
BEGIN ISOLATION LEVEL REPEATABLE READ;
DECLARE c CURSOR FOR SELECT id FROM $table ORDER BY v <-> (SELECT v FROM query WHERE q = 1);
FETCH 3 FROM c \\g /dev/null
\\! touch $ready
\\! for i in \$(seq 1800); do [ -e $go ] && break; sleep 0.1; done
FETCH ALL FROM c;
SQL
	unlink "$dir/scan.sql";
	append_to_file("$dir/scan.sql", $sql);
	my $run = IPC::Run::start([ 'psql', '-XqAt', '-d', $standby->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-f', "$dir/scan.sql" ], \undef, \$out, \$err);
	for (1 .. 1800)
	{
		last if -e $ready;
		select(undef, undef, undef, 0.1);
	}
	return sub {
		append_to_file($go, '');
		$run->finish;
		my %seen;
		$seen{$_}++ for split /\n/, $out;
		return (scalar(keys %seen), max(values %seen, 0), $err);
	};
}

sub vacuum_and_replay
{
	my ($table) = @_;
	# What is older than the exchange is past with the next transaction.
	$node->safe_psql('postgres', 'SELECT txid_current()') for 1 .. 2;
	$node->safe_psql('postgres', "VACUUM $table");
	$node->safe_psql('postgres', 'SELECT txid_current()') for 1 .. 2;
	$node->wait_for_catchup($standby);
	return;
}

for my $how ('whole', 'group')
{
	my $n = 6000;
	# All lists are made anew at a doubling, a group where rows come to one place.
	my $more = $how eq 'whole' ? "id > $n AND id <= 2 * $n + 2000" : "id > $n AND id <= 2 * $n - 1000 AND id % 5 = 0";
	for my $case ('replaced', 'freed', 'kept by hot_standby_feedback')
	{
		my $table = "${how}_" . substr($case, 0, 4);
		my $feedback = $case =~ /feedback/ ? 'on' : 'off';
		$standby->safe_psql('postgres', "ALTER SYSTEM SET hot_standby_feedback = $feedback");
		$standby->reload;
		$node->safe_psql('postgres', "CREATE TABLE $table AS SELECT id, v FROM stream WHERE id <= $n;
			CREATE INDEX ${table}_idx ON $table USING ivfflat (v) WITH (lists = 60)");
		if ($how eq 'whole') { $node->safe_psql('postgres', "INSERT INTO $table SELECT id, v FROM stream WHERE $more"); }
		else { $node->safe_psql('postgres', "INSERT INTO $table SELECT 100000 + g, (SELECT v FROM stream WHERE id = 9) + l2_normalize(s.v) FROM generate_series(1, 1200) g, LATERAL (SELECT v FROM stream WHERE id = g) s"); }
		my $rows = $node->safe_psql('postgres', "SELECT count(*) FROM $table");
		$node->wait_for_catchup($standby);
		my $finish = scan_on_standby($table);
		# The standby's horizon has arrived where there is one.
		$node->poll_query_until('postgres', 'SELECT backend_xmin IS NOT NULL FROM pg_stat_replication') if $feedback eq 'on';
		my (undef, undef, $message) = $node->psql('postgres', "SET client_min_messages = debug1; VACUUM $table");
		like($message, $how eq 'whole' ? qr/, 0 of them kept/ : qr/, [1-9]\d* of them kept/, "$how, $case: lists were made anew");
		vacuum_and_replay($table) if $case ne 'replaced';
		$node->wait_for_catchup($standby);
		is(info("${table}_idx", 'other lists') eq '', $case eq 'freed', "$how, $case: replaced lists are " . ($case eq 'freed' ? 'gone' : 'there'));
		my ($distinct, $most, $err) = $finish->();
		if ($case eq 'freed')
		{
			like($err, qr/40001.*were removed while they were scanned/, "$how, $case: the scan says what happened");
		}
		else
		{
			is($err, '', "$how, $case: no error");
			# Three were fetched before
			is("$distinct $most", ($rows - 3) . ' 1', "$how, $case: the rest of the rows, once each");
		}
		is($standby->safe_psql('postgres', "$settings SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM $table ORDER BY v <-> (SELECT v FROM query WHERE q = 2)) s"),
			"$rows|$rows", "$how, $case: the next scan");
	}
}

# ---- After the build a row goes to the list that the build would have chosen: that of a row of the same direction.

for my $case ([ 'vector_cosine_ops', '<=>' ], [ 'vector_ip_ops', '<#>' ])
{
	my ($ops, $op) = @$case;
	$node->safe_psql('postgres', <<"SQL");
DROP TABLE IF EXISTS long;
CREATE TABLE long AS SELECT id, (v * array_fill(2 ^ (id % 7 - 3), ARRAY[$dim])::vector)::vector($dim) AS v FROM stream WHERE id <= 3000;
CREATE INDEX ON long USING ivfflat (v $ops) WITH (lists = 30);
INSERT INTO long SELECT id + 100000, v * array_fill(2 ^ (id % 5 + 1), ARRAY[$dim])::vector FROM long WHERE id % 3 = 0;
SQL
	is($node->safe_psql('postgres', "$settings SET ivfflat.iterative_scan = off; SET ivfflat.probes = 1;
		SELECT count(*) > 100, count(*) FILTER (WHERE n <> 2)
		FROM (SELECT q.q, s.id % 100000 AS id, count(*) AS n FROM query q, LATERAL (SELECT id FROM long ORDER BY v $op q.v) s WHERE s.id % 100000 % 3 = 0 GROUP BY 1, 2) p"),
		't|0', "$ops: inserted rows are in the lists of rows of their direction");
}

# ---- Rows so long that the square of their distance from the centroid overflows a float, but not that from the query.

$node->safe_psql('postgres', <<"SQL");
CREATE TABLE far AS SELECT id, (l2_normalize(v - (SELECT v FROM centre WHERE c = id % 97)) * array_fill(1.7e19 + id * 1e15, ARRAY[$dim])::vector)::vector($dim) AS v
	FROM stream WHERE id <= 2500;
CREATE TABLE farquery AS SELECT id AS q, (v * array_fill(0.4, ARRAY[$dim])::vector)::vector($dim) AS v FROM far WHERE id % 125 = 0;
CREATE INDEX ON far USING ivfflat (v) WITH (lists = 1);
SQL
is($node->safe_psql('postgres', "$settings SET ivfflat.iterative_scan = off;
	SELECT count(*), count(*) FILTER (WHERE d < previous), count(*) FILTER (WHERE d < 'Infinity' AND id > 1450) > 1000
	FROM (SELECT q, id, d, lag(d) OVER (PARTITION BY q ORDER BY n) AS previous
		FROM (SELECT q.q, s.id, s.d, row_number() OVER () AS n FROM farquery q, LATERAL (SELECT f.id, f.v <-> q.v AS d FROM far f ORDER BY f.v <-> q.v) s) o) o"),
	'50000|0|t', 'squares that overflow: the order is right');

# ---- All lists at once in little memory: every row comes, and what waits is not in memory.  The order is exact
# but for the few rows of which the codes promised too much (a bound that holds with high probability).

for my $options ('lists = 40', 'lists = 40, quantizer = none')
{
	my $late = $options =~ /none/ ? 0 : 10;
	for my $iterative ('off', 'strict_order')
	{
		my $answer = $node->safe_psql('postgres', <<"SQL");
CREATE INDEX spill_idx ON stream USING ivfflat (v) WITH ($options);
$settings
SET work_mem = '64kB';
SET ivfflat.probes = 40;
SET ivfflat.iterative_scan = $iterative;
BEGIN;
DECLARE c CURSOR FOR SELECT v <-> (SELECT v FROM query WHERE q = 3) AS d FROM stream ORDER BY v <-> (SELECT v FROM query WHERE q = 3);
FETCH 10 FROM c \\g /dev/null
SELECT sum(total_bytes) < 250000 FROM pg_backend_memory_contexts WHERE name = 'ann ivfflat scan arrays';
END;
CREATE TEMP TABLE got AS SELECT row_number() OVER () AS n, d FROM (SELECT v <-> (SELECT v FROM query WHERE q = 3) AS d FROM stream ORDER BY v <-> (SELECT v FROM query WHERE q = 3)) s;
DROP INDEX spill_idx;
SELECT count(*) <= $late FROM (SELECT d < lag(d) OVER (ORDER BY n) AS late FROM got) l WHERE late;
SELECT count(*), count(*) FILTER (WHERE got.d <> exact.d)
	FROM (SELECT row_number() OVER (ORDER BY d) AS n, d FROM got) got FULL JOIN (SELECT row_number() OVER (ORDER BY d) AS n, d FROM (SELECT v <-> (SELECT v FROM query WHERE q = 3) AS d FROM stream OFFSET 0) s) exact USING (n);
SQL
		is($answer, "t\nt\n16000|0", "$options, iterative_scan = $iterative: all lists in little memory");
	}
}

log_ok($node);
log_ok($standby);
$standby->stop;

# VACUUM writes the pages that held dead rows, the meta page and at most one of heads: no vectors, and no
# page of a clean list.
{
	$node->safe_psql('postgres', 'CREATE TABLE clean AS SELECT * FROM stream; CREATE INDEX clean_v_idx ON clean USING ivfflat (v) WITH (lists = 80); VACUUM clean');
	my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('clean_v_idx')");
	my $pages = sub { $node->safe_psql('postgres', 'CHECKPOINT'); return unpack('(a8192)*', slurp_file($path)); };
	$node->safe_psql('postgres', "$settings SET ivfflat.probes = 1; SET ivfflat.iterative_scan = off;
		CREATE TABLE gone AS SELECT ctid AS tid FROM clean ORDER BY v <-> (SELECT v FROM query WHERE q = 5)");
	my $gone = $node->safe_psql('postgres', 'SELECT count(*) FROM gone');
	my @before = $pages->();
	$node->safe_psql('postgres', 'DELETE FROM clean WHERE ctid IN (SELECT tid FROM gone); VACUUM (INDEX_CLEANUP on) clean');
	my @after = $pages->();
	is(scalar @after, scalar @before, 'VACUUM of one list: as many pages');
	my @changed = grep { $before[$_] ne $after[$_] } 0 .. $#before;
	# An entry of such a vector has 36 bytes.
	my $most = 2 + 1 + int($gone / 200);
	cmp_ok(scalar @changed, '>=', 1, "VACUUM of one list of $gone rows writes something");
	cmp_ok(scalar @changed, '<=', $most, 'VACUUM of one list of ' . $gone . ' rows of ' . @before . " pages writes no others: @changed");
	index_ok($node, 'clean_v_idx');
}

$node->stop;
done_testing();
