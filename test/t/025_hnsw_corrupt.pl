# Damaged pages give errors, and ann_index_check finds the damage; nothing crashes.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = ann_node('corrupt', 'autovacuum = off', 'ignore_checksum_failure = on', 'statement_timeout = 30s');
my $rows = random_vectors(200, 40, seed => 51);
my $query = vector_text($rows->[0]);

load_vectors($node, 'base', 'vector(40)', $rows);
$node->safe_psql('postgres', "
	INSERT INTO base SELECT 1000 + i, (SELECT v FROM base WHERE id = 3) FROM generate_series(1, 30) i;
	INSERT INTO base SELECT 2000 + i, NULL FROM generate_series(1, 30) i");

# Pages: 0 is the meta page; the others are found by the kind in their last bytes.
my ($META, $CENTER, $ENTRY, $ROW, $NODE, $TIDLIST) = (1 .. 6);
my $raw = 24;
my $special = 8192 - 8;
my %first;    # block of the first page of each kind

# Damage: [name, kind of page, offset, bytes].  Rows start at $raw: state 0, edges 1,
# TIDs 4, node 24 (README, Row layout).
my $end = pack('L', 0xFFFFFFF0);
my @damage = (
	[ 'magic number', $META, $raw, pack('L', 1) ],
	[ 'version', $META, $raw + 4, pack('S', 99) ],
	[ 'rows per page', $META, $raw + 12 + 26, pack('S', 5000) ],
	[ 'page id', $ROW, $special + 6, pack('S', 7) ],
	[ 'page kind', $ROW, $special + 4, pack('S', $NODE) ],
	[ 'unknown kind', $ROW, $special + 4, pack('S', 77) ],
	[ 'bounds', $ROW, 12, pack('S', 8000) ],
	[ 'state of a row', $ROW, $raw, pack('C', 9) ],
	[ 'a free row in the graph', $ROW, $raw, pack('C', 0) ],
	[ 'a row marked deleting', $ROW, $raw, pack('C', 2) ],
	[ 'number of edges', $ROW, $raw + 1, pack('C', 250) ],
	[ 'number of TIDs', $ROW, $raw + 4, pack('C', 200) ],
	[ 'no TIDs', $ROW, $raw + 4, pack('C', 0) ],
	[ 'a TID', $ROW, $raw + 6, pack('SSS', 0, 0, 0) ],
	[ 'another TID', $ROW, $raw + 6, pack('SSS', 0, 0, 33) ],
	[ 'hash', $ROW, $raw + 28, pack('L', 12345) ],
	[ 'chain of TIDs', $ROW, $raw + 24, pack('L', 3) ],
	[ 'chain beyond the end', $ROW, $raw + 24, $end ],
	[ 'entry', $ENTRY, $raw, $end ],
	[ 'free nodes', $NODE, $raw, pack('S', 3) ],
	[ 'owner of a node', $NODE, $raw + 8, pack('L', 77) ],
	[ 'TIDs of a node', $NODE, $raw + 8 + 8, pack('S', 4000) ],
	[ 'next node', $NODE, $raw + 8 + 4, $end ],
	[ 'a cycle of nodes', $NODE, $raw + 8 + 72 + 4, undef ],
	[ 'number of NULLs', $TIDLIST, $raw, pack('L', 100000) ],
	[ 'next page of NULLs', $TIDLIST, $special, pack('L', 1) ],
	[ 'whole row page', $ROW, 0, "\xA5" x 8192 ],
	[ 'whole meta page', $META, 0, "\x5A" x 8192 ],
	[ 'zeroes', $META, 0, "\0" x 8192 ],
	[ 'edges', $ROW, -1, $end ]);

# Then bytes anywhere, which the check need not find.
my $next = random_numbers(52);
push @damage, [ "random $_", 0, 0, undef ] for 1 .. 16;

my %path;
for my $i (0 .. $#damage)
{
	my $plain = $i % 2 ? '' : '';
	$node->safe_psql('postgres', "CREATE TABLE t$i AS SELECT * FROM base;
		CREATE INDEX t${i}_idx ON t$i USING hnsw (v vector_l2_ops) $plain;
		DELETE FROM t$i WHERE id BETWEEN 10 AND 20");
	$path{$i} = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${i}_idx')");
}
my ($slots) = $node->safe_psql('postgres',
	"SELECT (SELECT value FROM ann_index_info('t0_idx') WHERE name = 'bytes of a row')");
$node->safe_psql('postgres', 'CHECKPOINT');
$node->stop;

for my $i (0 .. $#damage)
{
	my ($name, $kind, $offset, $bytes) = @{ $damage[$i] };
	open my $fh, '+<:raw', $path{$i} or die $!;
	my $size = -s $fh;
	my @blocks;
	for my $block (0 .. $size / 8192 - 1)
	{
		my $k;
		seek $fh, $block * 8192 + $special + 4, 0;
		read $fh, $k, 2;
		push @{ $blocks[ unpack('S', $k) ] }, $block;
	}
	if ($kind == 0)
	{
		for (1 .. 12)
		{
			seek $fh, int($next->() * $size), 0;
			print $fh pack('C', int($next->() * 256));
		}
	}
	else
	{
		my $block = $blocks[$kind][0];
		die "no page of kind $kind for $name" if !defined $block;
		if ($name eq 'a cycle of nodes')
		{
			# Second node: next is itself.
			$bytes = pack('L', $block * int((8192 - 24 - 8 - 8) / 72) + 1);
		}
		# The last slot's neighbour: slots are at the end of a row.
		$offset = $raw + $slots - 200 if $offset < 0;
		seek $fh, $block * 8192 + $offset, 0;
		print $fh $name eq 'edges' ? "\xF1" x 190 : $bytes;
	}
	close $fh;
}
$node->start;

for my $i (0 .. $#damage)
{
	my ($name, $kind) = @{ $damage[$i] };
	my $checked = '';
	my $answers = 0;

	for my $sql (
		"SELECT count(*) FROM ann_index_check('t${i}_idx', true)",
		"SELECT count(*) FROM ann_index_info('t${i}_idx')",
		"SET enable_seqscan = off; SELECT id FROM t$i ORDER BY v <-> '$query' LIMIT 5",
		"SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT id FROM t$i ORDER BY v <-> '$query') s",
		"INSERT INTO t$i SELECT id + 5000, v FROM base WHERE id < 20 OR id > 1020",
		"INSERT INTO t$i SELECT id + 6000, v * v FROM base WHERE id < 60",
		"VACUUM t$i",
		"SELECT count(*) FROM ann_index_check('t${i}_idx')")
	{
		my ($rc, $out, $err) = $node->psql('postgres', $sql);
		# 0: an answer, 3: an error of the script.  2 would be a lost connection.
		$answers++ if $rc == 0 || $rc == 3;
		$checked = $rc == 0 ? $out : 'error' if $checked eq '';
	}
	is($answers, 8, "$name: answers and errors only");
	isnt($checked, '0', "$name: the check finds it") if $kind;
}

log_ok($node);
$node->stop;
done_testing();
