# An index scan under a filter or a large LIMIT returns as many rows as there are, whatever
# ef_search, iterative_scan and the memory of a scan; max_scan_tuples ends it, and
# scan_mem_multiplier has it swept sooner or later.
use strict;
use warnings;

use AnnTest;
use List::Util qw(min);
use Test::More;

my $node = ann_node('hnsw_filters', 'autovacuum = off', 'jit = off', 'fsync = off');
my $dim = 64;
my $count = 3000;
my $clusters = 15;
my $data = clustered_vectors($count, $dim, seed => 16, clusters => $clusters);
load_vectors($node, 'pool', "vector($dim)", $data);
# far: the other end of the order; near: around query 3; few: one in a hundred; one: one row.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE t AS SELECT id, v, v::halfvec($dim) AS h, binary_quantize(v)::bit($dim) AS b,
	rank() OVER (ORDER BY v <-> (SELECT v FROM pool WHERE id = 3)) AS place FROM pool;
CREATE INDEX t_coded ON t USING hnsw (v vector_l2_ops);
CREATE INDEX t_plain ON t USING hnsw (h halfvec_l1_ops);
CREATE INDEX t_bit ON t USING hnsw (b bit_jaccard_ops);
CREATE INDEX t_cosine ON t USING hnsw (v vector_cosine_ops) WITH (quantizer = none, refine_type = sq8);
ANALYZE t;
SQL
my %filter = (all => 'true', half => 'id % 2 = 0', few => 'id % 100 = 42', one => 'id = 2500', none => 'id < 0',
	far => 'place > 2950', near => 'place <= 30');
my %order = (coded => "v <-> (SELECT v FROM pool WHERE id = 3)", plain => "h <+> (SELECT v::halfvec($dim) FROM pool WHERE id = 3)",
	bit => "b <%> (SELECT binary_quantize(v)::bit($dim) FROM pool WHERE id = 3)", cosine => "v <=> (SELECT v FROM pool WHERE id = 3)");

# Everything of one combination in one statement: a row for each (filter, limit) that is
# wrong.
my %matching = map { $_ => $node->safe_psql('postgres', "SELECT count(*) FROM t WHERE $filter{$_}") } keys %filter;
is(join(' ', map { "$_ $matching{$_}" } sort keys %matching), 'all 3000 far 50 few 30 half 1500 near 30 none 0 one 1', 'the filters');
for my $index (sort keys %order)
{
	for my $mode ('strict_order', 'relaxed_order')
	{
		for my $setting ('hnsw.ef_search = 1', 'hnsw.ef_search = 1000', "work_mem = '64kB'; SET hnsw.scan_mem_multiplier = 2")
		{
			my @sql;
			my @want;
			for my $name (sort keys %filter)
			{
				for my $limit (10, 400, 'ALL')
				{
					push @sql, "SELECT '$name $limit', count(*), count(DISTINCT id) FROM (SELECT id FROM t WHERE $filter{$name} ORDER BY $order{$index} LIMIT $limit) o";
					my $rows = $limit eq 'ALL' ? $matching{$name} : min($limit, $matching{$name});
					push @want, "$name $limit|$rows|$rows";
				}
			}
			is($node->safe_psql('postgres', index_scan() . "SET hnsw.iterative_scan = $mode; SET $setting;" . join(';', @sql)),
				join("\n", @want), "$index, $mode, $setting: never short");
		}
	}
	like(plan_of($node, "SELECT id FROM t WHERE $filter{few} ORDER BY $order{$index} LIMIT 10", index_scan()), qr/Index Scan using t_$index/, "$index: from the index");
}

# What comes first is what is nearest: filtered recall, and order, with little memory too.
$node->safe_psql('postgres', 'CREATE TABLE queries AS SELECT id, v FROM pool WHERE id % 75 = 1');
for my $name ('half', 'few', 'far')
{
	for my $setting ('hnsw.ef_search = 60', "hnsw.ef_search = 60; SET work_mem = '64kB'")
	{
		my ($recall, $unsorted) = index_recall($node, table => 't', queries => 'queries', key => $name, where => $filter{$name}, settings => "SET $setting");
		cmp_ok($recall, '>=', 0.9, "$name, $setting: recall");
		is($unsorted, 0, "$name, $setting: complete and in order");
		}
}

# Without continuation a scan has what its beam found, at the least ef_search rows.
for my $index (sort keys %order)
{
	for my $ef (1, 17, 300)
	{
		my ($rows, $distinct) = split /\|/, $node->safe_psql('postgres', index_scan() . "SET hnsw.iterative_scan = off; SET hnsw.ef_search = $ef;
			SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM t ORDER BY $order{$index}) o");
		ok($rows == $distinct && $rows >= $ef && $rows < $count, "$index, off, ef_search $ef: the beam and no more") or diag("$rows $distinct");
	}
	# a scan ends once it has visited so many
	for my $max (100, 500)
	{
		my ($rows, $distinct) = split /\|/, $node->safe_psql('postgres', index_scan() . "SET hnsw.max_scan_tuples = $max; SET hnsw.ef_search = 10;
			SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM t ORDER BY $order{$index}) o");
		ok($rows == $distinct && $rows >= 10 && $rows < $count, "$index: max_scan_tuples $max ends a scan") or diag("$rows $distinct");
	}
	is($node->safe_psql('postgres', index_scan() . "SET hnsw.max_scan_tuples = 0; SELECT count(*) FROM (SELECT id FROM t ORDER BY $order{$index}) o"), $count, "$index: 0 is no limit");
}

# A scan whose memory is used up sweeps the index and sorts what it finds, here on disk: scan_mem_multiplier
# times work_mem is what it has.
$node->safe_psql('postgres', <<'SQL');
SELECT setseed(0.1);
CREATE TABLE many AS SELECT i AS id, (SELECT array_agg(random() + 0 * (i + j)) FROM generate_series(1, 12) j)::vector(12) AS v FROM generate_series(1, 40000) i;
CREATE INDEX many_idx ON many USING hnsw (v vector_l2_ops) WITH (m = 32, ef_construction = 8);
ANALYZE many;
SQL
for my $case ([ 1, 'a sweep' ], [ 1000, 'a search' ])
{
	my ($multiplier, $expected) = @$case;
	my $plan = $node->safe_psql('postgres', index_scan() . "SET work_mem = '64kB'; SET hnsw.ef_search = 2500; SET hnsw.scan_mem_multiplier = $multiplier;
		EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
		SELECT id FROM many ORDER BY v <-> array_fill(0.5, ARRAY[12])::vector LIMIT 500");
	like($plan, qr/Index Scan using many_idx/, "scan_mem_multiplier $multiplier: from the index");
	is($plan =~ /temp read=\d+ written=\d+/ ? 'a sweep' : 'a search', $expected, "scan_mem_multiplier $multiplier: $expected") or diag($plan);
}
log_ok($node);
$node->stop;
done_testing();
