# ivfflat: damaged links between pages give errors. In particular no backend waits for a lock
# that it holds itself, nor goes round a chain for ever.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('ivfflat_links', 'autovacuum = off', 'ignore_checksum_failure = on', 'client_min_messages = error', 'statement_timeout = 20s');
my $rows = random_vectors(1500, 40, seed => 61);
load_vectors($node, 'base', 'vector(40)', $rows);

# Kinds of pages, as in their special area; places on them (ivfflat.h).
my ($META, $BLOB, $HEADS, $CODES, $VECTORS, $TIDS, $FREE) = (1 .. 7);
my $raw = 24;
my $next = 8192 - 8;
my $kind = $next + 4;
my $nblocks = $raw + 12;
my $blocks = $raw + 16;
my $insert = $raw + 4;		# of the first list, on the HEADS page
my $free_pages = $raw + 108;

sub get { my ($file, $block, $at) = @_; return unpack('L', substr($$file, $block * 8192 + $at, 4)); }
sub put { my ($file, $block, $at, $value) = @_; substr($$file, $block * 8192 + $at, 4) = pack('L', $value); return; }

my $insert_sql = sub { "INSERT INTO $_[0] SELECT id, v FROM base" };
my $vacuum_sql = sub { "VACUUM (INDEX_CLEANUP ON) $_[0]" };

# [name, what is done before, damage to (file, blocks of each kind), statement, what it says]
my @damage = (
	[ 'VECTORS page is the CODES page', "INSERT INTO %s SELECT id, v FROM base LIMIT 1",
		sub { my ($file, $of) = @_; put($file, $of->{$CODES}[0], $blocks, $of->{$CODES}[0]) },
		$insert_sql, qr/it owns itself/ ],
	[ 'full page leads to itself', "INSERT INTO %s SELECT id, v FROM base",
		sub {
			my ($file, $of) = @_;
			my $first = $of->{$CODES}[0];
			put($file, $first, $next, $first);
			put($file, $of->{$HEADS}[0], $insert, $first);
		}, $insert_sql, qr/goes round in a circle/ ],
	[ 'empty page leads to itself', "INSERT INTO %1\$s SELECT id, v FROM base; DELETE FROM %1\$s",
		sub { my ($file, $of) = @_; my $second = get($file, $of->{$CODES}[0], $next); put($file, $second, $next, $second) },
		$vacuum_sql, qr/goes round in a circle/ ],
	[ 'empty page leads back', "INSERT INTO %1\$s SELECT id, v FROM base; DELETE FROM %1\$s",
		sub { my ($file, $of) = @_; my $first = $of->{$CODES}[0]; put($file, get($file, $first, $next), $next, $first) },
		$vacuum_sql, qr/goes round in a circle/ ],
	[ 'first page leads to itself', "INSERT INTO %1\$s SELECT id, v FROM base; DELETE FROM %1\$s",
		sub { my ($file, $of) = @_; my $first = $of->{$CODES}[0]; put($file, $first, $next, $first) },
		$vacuum_sql, qr/goes round in a circle/ ],
	[ 'empty page leads to the meta page', "INSERT INTO %1\$s SELECT id, v FROM base; DELETE FROM %1\$s",
		sub { my ($file, $of) = @_; put($file, get($file, $of->{$CODES}[0], $next), $next, 0) },
		$vacuum_sql, qr/not a page of the list/ ],
	[ 'free pages begin with a page in use', "INSERT INTO %s SELECT id, v FROM base LIMIT 1",
		sub { my ($file, $of) = @_; put($file, 0, $free_pages, $of->{$CODES}[0]) },
		$insert_sql, qr/in use, but among the free pages/ ],
	[ 'free pages begin with the meta page', "INSERT INTO %s SELECT id, v FROM base LIMIT 1",
		sub { my ($file, $of) = @_; put($file, 0, $free_pages, 0) },
		$insert_sql, qr/sizes do not fit together/ ],
	map {
		my $owned = $_;
		[ "FREE page owns $owned", "INSERT INTO %1\$s SELECT id, v FROM base; DELETE FROM %1\$s; VACUUM (INDEX_CLEANUP ON) %1\$s",
			sub {
				my ($file, $of) = @_;
				my $free = get($file, 0, $free_pages);
				my $n = unpack('S', substr($$file, $free * 8192 + $nblocks, 2));
				put($file, $free, $blocks + 4 * ($n - 1), { itself => $free, 'the meta page' => 0, 'a list page' => $of->{$CODES}[0] }->{$owned});
			}, $insert_sql, qr/owns a page that is in other use/ ]
	} 'itself', 'the meta page', 'a list page');

my @path;
for my $i (0 .. $#damage)
{
	$node->safe_psql('postgres', "CREATE TABLE t$i (id int, v vector(40)); CREATE INDEX ON t$i USING ivfflat (v)");
	$node->safe_psql('postgres', $_) for split /; /, sprintf($damage[$i][1], "t$i");
	push @path, $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${i}_v_idx')");
}
$node->stop;
for my $i (0 .. $#damage)
{
	my $file = slurp_file($path[$i]);
	my %of;
	push @{ $of{ unpack('S', substr($file, $_ * 8192 + $kind, 2)) } }, $_ for 0 .. length($file) / 8192 - 1;
	$damage[$i][2]->(\$file, \%of);
	open my $fh, '>:raw', $path[$i] or die $!;
	print $fh $file;
	close $fh;
}
$node->start;
for my $i (0 .. $#damage)
{
	my ($timed_out, $err) = (0, '');
	$node->psql('postgres', $damage[$i][3]->("t$i"), stderr => \$err, timeout => 40, timed_out => \$timed_out);
	ok(!$timed_out, "$damage[$i][0]: an answer");
	like($err, $damage[$i][4], "$damage[$i][0]: the damage is reported");
}
log_ok($node);
$node->stop('immediate');
done_testing();
