# A crash between any two WAL records of an insert, of VACUUM and of new lists: recovery that ends behind
# such a record finds an index without defects, which returns each row once, takes more rows, and
# is as if nothing had happened after the next VACUUM.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('records');
$node->init(allows_streaming => 1, extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', join("\n", 'autovacuum = off', 'fsync = off', 'wal_keep_size = 1GB', 'max_wal_size = 1GB', ''));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION ann');
my $dim = 40;
load_vectors($node, 'base', "vector($dim)", random_vectors(1600, $dim, seed => 36));

# Few edges, so that new ones take the places of others; TID nodes; vectors on pages of their own; cards; pages of
# lists that fill and empty; lists that are made anew.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE edges AS SELECT id, v FROM base WHERE id < 400;
CREATE INDEX edges_idx ON edges USING hnsw (v vector_l2_ops) INCLUDE (id) WITH (m = 4);
CREATE TABLE equal AS SELECT id, CASE WHEN id < 3 THEN (SELECT v FROM base WHERE id = 0) ELSE v END AS v FROM base WHERE id < 300;
CREATE INDEX equal_idx ON equal USING hnsw (v vector_l1_ops) WITH (m = 4);
CREATE TABLE wide (id int, v vector(6000));
INSERT INTO wide SELECT i, (SELECT array_agg(sin(i * j)) FROM generate_series(1, 6000) j)::vector FROM generate_series(1, 40) i;
CREATE INDEX wide_idx ON wide USING hnsw (v vector_l2_ops) WITH (quantizer = none, refine_type = full);
CREATE TABLE pages AS SELECT id, v FROM base WHERE id < 400;
CREATE INDEX pages_idx ON pages USING ivfflat (v vector_l2_ops) INCLUDE (id) WITH (lists = 2);
CREATE TABLE lists AS SELECT id, v FROM base WHERE id < 400;
CREATE INDEX lists_idx ON lists USING ivfflat (v vector_cosine_ops) WITH (lists = 8);
VACUUM;
SQL
$node->backup('before');

# What is done to a table, and after how many of its records at the most the server is to have crashed.
my @steps = (
	[ 'insert', 'edges', 7, 'INSERT INTO edges SELECT 5000, v FROM base WHERE id = 1000' ],
	[ 'an equal vector', 'equal', 3, 'INSERT INTO equal SELECT 5000 + id, (SELECT v FROM base WHERE id = 0) FROM base WHERE id < 2' ],
	[ 'a long vector', 'wide', 4, 'INSERT INTO wide SELECT 5000, v + v FROM wide WHERE id = 7' ],
	[ 'VACUUM of edges and cards', 'edges', 7, 'DELETE FROM edges WHERE id BETWEEN 40 AND 90; VACUUM edges' ],
	[ 'VACUUM of TID nodes', 'equal', 4, 'DELETE FROM equal WHERE id < 3 OR id >= 5000; VACUUM equal' ],
	[ 'VACUUM of long vectors', 'wide', 3, 'DELETE FROM wide WHERE id IN (3, 4); VACUUM wide' ],
	[ 'inserts that append pages', 'pages', 4, 'INSERT INTO pages SELECT 5000 + id, v FROM base WHERE id > 1200' ],
	[ 'VACUUM of whole pages', 'pages', 4, 'DELETE FROM pages WHERE id > 20; VACUUM pages' ],
	[ 'pages used again', 'pages', 3, 'INSERT INTO pages SELECT 6000 + id, v FROM base WHERE id BETWEEN 800 AND 900' ],
	[ 'new lists', 'lists', 7, 'INSERT INTO lists SELECT 5000 + id, v FROM base WHERE id > 400; VACUUM lists' ],
	[ 'old lists freed', 'lists', 5, 'SELECT txid_current(); SELECT txid_current(); DELETE FROM lists WHERE id = 3; VACUUM lists' ]);
my @crashes;
for my $step (@steps)
{
	my ($name, $table, $most, $sql) = @$step;
	my $from = $node->safe_psql('postgres', 'SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_current_wal_insert_lsn()');
	$from =~ s/.*\n//s;
	$node->safe_psql('postgres', $_) for split /; /, $sql;
	my $to = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	my ($dump, $err) = run_command([ 'pg_waldump', '--path', $node->data_dir . '/pg_wal', '--rmgr=Generic', '--start', $from, '--end', $to ]);
	my @records = $dump =~ /\blsn: ([0-9A-F]+\/[0-9A-F]+)/g;
	cmp_ok(scalar @records, '>', 1, "$name: several records") or diag($err);
	# Spread over all of them, the first and the last but one (behind which nothing is missing) included.
	my $last = $#records - 1;
	my $n = $last < $most - 1 ? $last : $most - 1;
	my %at = map { ($n > 0 ? int($_ * $last / $n + 0.5) : 0) => 1 } 0 .. $n;
	push @crashes, [ "$table, $name, record " . ($_ + 1) . ' of ' . @records, $table, $records[$_] ] for sort { $a <=> $b } keys %at;
}

# Each row once, as one statement.
sub each_once
{
	my ($table) = @_;
	my $op = $table eq 'equal' ? '<+>' : $table eq 'lists' ? '<=>' : '<->';
	return index_scan() . "SELECT count(*) = (SELECT count(*) FROM $table), count(*) = count(DISTINCT id)
		FROM (SELECT id FROM $table ORDER BY v $op (SELECT v FROM $table WHERE id = 5)) s;";
}

# The row of an insert that the crash has cut off may be out of reach until VACUUM has removed it.
my $defects = "SELECT coalesce(string_agg(defect, E'\n') FILTER (WHERE defect !~ '^1 of \\d+ rows cannot be reached'), '') FROM ann_index_check(";
my $leftovers = "name IN ('rows out of reach', 'vector items without a row', 'pages: unused') AND value <> '0'";

my $nth = 0;
for my $crash (@crashes)
{
	my ($name, $table, $lsn) = @$crash;
	my $server = PostgreSQL::Test::Cluster->new('crash_' . ++$nth);
	$server->init_from_backup($node, 'before', has_streaming => 1);
	$server->append_conf('postgresql.conf', "recovery_target_lsn = '$lsn'\nrecovery_target_action = 'promote'\n");
	$server->start;
	$server->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
	is($server->safe_psql('postgres', "$defects'${table}_idx', true);" . each_once($table)), "\nt|t", "$name: no defect, each row once");
	# Everybody goes on.
	my $more = $table eq 'wide' ? 'SELECT 9000 + id, v * v FROM wide WHERE id BETWEEN 20 AND 24' : 'SELECT 9000 + id, v FROM base WHERE id BETWEEN 1100 AND 1110';
	$server->safe_psql('postgres', "INSERT INTO $table $more");
	$server->safe_psql('postgres', "DELETE FROM $table WHERE id IN (9, 9001)");
	$server->safe_psql('postgres', "VACUUM (INDEX_CLEANUP ON) $table");
	index_ok($server, "${table}_idx");
	is($server->safe_psql('postgres', each_once($table) . "SELECT name, value FROM ann_index_info('${table}_idx') WHERE $leftovers"), 't|t', "$name: after VACUUM as if nothing had been");
	log_ok($server);
	$server->stop('immediate');
	$server->clean_node;
}
$node->stop;
done_testing();
