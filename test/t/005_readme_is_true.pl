# README.md: its SQL runs and prints what it says, and its reference leaves out no
# function, operator, operator class, type or setting of the extension.
use strict;
use warnings;

use AnnTest;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

open(my $file, '<:encoding(UTF-8)', "$FindBin::RealBin/../../README.md") or die "README.md: $!";
my $readme = do { local $/; <$file> };
close $file;

my $node = ann_node('readme');

# A block of SQL may be followed by a block of text: what psql prints for it.
my $blocks = 0;
while ($readme =~ /^```sql\n(.*?)^```\n(?:```text\n(.*?)^```\n)?/msg)
{
	my ($sql, $expected) = ($1, $2);
	my ($first) = split /\n/, $sql;
	my ($out, $err);
	my $good = IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', '-' ],
		'<', \$sql, '>', \$out, '2>', \$err);
	ok($good, "runs: $first") or diag($err);
	s/\s+\z// for $out, $expected //= '';
	is($out, $expected, "prints what the README says: $first");
	$blocks++;
}
cmp_ok($blocks, '>=', 4, 'the README has examples');

my $members = sub {
	my ($catalog, $name) = @_;
	return split /\n/, $node->safe_psql(
		'postgres', qq{
		SELECT DISTINCT $name FROM $catalog o JOIN pg_depend d ON d.objid = o.oid AND d.classid = '$catalog'::regclass
		WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ann')});
};

# Functions of which each type has one are listed with T for the type's name.
my @missing = grep {
	my $name = $_;
	(my $general = $name) =~ s/\b(vector|halfvec|sparsevec)\b|(?<![a-z])(vector|halfvec|sparsevec)(?=_)|(?<=_)(vector|halfvec|sparsevec)(?![a-z])/T/;
	$general = 'A_to_B' if $name =~ /^(vector|halfvec|sparsevec)_to_(vector|halfvec|sparsevec)$/;
	$readme !~ /`\Q$name\E(\(|`)/ && $readme !~ /`\Q$general\E`/;
} $members->('pg_proc', 'proname');
is("@missing", '', 'the README names every function');

is(join(' ', grep { index($readme, "| `$_(n)`") < 0 } $members->('pg_type', "CASE WHEN typelem = 0 THEN typname END")), '',
	'the README names every type');

(my $unescaped = $readme) =~ s/&#124;/|/g;
is(join(' ', grep { $unescaped !~ /[`> ]\Q$_\E[`< ]/ } $members->('pg_operator', 'oprname')), '', 'the README names every operator');
is(join(' ', grep { $readme !~ /`\Q$_\E`/ } $members->('pg_am', 'amname')), '', 'the README names every access method');

is(join(' ', grep { $readme !~ /`\Q$_\E`/ } $members->('pg_opclass', 'opcname')), '', 'the README names every operator class');

my @settings = split /\n/, $node->safe_psql('postgres', q{LOAD 'ann'; SELECT name FROM pg_settings WHERE name ~ '^(ann|hnsw|ivfflat)[.]'});
is(join(' ', grep { $readme !~ /`\Q$_\E`/ } @settings), '', 'the README names every setting');

done_testing();
