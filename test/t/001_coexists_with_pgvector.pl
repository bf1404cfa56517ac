# The library exports nothing that could be taken for another library's symbol, and
# works in one backend with pgvector where that is installed.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $pg_config = $ENV{PG_CONFIG} || 'pg_config';
my ($libdir) = map { chomp; $_ } scalar `$pg_config --pkglibdir`;
my ($sharedir) = map { chomp; $_ } scalar `$pg_config --sharedir`;

my $symbols = `nm -D --defined-only $libdir/ann.so`;
my @names = map { (split)[-1] } split /\n/, $symbols;
cmp_ok(scalar(grep { /^ann_/ } @names), '>', 0, 'nm sees the exported functions');
my @foreign = grep { !/^(ann_|Ann|pg_finfo_ann_|_PG_init$|Pg_magic_func$|_init$|_fini$)/ } @names;
is("@foreign", '', 'every exported symbol has a name of our own');

my $node = ann_node('coexist');

SKIP:
{
	skip 'pgvector is not installed on this server', 6 if !-e "$sharedir/extension/vector.control";

	$node->safe_psql(
		'postgres', q{
		DROP EXTENSION ann;
		CREATE SCHEMA a; CREATE EXTENSION ann SCHEMA a;
		CREATE SCHEMA p; CREATE EXTENSION vector SCHEMA p;
		CREATE TABLE at (v a.vector(3), h a.halfvec(3), s a.sparsevec(3));
		CREATE TABLE pt (v p.vector(3), h p.halfvec(3), s p.sparsevec(3));
		INSERT INTO pt VALUES ('[1,2,3]', '[0.5,-2,65504]', '{1:1.5,3:-2}/3'), (NULL, NULL, NULL),
			('[3.4e38,-1e-45,0]', '[6e-8,0,1]', '{}/3');
	});

	# Each library loaded first once; distances differ per row, so that a call that
	# ended in the wrong library would show.
	my $both = sub {
		my ($first, $second) = @_;
		return $node->safe_psql(
			'postgres', qq{
			SELECT $first.l2_distance('[1,2,3]'::$first.vector, '[4,6,3]');
			SELECT $second.cosine_distance('[1,0]'::$second.vector, '[0,2]');
			SELECT $first.inner_product('[1,2]'::$first.halfvec, '[3,4]');
			SELECT $second.l1_distance('{1:1}/2'::$second.sparsevec, '{2:2}/2');
			SELECT $first.avg(x::$first.vector) FROM (VALUES ('[1,2]'), ('[3,6]')) AS t (x);
			SELECT $second.avg(x::$second.vector) FROM (VALUES ('[1,2]'), ('[3,6]')) AS t (x);});
	};
	my $expected = join("\n", 5, 1, 11, 3, '[2,4]', '[2,4]');
	is($both->('a', 'p'), $expected, 'ann loaded first');
	is($both->('p', 'a'), $expected, 'pgvector loaded first');

	# A column moves between the two by binary COPY, both ways.
	my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
	my $rows = $node->safe_psql('postgres', 'SELECT * FROM pt');
	$node->safe_psql('postgres', "COPY pt TO '$file' (FORMAT binary); COPY at FROM '$file' (FORMAT binary)");
	is($node->safe_psql('postgres', 'SELECT * FROM at'), $rows, 'binary COPY from pgvector');
	$node->safe_psql('postgres',
		"COPY at TO '$file' (FORMAT binary); TRUNCATE pt; COPY pt FROM '$file' (FORMAT binary)");
	is($node->safe_psql('postgres', 'SELECT * FROM pt'), $rows, 'binary COPY to pgvector');

	# The stored bytes agree as well: what pg_upgrade-like moves of files rely on.
	my $bytes = sub {
		my ($table) = @_;
		return $node->safe_psql('postgres',
			"SELECT pg_column_size(v), pg_column_size(h), pg_column_size(s) FROM $table");
	};
	is($bytes->('at'), $bytes->('pt'), 'stored sizes agree');

	$node->safe_psql('postgres', 'DROP EXTENSION vector CASCADE');
	is($node->safe_psql('postgres', q{SELECT a.l2_distance('[0,0]'::a.vector, '[3,4]')}),
		5, 'ann works on after DROP EXTENSION vector');
}

log_ok($node);
$node->stop;
done_testing();
