# An unlogged table is empty after a crash, and its hnsw index works: the init fork of
# the index was logged.  Then the table is made logged and survives.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('unlogged');
my $rows = random_vectors(300, 40, seed => 41);
my $query = vector_text($rows->[7]);
my $nearest = "SET enable_seqscan = off; SELECT id FROM t ORDER BY v <-> '$query' LIMIT 1";
my $insert = "INSERT INTO t VALUES " . join(',', map { "($_, '" . vector_text($rows->[$_]) . "')" } 0 .. $#$rows);

$node->safe_psql(
	'postgres', "CREATE UNLOGGED TABLE t (id int, v vector(40));
	CREATE INDEX t_idx ON t USING hnsw (v vector_l2_ops); $insert");
is($node->safe_psql('postgres', $nearest), '7', 'found before the crash');
for my $round (1, 2)
{
	# A checkpoint in the second round: what was written must go as well.
	$node->safe_psql('postgres', 'CHECKPOINT') if $round == 2;
	$node->stop('immediate');
	$node->start;
	is($node->safe_psql('postgres', $nearest), '', 'empty after the crash');
	index_ok($node, 't_idx');
	$node->safe_psql('postgres', $insert);
	is($node->safe_psql('postgres', $nearest), '7', 'found after insertion');
	index_ok($node, 't_idx');
}
$node->safe_psql('postgres', 'DELETE FROM t WHERE id % 2 = 0; VACUUM t');
index_ok($node, 't_idx');
$node->safe_psql('postgres', 'ALTER TABLE t SET LOGGED');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $nearest), '7', 'a logged table survives');
index_ok($node, 't_idx');
log_ok($node);
$node->stop;
done_testing();
