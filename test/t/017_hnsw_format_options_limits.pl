# An index of another format version, of either method, is refused with a hint at REINDEX, and
# nothing else of its table suffers: queries are planned without it; every option does what it says or is refused; vectors up to the limits
# are indexed, and nothing beyond; memory follows the rows.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

# On 18 pages have checksums: a page changed on disk is to be seen all the same.
my $node = ann_node('hnsw_format', 'autovacuum = off', 'jit = off', 'fsync = off', 'ignore_checksum_failure = on');
my $dim = 40;
my $data = clustered_vectors(400, $dim, seed => 17);
load_vectors($node, 't', "vector($dim)", $data);
$node->safe_psql('postgres', "CREATE INDEX t_idx ON t USING hnsw (v vector_l2_ops)");
my $query = "'" . vector_text($data->[3]) . "'";
my $search = index_scan() . "SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM t ORDER BY v <-> $query) o";

my $fails = sub {
	my ($sql, $error, $name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	like($err, $error, $name);
};

# Changes a few bytes of an index's first page, with the server down.  The meta page's magic
# and version follow the page header of 24 bytes (src/page/page.h).
my $patch = sub {
	my ($index, $offset, $bytes) = @_;
	my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('$index')");
	$node->stop;
	open(my $file, '+<:raw', $path) or die "$path: $!";
	seek($file, $offset, 0);
	read($file, my $old, length $bytes);
	seek($file, $offset, 0);
	print $file $bytes;
	close $file;
	$node->start;
	return $old;
};

# A version that this library does not read: whatever wants the index is refused, and queries
# do without it.
$node->safe_psql('postgres', 'CREATE TABLE f AS SELECT * FROM t; CREATE INDEX f_idx ON f USING ivfflat (v vector_l2_ops) WITH (lists = 10)');
for my $case ([ 't', 'hnsw' ], [ 'f', 'ivfflat' ])
{
	my ($table, $method) = @$case;
	my $index = "${table}_idx";
	my $error = qr/ERROR:  index "$index" has version 32767 of the $method format.*HINT:.*REINDEX/s;
	my $nearest = "SELECT id FROM $table WHERE id <> 5 ORDER BY v <-> $query LIMIT 3";
	my $old = $patch->($index, 28, pack('v', 0x7FFF));

	$fails->("INSERT INTO $table SELECT 900, v FROM $table LIMIT 1", $error, "$method, a later version: insert");
	$fails->("DELETE FROM $table WHERE id = 399; VACUUM (INDEX_CLEANUP ON) $table", $error, "$method, a later version: VACUUM");
	$fails->("SELECT * FROM ann_index_check('$index', true)", $error, "$method, a later version: check");
	my ($rc, $out, $err) = $node->psql('postgres', index_scan() . "$nearest; $nearest; EXPLAIN (COSTS off) $nearest");
	my ($exact) = $node->safe_psql('postgres', "SET enable_indexscan = off; $nearest");
	is($rc, 0, "$method, a later version: queries go on");
	like($out, qr/^\Q$exact\E\n\Q$exact\E\nLimit\n.*Seq Scan on $table/s, "$method, a later version: answered without the index");
	is(scalar(() = $err =~ /WARNING:  index "$index" is not used: it has version 32767 of the $method format/g), 1, "$method, a later version: one warning");
	like($err, qr/HINT:  Please REINDEX it/, "$method, a later version: what to do");
	is($node->safe_psql('postgres', "UPDATE $table SET id = id WHERE id < 0; SELECT count(*) > 390 FROM $table WHERE v IS NOT NULL"), 't',
		"$method, a later version: the table can be read");
	$patch->($index, 28, $old);
	like($node->safe_psql('postgres', index_scan() . "EXPLAIN (COSTS off) $nearest"), qr/$index/, "$method: as it was, the index is used");
	$patch->($index, 28, pack('v', 0x7FFF));
	($rc, $out, $err) = $node->psql('postgres', index_scan() . "$nearest; REINDEX INDEX $index; EXPLAIN (COSTS off) $nearest");
	like($out, qr/$index/, "$method: REINDEX mends it, for the session that was warned too");
	$node->safe_psql('postgres', "INSERT INTO $table SELECT 900, v FROM $table LIMIT 1; VACUUM $table");
	index_ok($node, $index);
}

# Another magic number is damage.
{
	my $error = qr/ERROR:  .*t_idx.*(REINDEX|corrupt|meta page)/s;
	my $old = $patch->('t_idx', 24, pack('V', 1));

	is(unpack('V', $old), 0x57534E48, 'this is the meta page');
	$fails->($search, $error, 'another magic number: scan');
	$fails->("INSERT INTO t SELECT 900, v FROM t LIMIT 1", $error, 'another magic number: insert');
	$fails->("DELETE FROM t WHERE id = 398; VACUUM (INDEX_CLEANUP ON) t", $error, 'another magic number: VACUUM');
	$fails->("SELECT * FROM ann_index_check('t_idx', true)", $error, 'another magic number: check');
	is($node->safe_psql('postgres', 'SELECT count(*) > 390 FROM t WHERE v IS NOT NULL'), 't', 'another magic number: the table can be read');
	$patch->('t_idx', 24, $old);
	is($node->safe_psql('postgres', $search), $node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM t'), 'as it was, the index works');
	$patch->('t_idx', 24, pack('V', 1));
	$node->safe_psql('postgres', 'REINDEX INDEX t_idx');
	is($node->safe_psql('postgres', $search), $node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM t'), 'REINDEX mends it');
	$node->safe_psql('postgres', 'INSERT INTO t SELECT 900, v FROM t LIMIT 1; VACUUM t');
}

# Options.
my $create = 'CREATE INDEX o_idx ON t USING hnsw (v vector_l2_ops) WITH';
for my $case (
	[ 'm = 1', qr/value 1 out of bounds for option "m"/ ], [ 'm = 101', qr/value 101 out of bounds for option "m"/ ],
	[ 'm = sixteen', qr/invalid value for integer option "m"/ ],
	[ 'ef_construction = 3', qr/value 3 out of bounds/ ], [ 'ef_construction = 1001', qr/value 1001 out of bounds/ ],
	[ 'ef_search = -1', qr/value -1 out of bounds/ ], [ 'ef_search = 100001', qr/value 100001 out of bounds/ ],
	[ 'quantizer = pq', qr/invalid value for enum option "quantizer"/ ], [ 'refine_type = quarter', qr/invalid value for enum option "refine_type"/ ],
	[ 'lists = 10', qr/unrecognized parameter "lists"/ ], [ 'fillfactor = 50', qr/unrecognized parameter "fillfactor"/ ])
{
	my ($option, $error) = @$case;
	$fails->("$create ($option)", $error, "$option is refused");
}
# Every combination at the ends of the ranges; rows of 200 edges are the largest.
my @wrong;
for my $m (2, 16, 100)
{
	for my $quantizer ('rabitq', 'none')
	{
		for my $refine ('full', 'half', 'sq8')
		{
			my $options = "m = $m, ef_construction = 12, quantizer = $quantizer, refine_type = $refine";
			my $result = $node->safe_psql('postgres', "DROP INDEX t_idx; CREATE INDEX t_idx ON t USING hnsw (v vector_l2_ops) WITH ($options);
				INSERT INTO t SELECT 2000 + id, v FROM t WHERE id < 3; DELETE FROM t WHERE id >= 2000; VACUUM t;
				SELECT (SELECT count(*) FROM t) || '|' || (SELECT count(DISTINCT id) FROM t); $search");
			my ($want, $got) = split /\n/, $result;
			push @wrong, "$options: $got instead of $want" if $got ne $want;
		}
	}
}
is("@wrong", '', 'all rows with every combination of options');
# ef_search of the index holds where the session has set none; with no continuation the beam is all.
my $beam = index_scan() . "SET hnsw.iterative_scan = off; SELECT count(*) FROM (SELECT id FROM t ORDER BY v <-> $query) o";
$node->safe_psql('postgres', 'ALTER INDEX t_idx SET (ef_search = 5)');
my $few = $node->safe_psql('postgres', $beam);
$node->safe_psql('postgres', 'ALTER INDEX t_idx SET (ef_search = 250)');
my $many = $node->safe_psql('postgres', $beam);
ok($few >= 5 && $few < 250 && $many >= 250, 'ef_search of the index') or diag("$few $many");
is($node->safe_psql('postgres', "SET hnsw.ef_search = 5; $beam"), $few, 'hnsw.ef_search comes before it');
is($node->safe_psql('postgres', "SET hnsw.ef_search = 5; RESET hnsw.ef_search; $beam"), $many, 'and can be reset');

# Limits: a row with that many dimensions is built, inserted, found, and vacuumed away.
my $n = 24;
my $dense = sub { my ($d, $seed) = @_; return "(SELECT array_agg(((i * 7919 + j * 104729) % 1999 - 1000) / 1000.0 ORDER BY j)::real[] FROM generate_series(1, $d) j)" };
for my $case (
	[ 'vector(16000)', 'vector_l2_ops', '<->', $dense->(16000) . '::vector', '' ],
	[ 'vector(16000)', 'vector_cosine_ops', '<=>', $dense->(16000) . '::vector', 'WITH (quantizer = none)' ],
	[ 'vector(16000)', 'vector_l2_ops', '<->', $dense->(16000) . '::vector', 'WITH (refine_type = full, m = 100)' ],
	[ 'halfvec(16000)', 'halfvec_cosine_ops', '<=>', $dense->(16000) . '::vector::halfvec', '' ],
	[ 'halfvec(16000)', 'halfvec_l1_ops', '<+>', $dense->(16000) . '::vector::halfvec', '' ],
	[ 'vector(1)', 'vector_l2_ops', '<->', $dense->(1) . '::vector', '' ],
	[ 'vector(1)', 'vector_l2_ops', '<->', $dense->(1) . '::vector', 'WITH (quantizer = rabitq)' ],
	[ 'vector(2)', 'vector_cosine_ops', '<=>', $dense->(2) . '::vector', 'WITH (quantizer = rabitq, m = 100)' ],
	[ 'bit(64000)', 'bit_hamming_ops', '<~>', "(SELECT string_agg(((i * j * 31 + j) % 7 > 3)::int::text, '' ORDER BY j) FROM generate_series(1, 64000) j)::bit(64000)", '' ],
	[ 'bit(1)', 'bit_jaccard_ops', '<%>', "(i % 2)::bit(1)", '' ],
	[ 'sparsevec(16000)', 'sparsevec_l2_ops', '<->', $dense->(16000) . '::vector::sparsevec', '' ],
	[ 'sparsevec(1000000000)', 'sparsevec_ip_ops', '<#>', "('{' || (SELECT string_agg((j * 50000 + i) || ':' || (i + j % 13 + 1), ',' ORDER BY j) FROM generate_series(1, 16000) j) || '}/1000000000')::sparsevec", '' ])
{
	my ($type, $opclass, $op, $value, $options) = @$case;
	my $name = "$type $opclass $options";
	$node->safe_psql('postgres', "DROP TABLE IF EXISTS l; CREATE TABLE l (id int, v $type); INSERT INTO l SELECT i, $value FROM generate_series(1, $n) i;
		INSERT INTO l VALUES (1000, NULL); CREATE INDEX l_idx ON l USING hnsw (v $opclass) $options");
	$node->safe_psql('postgres', "INSERT INTO l SELECT i, $value FROM generate_series($n + 1, $n + 6) i; DELETE FROM l WHERE id IN (2, $n + 1); VACUUM l;
		INSERT INTO l SELECT i, $value FROM generate_series($n + 7, $n + 8) i");
	my $order = "v $op (SELECT v FROM l WHERE id = $n + 2)";
	my $rows = $n + 8 - 2 + 1;
	is($node->safe_psql('postgres', index_scan() . "SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM l ORDER BY $order) o"), "$rows|$rows", "$name: all rows");
	is($node->safe_psql('postgres', index_scan() . "SELECT array_agg(d) FROM (SELECT $order AS d FROM l ORDER BY $order LIMIT 5) o"),
		$node->safe_psql('postgres', "SET enable_indexscan = off; SELECT array_agg(d) FROM (SELECT $order AS d FROM l ORDER BY $order LIMIT 5) o"), "$name: the nearest");
	index_ok($node, 'l_idx');
}
# What a build allots follows from the rows, however much maintenance_work_mem allows
$node->safe_psql('postgres', "CREATE TABLE few AS SELECT i AS id, ARRAY[sin(i), cos(i * 3), i % 7]::real[]::vector(3) AS v FROM generate_series(1, 3000) i");
my $peak = $node->safe_psql('postgres', "SET maintenance_work_mem = '2147483647kB'; CREATE INDEX ON few USING hnsw (v vector_l2_ops);
	SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\\s*([0-9]+)')::bigint / 1024") if -r '/proc/self/status';
cmp_ok($peak // 0, '<', 600, 'a build of few rows takes little memory, in MB');
$fails->("CREATE TABLE beyond (v bit(64001)); CREATE INDEX ON beyond USING hnsw (v bit_hamming_ops)", qr/cannot have more than 64000 dimensions/, '64,001 bits');
$fails->("CREATE TABLE beyond (v vector(16001))", qr/dimensions for type vector cannot exceed 16000/, '16,001 dimensions');
log_ok($node);
$node->stop;
done_testing();
