# Damage to chains and attribute areas of an hnsw index with included columns: the check finds
# it, searches, inserts and VACUUM answer or raise errors, and nothing crashes or goes on forever.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('include_corrupt', 'autovacuum = off', 'ignore_checksum_failure = on', 'client_min_messages = error',
	'statement_timeout = 30s');
my $rows = random_vectors(200, 40, seed => 53);
my $query = vector_text($rows->[0]);

load_vectors($node, 'base', 'vector(40)', $rows);

# Rows of 488 bytes, 16 to a page.  Behind header and vector, at 192: states, tenant (int),
# note (length, 31 bytes).  A CHAIN page is an array of {first piece, rows}, a PIECE page one
# of 20 pieces {chain, next, count, 8 cards}, and a card {row, factors, states, tenant, note}.
my ($ROW, $CHAIN, $PIECE) = (4, 8, 9);
my ($raw, $special, $row_size) = (24, 8192 - 8, 488);
my ($area, $card_size, $per_page) = ($raw + 192, 48, 20);
my $piece_size = 12 + 8 * $card_size;
my $nowhere = pack('L', 0xFFFFFFF0);
my $none = 0xFFFFFFFF;

# The chains that have rows, as places on the page.
sub chains
{
	my ($page) = @_;
	return grep { unpack('L', substr($page, $_, 4)) != $none } map { $raw + 8 * $_ } 0 .. 1018;
}

# The pieces that have two cards at least, likewise, and the free ones.
sub pieces
{
	my ($page) = @_;
	return grep { my ($chain, undef, $count) = unpack('LLL', substr($page, $_, 12)); $chain != $none && $count >= 2 }
		map { $raw + $piece_size * $_ } 0 .. $per_page - 1;
}

sub free_pieces
{
	my ($page) = @_;
	return grep { unpack('L', substr($page, $_, 4)) == $none } map { $raw + $piece_size * $_ } 0 .. $per_page - 1;
}

# Whether the change has on a page what it needs.
my %usable = ($CHAIN => sub { chains($_[0]) >= 2 }, $PIECE => sub { my ($page) = @_; my %of = map { substr($page, $_, 4) => 1 } pieces($page); keys %of >= 2 && free_pieces($page) >= 1 });

# Changes a number at an offset from the first piece with cards.
sub in_piece
{
	my ($offset, $value) = @_;
	return sub { substr($_[0], (pieces($_[0]))[0] + $offset, length $value) = $value };
}

# [name, kind of page, what the check says, change of the page by block number]
my @damage = (
	[ 'chain to nowhere', $CHAIN, qr/comes to piece \d+, which is none/, sub { substr($_[0], (chains($_[0]))[0], 4) = $nowhere } ],
	[ 'chain lost', $CHAIN, qr/it has no card in its chain/, sub { substr($_[0], (chains($_[0]))[0], 4) = pack('L', $none) } ],
	[ 'chains exchanged', $CHAIN, qr/belongs to another one/, sub {
			my ($a, $b) = chains($_[0]);
			my $first = substr($_[0], $a, 4);
			substr($_[0], $a, 4) = substr($_[0], $b, 4);
			substr($_[0], $b, 4) = $first;
		} ],
	[ 'rows counted too low', $CHAIN, qr/but counts 1/, sub { substr($_[0], (chains($_[0]))[0] + 4, 4) = pack('L', 1) } ],
	[ 'rows counted too high', $CHAIN, qr/^$/, sub { substr($_[0], (chains($_[0]))[0] + 4, 4) = pack('L', $none) } ],
	[ 'piece of another chain', $PIECE, qr/belongs to another one/, in_piece(0, pack('L', 3)) ],
	[ 'link to itself', $PIECE, qr/in use already/, sub {
			my ($at) = pieces($_[0]);
			substr($_[0], $at + 4, 4) = pack('L', $_[1] * $per_page + ($at - $raw) / $piece_size);
		} ],
	[ 'link to nowhere', $PIECE, qr/which is none/, in_piece(4, $nowhere) ],
	[ 'too many cards', $PIECE, qr/more than it can hold/, in_piece(8, $nowhere) ],
	[ 'card of no row', $PIECE, qr/which does not live/, in_piece(12, $nowhere) ],
	[ 'card of another chain', $PIECE, qr/belongs to another chain/, sub {
			my ($a, @rest) = pieces($_[0]);
			my ($b) = grep { substr($_[0], $_, 4) ne substr($_[0], $a, 4) } @rest;
			my $row = substr($_[0], $a + 12, 4);
			substr($_[0], $a + 12, 4) = substr($_[0], $b + 12, 4);
			substr($_[0], $b + 12, 4) = $row;
		} ],
	[ 'two cards of a row', $PIECE, qr/a second card/, sub {
			my ($at) = pieces($_[0]);
			substr($_[0], $at + 12 + $card_size, 4) = substr($_[0], $at + 12, 4);
		} ],
	[ 'card with other values', $PIECE, qr/other included values than the row/, in_piece(12 + 8 + 6, 'x') ],
	[ 'free piece that follows itself', $PIECE, qr/in use already/, sub {
			my ($at) = free_pieces($_[0]);
			substr($_[0], $at + 4, 4) = pack('L', $_[1] * $per_page + ($at - $raw) / $piece_size);
		} ],
	[ 'free piece that says it is not', $PIECE, qr/listed as a free piece, but is none/, sub {
			my ($at) = free_pieces($_[0]);
			substr($_[0], $at, 4) = pack('L', 7);
		} ],
	[ 'state', $ROW, qr/in no known state/, sub { substr($_[0], $area, 1) = pack('C', 0x0F) } ],
	[ 'length', $ROW, qr/longer than its place/, sub { substr($_[0], $area + 5, 1) = pack('C', 200) } ],
	[ 'bytes behind', $ROW, qr/bytes behind an included value/, sub { substr($_[0], $area + 36, 1) = 'x' } ],
	[ 'tenant', $ROW, qr/belongs to another chain|no card in its chain/, sub { substr($_[0], $area + 1, 4) = pack('L', 12345) } ],
	[ 'a CHAIN page as another kind', $CHAIN, qr/is no page of that kind|bounds/, sub { substr($_[0], $special + 4, 2) = pack('S', 3) } ],
	[ 'a PIECE page as another kind', $PIECE, qr/which is none/, sub { substr($_[0], $special + 4, 2) = pack('S', 3) } ]);

