# A standby replays inserts, deletes and VACUUM byte for byte (wal_consistency_checking),
# and gives the answers of its primary after each step.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
# A slow standby must not find the WAL gone.
$primary->append_conf('postgresql.conf', "autovacuum = off\nwal_consistency_checking = 'all'\nwal_keep_size = '6GB'\n");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION ann');
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;

my $rows = random_vectors(1200, 40, seed => 31);
my @queries = map { vector_text($_) } @{ random_vectors(8, 40, seed => 32) };
my @tables = (
	[ 'coded', 'vector(40)', 'vector_l2_ops', '<->', '' ],
	[ 'plain', 'halfvec(40)', 'halfvec_l1_ops', '<+>', '' ],
	[ 'wide', 'vector(40)', 'vector_cosine_ops', '<=>', 'WITH (m = 60, quantizer = none)' ],
	[ 'included', 'vector(40)', 'vector_l2_ops', '<->', 'INCLUDE (id)' ]);

sub same_answers
{
	my ($when) = @_;
	$primary->wait_for_catchup($standby);
	for my $t (@tables)
	{
		my ($table, undef, undef, $operator) = @$t;
		my $sql = join "\n", 'SET enable_seqscan = off; SET enable_sort = off;',
		  (map { "SELECT id, v $operator '$_' FROM $table ORDER BY v $operator '$_' LIMIT 15;" } @queries),
		  "SELECT id, v $operator '$queries[0]' FROM $table WHERE id IN (8, 16, 30, 5008, 10008) ORDER BY v $operator '$queries[0]' LIMIT 9;",
		  "SELECT count(*), sum(id) FROM (SELECT id FROM $table ORDER BY v $operator '$queries[0]') s;";
		is($standby->safe_psql('postgres', $sql), $primary->safe_psql('postgres', $sql), "$table, $when: same answers");
	}
}

for my $t (@tables)
{
	my ($table, $type, $opclass, undef, $with) = @$t;
	load_vectors($primary, $table, $type, $rows);
	$primary->safe_psql('postgres', "CREATE INDEX ${table}_idx ON $table USING hnsw (v $opclass) $with");
}
same_answers('after the build');
for my $round (1 .. 3)
{
	$primary->safe_psql('postgres', "DELETE FROM $_->[0] WHERE id % 5 = $round; VACUUM $_->[0]") for @tables;
	same_answers("VACUUM $round");
	$primary->safe_psql(
		'postgres', "INSERT INTO $_->[0] SELECT id, v FROM $_->[0] WHERE id % 4 = 0;
		INSERT INTO $_->[0] SELECT id + 5000 * $round, v::$_->[1] FROM
			(SELECT id, (SELECT array_agg(-1.5 * x) FROM unnest(v::vector::real[]) x)::vector AS v FROM $_->[0] WHERE id % 5 = 3) s;
		INSERT INTO $_->[0] VALUES (-$round, NULL)") for @tables;
	same_answers("inserts $round");
}
index_ok($primary, "$_->[0]_idx") for @tables;

# The standby becomes the primary: what it has replayed is complete.
$primary->stop;
$standby->promote;
index_ok($standby, "$_->[0]_idx") for @tables;
$standby->safe_psql('postgres', "INSERT INTO $_->[0] SELECT id + 100000, v FROM $_->[0] LIMIT 100; VACUUM $_->[0]")
  for @tables;
index_ok($standby, "$_->[0]_idx") for @tables;
log_ok($_) for ($primary, $standby);
$standby->stop;
done_testing();
