# Damaged pages give errors, and ann_index_check finds the damage; nothing crashes.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('corrupt', 'autovacuum = off', 'ignore_checksum_failure = on', 'client_min_messages = error', 'statement_timeout = 30s');
my $rows = random_vectors(200, 40, seed => 51);
my $query = vector_text($rows->[0]);

load_vectors($node, 'base', 'vector(40)', $rows);
$node->safe_psql('postgres', "
	INSERT INTO base SELECT 1000 + i, (SELECT v FROM base WHERE id = 3) FROM generate_series(1, 30) i;
	INSERT INTO base SELECT 2000 + i, NULL FROM generate_series(1, 30) i");

# Kinds of pages, as in their special area.
my ($META, $CENTER, $ENTRY, $ROW, $NODE, $TIDLIST) = (1 .. 6);
my $raw = 24;
my $special = 8192 - 8;

# An index without codes has 18 rows of 448 bytes on a page; slots of 8 bytes, {row,
# length}, start at byte 192 of a row.
my $row_size = 448;
my $slots = 192;

# Places in the meta page behind the 32 bytes of the layout at 12.
my ($LAYOUT, $FREE_ROW_PAGES, $NODE_PAGES) = (12, 132, 136);

# Damage: [name, kind of page, what the check says, offset, bytes, ...].  A function gives
# bytes from the block and the page.  Rows start at $raw: state 0, edges 1, TIDs 4,
# node 24, hash 28 (README, Row layout).
my $end = pack('L', 0xFFFFFFF0);
my $refused = qr/^ERROR/;
my @damage = (
	[ 'magic number', $META, $refused, $raw, pack('L', 1) ],
	[ 'version', $META, qr/^ERROR.*version 99.*REINDEX/s, $raw + 4, pack('S', 99) ],
	[ 'rows per page', $META, $refused, $raw + $LAYOUT + 26, pack('S', 5000) ],
	[ 'page id', $ROW, qr/not a page of an hnsw index/, $special + 6, pack('S', 7) ],
	[ 'page kind', $ROW, qr/bounds in the header/, $special + 4, pack('S', $NODE) ],
	[ 'unknown kind', $ROW, qr/page of kind 77 does not belong/, $special + 4, pack('S', 77) ],
	[ 'bounds', $ROW, qr/bounds in the header/, 12, pack('S', 8000) ],
	[ 'state of a row', $ROW, qr/state 9 is none/, $raw, pack('C', 9) ],
	[ 'a free row in the graph', $ROW, qr/leads to row \d+, which does not live/, $raw, pack('C', 0) ],
	[ 'a row marked deleting', $ROW, qr/being deleted, but has heap TIDs/, $raw, pack('C', 2) ],
	[ 'number of edges', $ROW, qr/250 edges/, $raw + 1, pack('C', 250) ],
	[ 'number of TIDs', $ROW, qr/200 heap TIDs/, $raw + 4, pack('C', 200) ],
	[ 'no TIDs', $ROW, qr/it has no heap TID/, $raw + 4, pack('C', 0) ],
	[ 'a TID', $ROW, qr/a heap TID is not valid/, $raw + 6, pack('SSS', 0, 0, 0) ],
	[ 'a TID lost', $ROW, qr/heap tuple \(0,1\) is not in the index/, $raw + 6, pack('SSS', 0, 0, 200) ],
	[ 'a TID twice', $ROW, qr/heap tuple \(0,1\) is in the index 2 times/, $raw + $row_size + 6, pack('SSS', 0, 0, 1) ],
	[ 'hash', $ROW, qr/in the index under another value/, $raw + 28, pack('L', 12345) ],
	[ 'chain to no node', $ROW, qr/names node 3, which is none/, $raw + 24, pack('L', 3) ],
	[ 'chain beyond the end', $ROW, qr/which is none/, $raw + 24, $end ],
	[ 'another row\'s chain', $NODE, qr/belongs to another row/, $raw + 8, pack('L', 77) ],
	[ 'node in no chain', $NODE, qr/whose chain does not have it/, $raw + 8 + 72 * 50, pack('L', 77) ],
	[ 'free nodes', $NODE, qr/counts 3 free ones/, $raw, pack('S', 3) ],
	[ 'nodes not listed', $NODE, qr/free ones is not listed/, $raw + 2, pack('S', 0) ],
	[ 'list of nodes lost', $META, qr/says that it is in the list/, $raw + $NODE_PAGES, pack('L', 0xFFFFFFFF) ],
	[ 'TIDs of a node', $NODE, qr/has 4000 TIDs/, $raw + 8 + 8, pack('S', 4000) ],
	[ 'next node', $NODE, qr/which is none/, $raw + 8 + 4, $end ],
	[ 'a cycle of nodes', $NODE, qr/has a cycle/, $raw + 8 + 4, sub { pack('L', $_[0] * int((8192 - 24 - 8 - 8) / 72)) } ],
	[ 'entry', $ENTRY, qr/an entry names row/, $raw, $end ],
	[ 'number of NULLs', $TIDLIST, qr/100000 TIDs/, $raw, pack('L', 100000) ],
	[ 'NULLs as zero vectors', $TIDLIST, qr/belongs to the other one/, $raw + 4, pack('S', 1) ],
	[ 'next page of NULLs', $TIDLIST, qr/no page of that kind/, $special, pack('L', 1) ],
	[ 'list of NULLs in a circle', $TIDLIST, qr/in use already/, $special, sub { pack('L', $_[0]) } ],
	[ 'pages of NULLs with room', $TIDLIST, qr/pages with room is broken/, $raw + 8, pack('L', 1) ],
	[ 'free rows where there are none', $META, qr/listed as having free rows, but has none/, $raw + $FREE_ROW_PAGES,
		sub { pack('L', $_[1]{$ROW}[0]) } ],
	[ 'a page in no list', $ROW, qr/seems to be in the list/, $special, pack('L', 1) ],
	[ 'edge to itself', $ROW, qr/leads to its own row/, $raw + $slots, sub { pack('L', $_[0] * 18) } ],
	[ 'edge twice', $ROW, qr/lead to the same row/, $raw + $slots, sub { substr($_[2], $raw + $slots + 8, 8) } ],
	[ 'length of an edge', $ROW, qr/length of edge 0 is not a distance/, $raw + $slots + 4, pack('L', 0x7FC00000) ],
	[ 'vector', $ROW, qr/not finite/, $raw + 32 + 8, pack('L', 0x7F800000) ],
	[ 'no edges', $ROW, qr/cannot be reached/, map { ($raw + $_ * $row_size + 1, "\0") } 0 .. 17 ],
	[ 'whole row page', $ROW, $refused, 0, "\xA5" x 8192 ],
	[ 'whole meta page', $META, $refused, 0, "\x5A" x 8192 ],
	[ 'zeroes', $META, $refused, 0, "\0" x 8192 ]);

# Then bytes anywhere, which the check need not find.
my $next = random_numbers(52);
push @damage, [ "random $_" ] for 1 .. 16;

my %path;
for my $i (0 .. $#damage)
{
	my $with = $damage[$i][1] || $i % 2 ? 'WITH (quantizer = none)' : '';
	$node->safe_psql('postgres', "CREATE TABLE t$i AS SELECT * FROM base;
		CREATE INDEX t${i}_idx ON t$i USING hnsw (v vector_l2_ops) $with;
		DELETE FROM t$i WHERE id BETWEEN 10 AND 20");
	$path{$i} = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${i}_idx')");
}
is($node->safe_psql('postgres', "SELECT value FROM ann_index_info('t0_idx') WHERE name = 'bytes of a row'"),
	$row_size, 'rows are as the offsets here assume');
index_ok($node, 't0_idx');
$node->stop;

for my $i (0 .. $#damage)
{
	my ($name, $kind, $says, @changes) = @{ $damage[$i] };
	my $file = slurp_file($path{$i});
	my %blocks;

	push @{ $blocks{ unpack('S', substr($file, $_ * 8192 + $special + 4, 2)) } }, $_ for 0 .. length($file) / 8192 - 1;
	if (!$kind)
	{
		substr($file, int($next->() * length($file)), 1) = pack('C', int($next->() * 256)) for 1 .. 12;
	}
	my $last = $name eq 'no edges' ? $#{ $blocks{$kind} } : 0;
	for my $block (map { $blocks{$kind}[$_] } $kind ? 0 .. $last : ())
	{
		for (my $c = 0; $c < @changes; $c += 2)
		{
			my $bytes = $changes[ $c + 1 ];
			$bytes = $bytes->($block, \%blocks, substr($file, $block * 8192, 8192)) if ref $bytes;
			substr($file, $block * 8192 + $changes[$c], length $bytes) = $bytes;
		}
	}
	open my $fh, '>:raw', $path{$i} or die $!;
	print $fh $file;
	close $fh;
}
$node->start;

for my $i (0 .. $#damage)
{
	my ($name, $kind, $says) = @{ $damage[$i] };
	my @sql = (
		"SELECT defect FROM ann_index_check('t${i}_idx', true)",
		"SELECT count(*) FROM ann_index_info('t${i}_idx')",
		"SET enable_seqscan = off; SELECT id FROM t$i ORDER BY v <-> '$query' LIMIT 5",
		"SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT id FROM t$i ORDER BY v <-> '$query') s",
		"INSERT INTO t$i SELECT id + 5000, v FROM base WHERE id < 20 OR id > 1020",
		"INSERT INTO t$i SELECT id + 6000, v * v FROM base WHERE id < 60",
		"VACUUM t$i",
		"SELECT count(*) FROM ann_index_check('t${i}_idx')");
	my ($answers, $checked) = answers($node, @sql);
	is($answers, scalar @sql, "$name: answers and errors only");
	like($checked, $says, "$name: the check finds it") if $says;
}

log_ok($node);
$node->stop;
done_testing();