my %path;
for my $i (0 .. $#damage)
{
	$node->safe_psql('postgres', "CREATE TABLE t$i AS SELECT id, id % 6 AS tenant, 'note ' || id % 7 AS note, v FROM base;
		CREATE INDEX t${i}_idx ON t$i USING hnsw (v vector_l2_ops) INCLUDE (tenant, note) WITH (quantizer = none);
		DELETE FROM t$i WHERE id BETWEEN 10 AND 20; ANALYZE t$i");
	$path{$i} = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${i}_idx')");
}
is($node->safe_psql('postgres', "SELECT value FROM ann_index_info('t0_idx') WHERE name = 'bytes of a row'"),
	$row_size, 'rows are as the offsets here assume');
index_ok($node, 't0_idx');
$node->stop;

for my $i (0 .. $#damage)
{
	my (undef, $kind, undef, $change) = @{ $damage[$i] };
	my $file = slurp_file($path{$i});
	my ($block) = grep {
		my $page = substr($file, $_ * 8192, 8192);
		unpack('S', substr($page, $special + 4, 2)) == $kind && (!$usable{$kind} || $usable{$kind}->($page))
	} 0 .. length($file) / 8192 - 1;
	die 'no page to damage' unless defined $block;
	my $page = substr($file, $block * 8192, 8192);
	$change->($page, $block);
	substr($file, $block * 8192, 8192) = $page;
	open my $fh, '>:raw', $path{$i} or die $!;
	print $fh $file;
	close $fh;
}
$node->start;

for my $i (0 .. $#damage)
{
	my ($name, undef, $says) = @{ $damage[$i] };
	my $set = 'SET enable_seqscan = off; SET enable_sort = off;';
	my @sql = (
		"SELECT defect FROM ann_index_check('t${i}_idx', false)",
		(map { "$set SELECT count(*) FROM (SELECT id FROM t$i WHERE tenant = $_ ORDER BY v <-> '$query' LIMIT 50) s" } 0 .. 5),
		"$set SELECT count(*) FROM (SELECT id FROM t$i WHERE note > 'note 3' ORDER BY v <-> '$query') s",
		"INSERT INTO t$i SELECT id, id % 6, 'note ' || id % 7, v FROM base WHERE id < 30",
		"INSERT INTO t$i SELECT id + 6000, id % 6, 'x', v * v FROM base WHERE id < 60",
		"VACUUM t$i",
		"SELECT count(*) FROM ann_index_check('t${i}_idx', true)");
	my ($answers, $checked) = answers($node, @sql);
	is($answers, scalar @sql, "$name: answers and errors only");
	like($checked, $says, "$name: the check finds it, if it does harm");
}
log_ok($node);
$node->stop;
done_testing();
