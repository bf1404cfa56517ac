# A table whose rows are replaced, a fifth of them in each round: an ivfflat index keeps the recall of one built
# anew, has no defect, loses and doubles no row, and uses its space again.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('ivfflat_churn', 'autovacuum = off', 'fsync = off');
my ($count, $share, $rounds, $dim) = (6000, 5, 5, 32);
my $replaced = $count / $share;

# Rows to come follow those of the beginning, and are like them; the last ones are queries.
my $vectors = clustered_vectors($count + $rounds * $replaced + 100, $dim, seed => 36, clusters => 6);
my $queries = [ map { vector_text($_) } splice(@$vectors, -100) ];
load_vectors($node, 'stream', "vector($dim)", $vectors);
$node->safe_psql('postgres', 'CREATE INDEX ON stream (id)');

sub size { return $node->safe_psql('postgres', "SELECT pg_relation_size('$_[0]_idx')"); }

for my $kind (
	[ 'half', 'v', 'vector_l2_ops', '<->', 6, '' ],
	[ 'sq8', 'v', 'vector_cosine_ops', '<=>', 6, ', refine_type = sq8' ],
	[ 'product', "v::halfvec($dim)", 'halfvec_ip_ops', '<#>', 6, '' ],
	[ 'plain', 'v', 'vector_l2_ops', '<->', 6, ', quantizer = none' ])
{
	my ($table, $expression, $opclass, $operator, $probes, $with) = @$kind;
	my $settings = index_scan() . "SET ivfflat.probes = $probes";

	my $create = sub { return "CREATE INDEX $_[0]_idx ON $_[0] USING ivfflat (v $opclass) WITH (lists = 60$with)"; };
	my $measure = sub {
		my ($of) = @_;
		my ($mean) = recall($node, table => $of, operator => $operator, queries => $queries, settings => $settings, plan => qr/Index Scan using ${of}_idx/);
		return $mean;
	};
	$node->safe_psql('postgres', "CREATE TABLE $table AS SELECT id, $expression AS v FROM stream WHERE id < $count; " . $create->($table));
	my $start = $measure->($table);
	my $size = size($table);
	cmp_ok($start, '>=', 0.7, "$table: recall at the start: $start");
	cmp_ok($start, '<', 1, "$table: not all rows are found at once");
	my ($lost, $last) = (0, 0);
	for my $round (1 .. $rounds)
	{
		my ($from, $to) = ($count + ($round - 1) * $replaced, $count + $round * $replaced);

		# Old rows and new ones alike.
		$node->safe_psql('postgres', "DELETE FROM $table WHERE id IN (SELECT id FROM $table ORDER BY hashint4(id + $round) LIMIT $replaced);
			INSERT INTO $table SELECT id, $expression FROM stream WHERE id >= $from AND id < $to");
		$node->safe_psql('postgres', "VACUUM $table");
		index_ok($node, "${table}_idx");
		is( $node->safe_psql(
				'postgres', index_scan() . "SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM $table ORDER BY v $operator '$queries->[0]') s"),
			"$count|$count", "$table, round $round: each row once");
		$node->safe_psql('postgres', "CREATE TABLE fresh AS SELECT * FROM $table; " . $create->('fresh'));
		my ($churned, $fresh) = ($measure->($table), $measure->('fresh'));
		$node->safe_psql('postgres', 'DROP TABLE fresh');
		$lost += ($fresh - $churned) / $rounds;
		$last = $churned;
		cmp_ok($churned, '>=', $fresh - 0.08, "$table, round $round: recall $churned, built anew $fresh");
		# Lists that were made anew are freed by the next VACUUM.
		cmp_ok(size($table), '<=', 1.6 * $size, "$table, round $round: " . size($table) . " bytes, $size at the start");
	}
	cmp_ok($lost, '<=', 0.04, "$table: recall lost in the mean: $lost");
	cmp_ok($last, '>=', $start - 0.05, "$table: recall in the end, $last, and at the start, $start");
	$node->safe_psql('postgres', "DROP TABLE $table");
}

log_ok($node);
$node->stop;
done_testing();
