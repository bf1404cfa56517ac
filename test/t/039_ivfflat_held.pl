# A scan of ivfflat is held within a list, by a signal, while VACUUM takes the list's pages away and inserts use them again
# behind it: it returns the rows of its snapshot, each once.
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

# Whether a client ends within so many seconds.
sub ends
{
	my ($run, $seconds) = @_;
	for (1 .. $seconds * 200)
	{
		return 1 if !$run->pumpable;
		$run->pump_nb;
		usleep(5000);
	}
	return 0;
}

for my $case ([ 'plain', 'quantizer = none' ], [ 'coded', 'quantizer = rabitq' ])
{
	my ($table, $options) = @$case;
	my ($within, $tries) = (0, 0);
	while ($within < 6 && $tries++ < 15)
	{
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS $table;
			CREATE TABLE $table AS SELECT id, v FROM base;
			CREATE INDEX ${table}_idx ON $table USING ivfflat (v) WITH (lists = 1, $options);
			DELETE FROM $table WHERE id BETWEEN 400 AND 3600");
		# One statement, hence one snapshot; every rescan has to find the same rows.
		my ($scan, $out, $pid) = client($node, 'scan', '-c', index_scan(), '-c', "SELECT DISTINCT n, d FROM generate_series(1, 600) i,
			LATERAL (SELECT count(*) AS n, count(DISTINCT id) AS d FROM (SELECT id FROM $table ORDER BY v <-> (SELECT v FROM base WHERE id = i)) s) c");
		usleep(20000 + int($random->() * 100000));
		hold($pid);
		# They may need a page that the scan has locked; then they do not count.
		my ($vacuum, $said) = client($node, 'vacuum', '-c', "VACUUM (PARALLEL 0, INDEX_CLEANUP ON) $table", '-c', "INSERT INTO $table SELECT 10000 + id, v FROM base WHERE id < 3000");
		my $done = ends($vacuum, 5) && $pid ne '' && $scan->pumpable;
		release($pid);
		$vacuum->finish;
		$scan->finish;
		$within++ if $done;
		is($$said, '', "$table, try $tries: VACUUM and inserts");
		is($$out, "799|799\n", "$table, try $tries: each rescan has the rows of its snapshot once");
	}
	cmp_ok($within, '>=', 3, "$table: VACUUM and inserts ended while the scan was held");
	index_ok($node, "${table}_idx");
}

log_ok($node);
$node->stop;
done_testing();
