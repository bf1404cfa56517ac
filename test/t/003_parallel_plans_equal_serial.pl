# Exact search and aggregates give the same answers with parallel workers, without
# them, and in Perl; and the planner can use the workers.
use strict;
use warnings;

use AnnTest;
use Test::More;

my $node = ann_node('parallel', 'max_parallel_workers_per_gather = 2', 'max_parallel_workers = 4');
my $rows = random_vectors(5000, 24, seed => 7);
my $queries = random_vectors(3, 24, seed => 8);

my $parallel = 'SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;';
my $serial = 'SET max_parallel_workers_per_gather = 0;';

# Rounding of the kernels' float4 sums: 24 terms of at most 256 each.
my $tolerance = 1e-5;

for my $type ('vector', 'halfvec')
{
	load_vectors($node, "t_$type", "$type(24)", $rows);
	my $table = "t_$type";

	for my $metric (sort keys %operator)
	{
		for my $q (@$queries)
		{
			my $distance = "v $operator{$metric} '" . vector_text($q) . "'";
			my $sql = "SELECT id, $distance FROM $table ORDER BY $distance, id LIMIT 20";

			my $plan = $node->safe_psql('postgres', "$parallel EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $sql");
			like($plan, qr/Gather Merge.*Workers Launched: 2.*Sort.*Parallel Seq Scan/s,
				"$type, $metric: workers sort their share")
			  if $q == $queries->[0];

			my $by_workers = $node->safe_psql('postgres', "$parallel $sql");
			is($by_workers, $node->safe_psql('postgres', "$serial $sql"), "$type, $metric: parallel equals serial");

			my @got = map { [ split /\|/ ] } split /\n/, $by_workers;
			my $want = exact_nearest($rows, $q, $metric, 20);
			my @wrong = grep {
				abs($got[$_][1] - $want->[$_][1]) > $tolerance * (1 + abs $want->[$_][1])
				  || abs($got[$_][1] - exact_distance($rows->[ $got[$_][0] ], $q, $metric)) >
				  $tolerance * (1 + abs $got[$_][1])
			} 0 .. 19;
			is(scalar(@got) . " rows, wrong: @wrong", '20 rows, wrong: ', "$type, $metric: the rows that Perl finds");
		}
	}
}

# Sums of these numbers are exact in every order, so the answers must be equal.
my @sum = map { my $i = $_; my $s = 0; $s += $_->[$i] for @$rows; $s } 0 .. 23;
my $sum = vector_text(\@sum);
my $few = [ map { [ map { $_ <=> 0 } @$_ ] } @$rows[ 0 .. 1499 ] ];
my $few_sum = vector_text([ map { my $i = $_; my $s = 0; $s += $_->[$i] for @$few; $s } 0 .. 23 ]);
load_vectors($node, 't_few', 'halfvec(24)', $few);

for my $case (
	[ 'sum(v)', 't_vector', $sum ],
	[ "avg(v)", 't_vector', $node->safe_psql('postgres', "SELECT '" . vector_text([ map { $_ / 5000 } @sum ]) . "'::vector") ],
	[ "avg(v)", 't_halfvec', $node->safe_psql('postgres', "SELECT '" . vector_text([ map { $_ / 5000 } @sum ]) . "'::halfvec") ],
	[ 'sum(v)', 't_few', $few_sum ])
{
	my ($aggregate, $table, $want) = @$case;
	my $sql = "SELECT $aggregate FROM $table";
	like(plan_of($node, $sql, $parallel), qr/Finalize Aggregate.*Partial Aggregate.*Parallel Seq Scan/s,
		"$aggregate of $table: partial aggregates");
	is($node->safe_psql('postgres', "$parallel $sql"), $want, "$aggregate of $table, parallel");
	is($node->safe_psql('postgres', "$serial $sql"), $want, "$aggregate of $table, serial");
	is($node->safe_psql('postgres', "$parallel $sql WHERE false"), '', "$aggregate of no row is NULL");
}

log_ok($node);
$node->stop;
done_testing();
