# Searches within other indexes' bitmaps find what exact search finds: for filters that are
# independent of the query, keep its neighbourhood, or exclude it, from half of the rows to
# one in five hundred; with whatever the scan decides: searching, ranking, or both.  At default
# settings 98 % are found, though a search without a filter finds less.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('annscan_recall', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_parallel_workers_per_gather = 0');
my $dim = 48;
my $count = 8000;
my $data = clustered_vectors($count + 30, $dim, seed => 40, clusters => 60, spread => 0.5);
my @queries = map { vector_text($_) } splice(@$data, $count);
load_vectors($node, 'pool', "vector($dim)", $data);

# place: percentile of the distance from the first query.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE t AS SELECT id, v, id % 2 AS half, id % 10 AS tenth, id % 500 AS rare, ARRAY['a' || id % 10, 'b' || id % 40] AS tags,
	(rank() OVER (ORDER BY v <-> '$queries[0]') - 1) * 100 / $count AS place FROM pool;
CREATE INDEX ON t (half);
CREATE INDEX ON t (tenth);
CREATE INDEX ON t (rare);
CREATE INDEX ON t (place);
CREATE INDEX ON t USING gin (tags);
SQL
my @near = ($queries[0]);
for my $index ('hnsw (v vector_l2_ops)', 'ivfflat (v vector_l2_ops)')
{
	$node->safe_psql('postgres', "DROP INDEX IF EXISTS t_v; CREATE INDEX t_v ON t USING $index; VACUUM ANALYZE t");
	my $search = 'SET enable_seqscan = off; SET enable_sort = off;';
	# When reading a row costs more than anything else, members are searched for.
	my %how = (default => '', search => 'SET cpu_tuple_cost = 10;');
	for my $filter (
		[ 'half = 1', \@queries ],
		[ 'tenth = 3', \@queries ],
		[ 'rare = 7', \@queries ],
		[ q{tags @> ARRAY['b3']}, \@queries ],
		[ 'tenth = 3 OR rare = 7', \@queries ],
		[ q{tenth < 5 AND tags @> ARRAY['a2']}, \@queries ],
		[ 'place < 10', \@near ],
		[ 'place >= 60', \@near ],
		[ 'place >= 90', \@near ])
	{
		my ($where, $queries) = @$filter;
		# With all lists equally far ivfflat's idea of how far to go (its README, Filtered) tells little.
		next if $index =~ /ivfflat/ && $where =~ /place >=/;
		for my $how (sort keys %how)
		{
			my ($mean, $worst) = recall($node, table => 't', where => $where, queries => $queries, settings => "$search $how{$how}");
			note("$index, $where, $how: recall $mean");
			cmp_ok($mean, '>=', 0.98, "$index, $where, $how: recall (worst $worst)");
		}
	}

	# What is ranked is exact; a search that leads nowhere is given up for it.
	my ($mean) = recall($node, table => 't', where => 'rare = 7', queries => \@queries, settings => $search);
	is($mean, 1, "$index: ranking is exact");
	my $explain = sub {
		my ($where, $settings) = @_;
		return $node->safe_psql('postgres', "$search $settings EXPLAIN (ANALYZE, COSTS OFF) SELECT id FROM t WHERE $where ORDER BY v <-> '$queries[0]' LIMIT 10");
	};
	like($explain->('rare = 7', ''), qr/AnnScan.*Stopped: members ranked at once/s, "$index: few members are ranked");
	# By members or by the table.  Between the prices at which all members are ranked at once and those at which a search may take as
	# long as it likes lie some at which it turns out to cost more.
	my ($given_up, $exact) = ('', '');
	for my $price (map { 0.001 * 1.3**$_ } 0 .. 30)
	{
		my $set = "SET cpu_operator_cost = $price;";
		next if $explain->('place >= 90', $set) !~ /search cost more than (?:ranking members|reading the table)/;
		$given_up = $price;
		($exact) = recall($node, table => 't', where => 'place >= 90', queries => \@near, settings => "$search $set");
		last;
	}
	isnt($given_up, '', "$index: a search that leads nowhere is given up");
	is($exact, 1, "$index: the answer then is exact");
	like($explain->('tenth = 3', $how{search}), qr/AnnScan.*Members: 800.*Stopped: enough rows/s, "$index: many are searched for");
}
log_ok($node);
$node->stop;
done_testing();
