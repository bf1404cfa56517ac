# Every row of an hnsw index can be reached from its entries, by the edges alone, without
# VACUUM's help: rows of few edges, clusters far apart, rows added one by one and by several
# clients at once, to an empty index and to a built one, and after rounds of deletions.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('hnsw_reach', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_connections = 20');
my $out_of_reach = sub {
	my ($index, $rows, $name) = @_;
	is($node->safe_psql('postgres', "SELECT string_agg(value, ' ' ORDER BY name) FROM ann_index_info('$index') WHERE name IN ('rows', 'rows out of reach')"),
		"$rows 0", $name);
};

for my $case (
	[ 'coded', 64, 'm = 2, ef_construction = 16', 0.7 ],
	[ 'far', 48, 'm = 3, quantizer = rabitq', 0.01 ],
	[ 'plain', 24, 'm = 2, ef_construction = 8, quantizer = none', 0.7 ],
	[ 'islands', 24, 'm = 2, ef_construction = 8, quantizer = none', 0.15 ],
	[ 'usual', 64, 'm = 16', 0.1 ])
{
	my ($name, $dim, $options, $spread) = @$case;
	my $data = clustered_vectors(3000, $dim, seed => 19, clusters => 30, spread => $spread);
	load_vectors($node, "all_$name", "vector($dim)", $data);
	my $create = "USING hnsw (v vector_l2_ops) WITH ($options)";
	$node->safe_psql('postgres', "CREATE UNIQUE INDEX ON all_$name (id)");

	# One by one into an empty index.
	$node->safe_psql('postgres', "CREATE TABLE one_$name (LIKE all_$name); CREATE INDEX one_${name}_idx ON one_$name $create");
	my $rows = 0;
	for my $to (1, 2, 3, 91, 400, 1100, 2000)
	{
		$node->safe_psql('postgres', "INSERT INTO one_$name SELECT * FROM all_$name WHERE id >= $rows AND id < $to ORDER BY id");
		$rows = $to;
		$out_of_reach->("one_${name}_idx", $rows, "$name: $rows rows, one by one");
	}

	# Into a built one.
	$node->safe_psql('postgres', "CREATE TABLE built_$name AS SELECT * FROM all_$name WHERE id < 1000; CREATE INDEX built_${name}_idx ON built_$name $create");
	$out_of_reach->("built_${name}_idx", 1000, "$name: built");
	for my $again (1 .. 10)
	{
		$node->safe_psql('postgres', "REINDEX INDEX built_${name}_idx");
		$out_of_reach->("built_${name}_idx", 1000, "$name: built, time $again");
	}
	$node->safe_psql('postgres', "INSERT INTO built_$name SELECT * FROM all_$name WHERE id >= 1000");
	$out_of_reach->("built_${name}_idx", 3000, "$name: built, then rows one by one");

	# By several clients.
	my $script = $node->basedir . "/fill_$name.sql";
	$node->safe_psql('postgres', "CREATE TABLE shared_$name (LIKE all_$name); CREATE INDEX shared_${name}_idx ON shared_$name $create;
		CREATE SEQUENCE next_$name MINVALUE 0");
	append_to_file($script, "INSERT INTO shared_$name SELECT id, v FROM all_$name, (SELECT nextval('next_$name') AS n OFFSET 0) s WHERE id = n;\n");
	$node->command_ok([ 'pgbench', '-n', '-c', '5', '-j', '2', '-t', '400', '-f', $script, 'postgres' ], "$name: five clients insert");
	$out_of_reach->("shared_${name}_idx", 2000, "$name: 2000 rows by five clients");

	# Rounds in which a third goes and comes again.
	for my $round (1 .. 3)
	{
		for my $table ('one', 'built', 'shared')
		{
			my $left = $node->safe_psql('postgres', "DELETE FROM ${table}_$name WHERE (id + $round) % 3 = 0; VACUUM ${table}_$name; SELECT count(*) FROM ${table}_$name");
			$out_of_reach->("${table}_${name}_idx", $left, "$name, $table, round $round: after VACUUM");
			$node->safe_psql('postgres', "INSERT INTO ${table}_$name SELECT * FROM all_$name WHERE (id + $round) % 3 = 0");
			$out_of_reach->("${table}_${name}_idx", $node->safe_psql('postgres', "SELECT count(*) FROM ${table}_$name"),
				"$name, $table, round $round: filled again");
		}
	}
	index_ok($node, "${_}_${name}_idx") for 'one', 'built', 'shared';
}

# Built: clusters so far apart that with four edges a row nothing leads from one to another, with codes and without.
$node->safe_psql('postgres', "CREATE TABLE apart AS SELECT i AS id, (SELECT array_agg(i % 40 * 1000 * ((j + i % 40) % 3) + sin(i * 13 + j * 7)) FROM generate_series(1, 16) j)::vector(16) AS v
	FROM generate_series(1, 8000) i");
for my $with ('vector_l2_ops) WITH (m = 2, ef_construction = 8', 'vector_l1_ops) WITH (m = 2, ef_construction = 8', 'vector_l2_ops) WITH (m = 2, ef_construction = 8, quantizer = rabitq')
{
	$node->safe_psql('postgres', "DROP INDEX IF EXISTS apart_idx; CREATE INDEX apart_idx ON apart USING hnsw (v $with)");
	$out_of_reach->('apart_idx', 8000, "apart, $with");
	index_ok($node, 'apart_idx');
}

# Distances beyond what a float holds, inserted, built, and after VACUUM.
$node->safe_psql('postgres', "CREATE TABLE wide (id int, v vector(4)); CREATE INDEX wide_idx ON wide USING hnsw (v vector_l1_ops) WITH (m = 2);
	INSERT INTO wide SELECT i, ARRAY[3e38 * sin(i), 3e38 * cos(i * 5), i % 17, i]::real[]::vector FROM generate_series(1, 600) i");
for my $step ('SELECT 1', 'REINDEX INDEX wide_idx', 'DELETE FROM wide WHERE id % 3 = 0; VACUUM wide')
{
	$node->safe_psql('postgres', $step);
	$out_of_reach->('wide_idx', $node->safe_psql('postgres', 'SELECT count(*) FROM wide'), "distances that are infinite: $step");
	index_ok($node, 'wide_idx');
}

log_ok($node);
$node->stop;
done_testing();
