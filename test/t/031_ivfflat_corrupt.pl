# Damaged pages of an ivfflat index give errors, and ann_index_check finds the damage;
# nothing crashes.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('ivfflat_corrupt', 'autovacuum = off', 'ignore_checksum_failure = on', 'client_min_messages = error', 'statement_timeout = 30s');
my $rows = random_vectors(600, 40, seed => 61);
my $query = vector_text($rows->[0]);
load_vectors($node, 'base', 'vector(40)', $rows);
$node->safe_psql('postgres', 'INSERT INTO base SELECT 2000 + i, NULL FROM generate_series(1, 30) i');

# Kinds of pages, as in their special area.
my ($META, $BLOB, $HEADS, $CODES, $VECTORS, $TIDS) = (1 .. 6);
my $raw = 24;
my $special = 8192 - 8;

# Damage: [name, kind of page, what the check says, offset, bytes, ...].  List pages start at
# $raw: chain 0, prev 4, count 8, live 10, pages 12, their blocks from 16.
# Entries of vector(40) with an included integer start behind the blocks of two pages of vectors, with their keys.
my $blocks = $raw + 16;
my $keys = $blocks + 8;
my $refused = qr/^ERROR/;
my $end = pack('L', 0xFFFFFFF0);
my @damage = (
	[ 'magic number', $META, $refused, $raw, pack('L', 1) ],
	[ 'version', $META, qr/^ERROR.*version 99.*REINDEX/s, $raw + 4, pack('S', 99) ],
	[ 'chain of a list', $HEADS, qr/it is a page of chain 0, and in chain 3$/m, $raw + 8, pack('L', 3) ],
	[ 'chains to come', $META, qr/the list has a chain that is still to come/, $raw + 184, pack('L', 2) ],
	[ 'type', $META, $refused, $raw + 12, pack('C', 200) ],
	[ 'entries to a page', $META, $refused, $raw + 8 + 16, pack('S', 5000) ],
	[ 'bytes of a key', $META, $refused, $raw + 8 + 30, pack('S', 4) ],
	[ 'no keys', $META, $refused, $raw + 8 + 30, pack('S', 0) ],
	[ 'key of an entry', $CODES, qr/its key is not that of its first included column/, $keys, pack('S', 1) ],
	[ 'page id', $CODES, qr/not of the kind/, $special + 6, pack('S', 7) ],
	[ 'page kind', $CODES, qr/not of the kind/, $special + 4, pack('S', $VECTORS) ],
	[ 'kind of a vector page', $VECTORS, qr/not of the kind/, $special + 4, pack('S', $CODES) ],
	[ 'another list', $CODES, qr/it is a page of chain 77/, $raw, pack('L', 77) ],
	[ 'page before', $CODES, qr/the page before it is not/, $raw + 4, pack('L', 3) ],
	[ 'entries', $CODES, qr/more entries or pages than it can hold/, $raw + 8, pack('S', 60000) ],
	[ 'live entries', $CODES, qr/entries and counts 1$/m, $raw + 10, pack('S', 1) ],
	[ 'pages of vectors', $CODES, qr/it has no vector/, $raw + 12, pack('S', 0) ],
	[ 'block of vectors', $CODES, qr/which does not exist/, $blocks, $end ],
	[ 'somebody else\'s vectors', $CODES, qr/named more than once/, $blocks, sub { pack('L', $_[1]{$VECTORS}[1]) } ],
	[ 'next page', $CODES, qr/which does not exist/, $special, $end ],
	[ 'a list in a circle', $CODES, qr/named more than once/, $special, sub { pack('L', $_[0]) } ],
	[ 'heap TID of a vector', $VECTORS, qr/written for another heap tuple/, $raw, pack('SSS', 0, 0, 250) ],
	[ 'first page of a list', $HEADS, qr/which does not exist/, $raw, $end ],
	[ 'page for inserts', $HEADS, qr/inserts are sent to block/, $raw + 4, sub { pack('L', $_[1]{$CODES}[1]) } ],
	[ 'list without a page', $HEADS, qr/the list has no page/, $raw, pack('L', 0xFFFFFFFF) ],
	[ 'a coordinate of a centroid', $BLOB, qr/not finite/, $raw + 40, pack('L', 0x7FC00000) ],
	[ 'free pages', $META, qr/not of the kind|named more than once/, $raw + 108, sub { pack('L', $_[1]{$BLOB}[0] == 1 ? $_[1]{$TIDS}[0] : 1) } ],
	[ 'NULLs counted wrong', $TIDS, qr/entries and counts 9$/m, $raw + 10, pack('S', 9), 1 ],
	[ 'whole list page', $CODES, $refused, 0, "\xA5" x 8192 ],
	[ 'whole meta page', $META, $refused, 0, "\x5A" x 8192 ],
	[ 'zeroes', $META, $refused, 0, "\0" x 8192 ]);

# Then bytes anywhere, which the check need not find.
my $next = random_numbers(62);
push @damage, [ "random $_" ] for 1 .. 16;

my %path;
for my $i (0 .. $#damage)
{
	$node->safe_psql('postgres', "CREATE TABLE t$i AS SELECT * FROM base; CREATE INDEX t${i}_idx ON t$i USING ivfflat (v) INCLUDE (id) WITH (lists = 6);
		DELETE FROM t$i WHERE id BETWEEN 10 AND 20");
	$path{$i} = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${i}_idx')");
}
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
	else
	{
		# The page that is first, or last where a number stands behind the bytes.
		my $block = @changes % 2 ? $blocks{$kind}[-1] : $blocks{$kind}[0];
		my ($offset, $bytes) = @changes;
		$bytes = $bytes->($block, \%blocks) if ref $bytes;
		substr($file, $block * 8192 + $offset, length $bytes) = $bytes;
	}
	open my $fh, '>:raw', $path{$i} or die $!;
	print $fh $file;
	close $fh;
}
$node->start;

for my $i (0 .. $#damage)
{
	my ($name, $kind, $says) = @{ $damage[$i] };
	my @statements = (
		"SELECT defect FROM ann_index_check('t${i}_idx', true)",
		"SELECT count(*) FROM ann_index_info('t${i}_idx')",
		"SET enable_seqscan = off; SELECT id FROM t$i ORDER BY v <-> '$query' LIMIT 5",
		"SET enable_seqscan = off; SELECT id FROM t$i WHERE id = 300 ORDER BY v <-> '$query' LIMIT 5",
		"SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT id FROM t$i ORDER BY v <-> '$query') s",
		"INSERT INTO t$i SELECT id + 5000, v FROM base WHERE id < 200",
		"INSERT INTO t$i SELECT id + 6000, NULL FROM base WHERE id < 20",
		"VACUUM (INDEX_CLEANUP ON) t$i",
		"INSERT INTO t$i SELECT id + 7000 + 1000 * g, v FROM base, generate_series(1, 3) g",
		"VACUUM (INDEX_CLEANUP ON) t$i");
	my ($answers, $checked) = answers($node, @statements);
	is($answers, scalar @statements, "$name: every statement ends with an answer or an error");
	like($checked, $says, "$name: found") if $says;
}
is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server lives');
log_ok($node);
$node->stop;
done_testing();
