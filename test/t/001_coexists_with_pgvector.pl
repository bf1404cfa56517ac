# The library exports nothing that could be taken for another library's symbol,
# works in one backend with pgvector where that is installed, and can be preloaded.
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
	skip 'pgvector is not installed on this server', 8 if !-e "$sharedir/extension/vector.control";

	# Access methods have no schema, so each extension has a database of its own.
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', 'CREATE EXTENSION vector');
	for my $database ('postgres', 'other')
	{
		$node->safe_psql(
			$database, q{
			CREATE TABLE t (v vector(3), h halfvec(3), s sparsevec(3));
			CREATE INDEX ON t USING hnsw (v vector_l2_ops)});
	}
	$node->safe_psql(
		'other', q{
		INSERT INTO t VALUES ('[1,2,3]', '[0.5,-2,65504]', '{1:1.5,3:-2}/3'), (NULL, NULL, NULL),
			('[3.4e38,-1e-45,0]', '[6e-8,0,1]', '{}/3')});

	# Both libraries in one backend, pgvector's first: a call that ended in the wrong library, or an
	# index that did, would show in what only one of them knows.
	is($node->safe_psql(
			'postgres', q{
			LOAD 'vector';
			SET hnsw.ef_search = 77;
			CREATE TEMP TABLE i AS SELECT ARRAY[i, 1, 1]::vector(3) AS v FROM generate_series(1, 100) i;
			CREATE INDEX ON i USING hnsw (v vector_l2_ops) WITH (refine_type = half);
			SET enable_seqscan = off;
			SELECT v FROM i ORDER BY v <-> '[42,1,1]' LIMIT 1;
			SELECT l2_distance('[1,2,3]'::vector, '[4,6,3]'), vector_dims('{1:1}/2'::sparsevec);
			SELECT avg(x::vector) FROM (VALUES ('[1,2]'), ('[3,6]')) AS t (x);}),
		join("\n", '[42,1,1]', '5|2', '[2,4]'), 'ann works where pgvector is loaded');
	is($node->safe_psql('other', q{SELECT l2_distance('[1,2,3]'::vector, '[4,6,3]')}), 5, 'pgvector works beside');

	# A column moves between the two by binary COPY, both ways.
	my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
	my $rows = $node->safe_psql('other', 'SELECT * FROM t');
	$node->safe_psql('other', "COPY t TO '$file' (FORMAT binary)");
	$node->safe_psql('postgres', "COPY t FROM '$file' (FORMAT binary)");
	is($node->safe_psql('postgres', 'SELECT * FROM t'), $rows, 'binary COPY from pgvector');
	$node->safe_psql('postgres', "COPY t TO '$file' (FORMAT binary)");
	$node->safe_psql('other', "TRUNCATE t; COPY t FROM '$file' (FORMAT binary)");
	is($node->safe_psql('other', 'SELECT * FROM t'), $rows, 'binary COPY to pgvector');

	# The stored bytes agree as well: what pg_upgrade-like moves of files rely on.
	my $sizes = 'SELECT pg_column_size(v), pg_column_size(h), pg_column_size(s) FROM t';
	is($node->safe_psql('postgres', $sizes), $node->safe_psql('other', $sizes), 'stored sizes agree');

	# A dump of pgvector's database restores into one with ann, its hnsw index included.
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
	$node->safe_psql('postgres', 'CREATE DATABASE moved');
	$node->safe_psql('moved', 'CREATE EXTENSION ann');
	command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('other') ], 'pg_dump of a database with pgvector');
	my ($list) = run_command([ 'pg_restore', '-l', $dump ]);
	append_to_file("$dump.list", join("\n", grep { !/EXTENSION/ } split /\n/, $list) . "\n");
	command_ok([ 'pg_restore', '-L', "$dump.list", '-d', $node->connstr('moved'), $dump ], 'restores into a database with ann');
	is($node->safe_psql('moved', q{SELECT count(*) FROM t; SELECT amname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
		JOIN pg_am a ON a.oid = relam WHERE indrelid = 't'::regclass}), "3\nhnsw", 'rows and index are there');
}

# Preloaded, where there is no database yet when the library is initialised.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ann'\nhnsw.ef_search = 33\n");
$node->restart;
is($node->safe_psql(
		'postgres', q{
		CREATE TABLE preloaded AS SELECT i AS id, ARRAY[i, 1, 1]::vector(3) AS v FROM generate_series(1, 300) i;
		CREATE INDEX ON preloaded USING hnsw (v vector_l2_ops);
		CREATE INDEX ON preloaded USING ivfflat (v vector_cosine_ops) WITH (lists = 3);
		SET enable_seqscan = off;
		SELECT id FROM preloaded ORDER BY v <-> '[42,1,1]' LIMIT 1;
		SELECT id FROM preloaded ORDER BY v <=> '[3,1,1]' LIMIT 1;
		SHOW hnsw.ef_search;}),
	"42\n3\n33", 'ann can be preloaded');

log_ok($node);
$node->stop;
done_testing();
