# The server is killed twenty times under mixed writes and VACUUM: after recovery the
# indexes have no defect, hold exactly what the table holds, and find it.
use strict;
use warnings;

use AnnTest;
use IPC::Run;
use Test::More;
use Time::HiRes qw(usleep);

my $node = ann_node('crash', 'autovacuum = off', 'shared_buffers = 2MB', 'max_wal_size = 64MB', 'fsync = off');
my $queries = [ map { vector_text($_) } @{ random_vectors(20, 40, seed => 22) } ];

load_vectors($node, 't', 'vector(40)', random_vectors(2000, 40, seed => 21));
$node->safe_psql(
	'postgres', q{
	ALTER TABLE t ADD PRIMARY KEY (id);
	CREATE SEQUENCE s START 10000;
	CREATE INDEX t_hnsw ON t USING hnsw (v vector_l2_ops);
	CREATE INDEX t_hnsw_included ON t USING hnsw (v vector_ip_ops) INCLUDE (id);
	CREATE INDEX t_ivfflat ON t USING ivfflat (v vector_cosine_ops);
	CREATE INDEX t_ivfflat_included ON t USING ivfflat ((v::halfvec(40)) halfvec_l2_ops) INCLUDE (id)});
my @indexes = qw(t_hnsw t_hnsw_included t_ivfflat t_ivfflat_included);

my $dir = $node->basedir;
my %scripts = (
	write => q{
\set i random(0, 1999)
\set j random(0, 1999)
INSERT INTO t SELECT nextval('s'), CASE WHEN random() < 0.1 THEN NULL ELSE v END FROM t WHERE id = :i;
INSERT INTO t SELECT nextval('s'), (SELECT array_agg(random() * 16 - 8 + :i * 0) FROM generate_series(1, 40))::vector;
UPDATE t SET v = v * array_fill(-1, ARRAY[40])::vector WHERE id = :j;
DELETE FROM t WHERE id IN (SELECT id FROM t WHERE id >= 10000 ORDER BY random() LIMIT 2);
},
	vacuum => "VACUUM t;\n");
pgbench_scripts($node, %scripts);

for my $round (1 .. 20)
{
	my ($out, $err) = ('', '');
	my $bench = IPC::Run::start(
		[
			'pgbench', '-n', '-c', 4, '-T', 60, '-h', $node->host, '-p', $node->port,
			'-f', "$dir/write.sql\@9", '-f', "$dir/vacuum.sql\@1", 'postgres'
		],
		'>', \$out, '2>', \$err);
	usleep(300_000 + 30_000 * $round);
	$node->kill9;
	$bench->finish;

	# The killed server's children may hold its shared memory for a moment.
	my $started;
	for (1 .. 100)
	{
		last if $started = $node->start(fail_ok => 1);
		usleep(100_000);
		$node->stop('fast', fail_ok => 1);
	}
	ok($started, "round $round: recovery");
	# What the leader of a parallel VACUUM says when the server dies.
	$err =~ s/ERROR:  lost connection to parallel worker//g;
	unlike($err, qr/ERROR/, "round $round: writes went on until then");
	index_ok($node, $_) for @indexes;
}

$node->safe_psql('postgres', 'VACUUM t; ANALYZE t');
my %crashed;
for my $when ('crashed', 'fresh')
{
	for my $case (
		[ 't_hnsw', '<->', 'hnsw.ef_search = 100' ],
		[ 't_ivfflat', '<=>', 'ivfflat.probes = 30' ])
	{
		my ($index, $operator, $setting) = @$case;
		my ($mean) = recall(
			$node,
			table => 't',
			operator => $operator,
			queries => $queries,
			settings => index_scan() . "SET $setting",
			plan => qr/Index Scan using $index/);
		note("$index, $when: recall $mean");
		if ($when eq 'crashed') { $crashed{$index} = $mean; }
		else { cmp_ok($crashed{$index}, '>=', $mean - 0.07, "$index: recall after twenty crashes, of a fresh index $mean"); }
	}
	for my $index (@indexes)
	{
		index_ok($node, $index);
		is( $node->safe_psql(
				'postgres', "SELECT (SELECT CASE WHEN '$index' ~ 'hnsw' THEN sum(value::bigint) FILTER (WHERE name = 'heap tuples')
				ELSE sum(value::bigint) FILTER (WHERE name IN ('rows', 'NULL vectors', 'zero vectors')) END
				FROM ann_index_info('$index') WHERE value ~ '^[0-9]+\$') - (SELECT count(*) FROM t)"),
			'0',
			"$index, $when: nothing else in the index");
	}
	$node->safe_psql('postgres', 'REINDEX TABLE t') if $when eq 'crashed';
}
$node->stop;
done_testing();
