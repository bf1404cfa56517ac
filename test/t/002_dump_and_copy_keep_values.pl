# Values of every type survive pg_dump and binary and text COPY bit by bit, with the
# extension in its first schema and after it has been moved to another.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('dump');
my $dir = PostgreSQL::Test::Utils::tempdir();

# Ends of the ranges, signed zero, subnormals, no fixed dimension, long values that
# are TOASTed, NULL; and the largest dimensions.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v vector, v3 vector(3), h halfvec, h3 halfvec(3),
		s sparsevec, s3 sparsevec(3), b bit(5));
	INSERT INTO t VALUES
		(1, '[1.1]', '[3.4028235e38,-3.4028235e38,1e-45]', '[1.1]', '[65504,-65504,6e-8]',
			'{1:1.1}/1', '{1:3.4028235e38,3:1e-45}/3', '10110'),
		(2, '[-0,0,0.3333333433]', '[-0,0,1]', '[-0,0,0.33325]', '[-0,0,1]', '{}/1000000000', '{2:-1}/3', '00000'),
		(3, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
	SELECT setseed(0.5);
	INSERT INTO t (id, v, h, s)
		SELECT 3 + d, a::real[]::vector, a::real[]::halfvec, a::real[]::vector::sparsevec
		FROM (SELECT d, array_agg(random() - 0.5) AS a
			FROM (VALUES (100), (768), (2000), (16000)) AS n (d), generate_series(1, d) GROUP BY d) AS r;
});

# Send functions give every bit, the sign of zero included, and are independent of
# the text output under test.
my $contents = sub {
	my ($db, $table, $schema) = @_;
	$schema //= 'public';
	return $node->safe_psql(
		$db, qq{SET search_path = public, $schema, pg_catalog;
		SELECT id, md5(vector_send(v)), encode(vector_send(v3), 'hex'), md5(halfvec_send(h)),
			encode(halfvec_send(h3), 'hex'), md5(sparsevec_send(s)), encode(sparsevec_send(s3), 'hex'), b
		FROM $table ORDER BY id});
};
my $expected = $contents->('postgres', 't');
is(scalar(split /\n/, $expected), 7, 'seven rows to move');

for my $format ('text', 'csv', 'binary')
{
	$node->safe_psql(
		'postgres', qq{CREATE TABLE c_$format (LIKE t);
		COPY t TO '$dir/$format' (FORMAT $format); COPY c_$format FROM '$dir/$format' (FORMAT $format)});
	is($contents->('postgres', "c_$format"), $expected, "COPY in $format format");
	$node->safe_psql('postgres', "DROP TABLE c_$format");
}

my $dump_and_restore = sub {
	my ($name, $schema) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $_") for "${name}_plain", "${name}_custom";
	$node->command_ok([ 'pg_dump', '-f', "$dir/$name.sql", $node->connstr('postgres') ], "$name: plain pg_dump");
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/$name.sql", $node->connstr("${name}_plain") ],
		"$name: restored by psql");
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/$name.dump", $node->connstr('postgres') ], "$name: custom pg_dump");
	$node->command_ok([ 'pg_restore', '-e', '-d', $node->connstr("${name}_custom"), "$dir/$name.dump" ],
		"$name: restored by pg_restore");
	is($contents->("${name}_$_", 't', $schema), $expected, "$name: values after $_ restore") for 'plain', 'custom';
};
$dump_and_restore->('first', 'public');

# Moved to another schema, that is not on the search path, everything goes on working.
$node->safe_psql(
	'postgres', q{
	CREATE VIEW d AS SELECT id, v3 <-> '[1,2,3]'::vector AS l2, h3 <=> '[1,2,3]'::halfvec AS cosine,
		s3 <+> '{1:1}/3'::sparsevec AS l1, b <~> '10101' AS hamming FROM t;
	CREATE SCHEMA moved;});
my $distances = $node->safe_psql('postgres', 'SELECT * FROM d ORDER BY id');
$node->safe_psql('postgres', 'ALTER EXTENSION ann SET SCHEMA moved');
is($node->safe_psql('postgres', 'SELECT * FROM d ORDER BY id'), $distances, 'views work after ALTER EXTENSION SET SCHEMA');
is( $node->safe_psql(
		'postgres', q{SELECT moved.avg(x), moved.sum(x), moved.avg(x::moved.halfvec)
		FROM (VALUES ('[1,2]'::moved.vector), ('[3,6]')) AS v (x)}),
	'[2,4]|[4,8]|[2,4]', 'aggregates work in the new schema');
is($node->safe_psql('postgres', q{SELECT '{1,2}'::real[]::moved.vector::moved.halfvec::moved.sparsevec}),
	'{1:1,2:2}/2', 'casts work in the new schema');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT DISTINCT v3 FROM t) AS x}), 3, 'DISTINCT works in the new schema');
is($node->safe_psql('postgres', q{SELECT count(*) FROM t JOIN t AS u ON t.v3 OPERATOR(moved.=) u.v3}),
	2, 'joins work in the new schema');
$dump_and_restore->('moved', 'moved');

$node->safe_psql('postgres', 'DROP VIEW d; DROP EXTENSION ann CASCADE');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM pg_proc WHERE probin LIKE '%ann' OR prosrc ~ '^ann_'}),
	0, 'DROP EXTENSION leaves nothing behind');

log_ok($node);
$node->stop;
done_testing();
