# hnsw indexes built and rebuilt CONCURRENTLY under load, on expressions, parts of tables,
# partitions and temporary tables; plans kept by prepared statements and scans in parallel
# workers go by the settings of the session.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('hnsw_tables', 'autovacuum = off', 'jit = off', 'fsync = off', 'max_connections = 30', 'max_parallel_workers = 4');
my $dim = 48;
my $data = clustered_vectors(2000, $dim, seed => 15);
load_vectors($node, 'pool', "vector($dim)", $data);
$node->safe_psql('postgres', "CREATE UNIQUE INDEX ON pool (id); CREATE TABLE queries AS SELECT * FROM pool WHERE id % 40 = 1");
my $query = "(SELECT v FROM pool WHERE id = 3)";

# CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY while others write and read.
$node->safe_psql('postgres', "CREATE TABLE t (id int PRIMARY KEY, v vector($dim)); INSERT INTO t SELECT * FROM pool WHERE id < 1000;
	CREATE SEQUENCE ids MINVALUE 10000");
my %script = (
	write => <<'SQL',
\set n random(0, 1999)
INSERT INTO t SELECT nextval('ids'), v FROM pool WHERE id = :n;
UPDATE t SET v = (SELECT v FROM pool WHERE id = :n) WHERE id = (:n * 7) % 1000;
DELETE FROM t WHERE id = 10000 + :n;
SQL
	read => index_scan() . <<"SQL",
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 / (array_agg(id ORDER BY id) = (SELECT array_agg(id ORDER BY id) FROM t))::int FROM (SELECT id FROM t ORDER BY v <-> $query) r;
COMMIT;
SQL
);
append_to_file($node->basedir . "/$_.sql", $script{$_}) for keys %script;
my ($in, $out) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '3', '-T', '3', '-f', $node->basedir . '/write.sql@9', '-f', $node->basedir . '/read.sql@1',
		'-h', $node->host, '-p', $node->port, 'postgres' ], '<', \$in, '>&', \$out);
$node->poll_query_until('postgres', "SELECT count(*) > 1010 FROM t") or die 'no load';
$node->safe_psql('postgres', 'CREATE INDEX CONCURRENTLY t_idx ON t USING hnsw (v vector_l2_ops)');
for my $round (1 .. 4)
{
	$node->safe_psql('postgres', 'REINDEX INDEX CONCURRENTLY t_idx');
}
ok(IPC::Run::finish($load), 'no client saw a row twice or missed one') or diag($out);
is($node->safe_psql('postgres', "SELECT count(*), bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass"), '2|t', 'the indexes are valid');
is($node->safe_psql('postgres', index_scan() . "SELECT array_agg(id ORDER BY id) FROM (SELECT id FROM t ORDER BY v <-> $query) r"),
	$node->safe_psql('postgres', 'SELECT array_agg(id ORDER BY id) FROM t'), 'an index rebuilt CONCURRENTLY has every row once');
my ($recall, $unsorted) = index_recall($node, table => 't', queries => 'queries', key => 't', settings => 'SET hnsw.ef_search = 60');
cmp_ok($recall, '>=', 0.95, 'and finds them');
is($unsorted, 0, 'in order');
index_ok($node, 't_idx');

# REINDEX while an old snapshot sees deleted rows whose vectors are in TOAST.
$node->safe_psql('postgres', "CREATE TABLE toasted (id int, v vector(1200)); ALTER TABLE toasted ALTER v SET STORAGE EXTERNAL;
	INSERT INTO toasted SELECT i, (SELECT array_agg(i * j % 101) FROM generate_series(1, 1200) j)::vector FROM generate_series(1, 60) i");
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pool');
$node->safe_psql('postgres', $_)
  for 'CREATE INDEX toasted_idx ON toasted USING hnsw (v vector_l2_ops)', 'CREATE INDEX toasted_lists ON toasted USING ivfflat (v vector_cosine_ops)', 'UPDATE toasted SET v = v + v WHERE id <= 20', 'DELETE FROM toasted WHERE id > 50',
  'VACUUM toasted', 'REINDEX TABLE toasted';
my $all_toasted = sub { index_scan() . "SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM toasted ORDER BY v $_[0] array_fill(3, ARRAY[1200])::vector) o" };
is(answer($holder, $all_toasted->($_)), '60|60', "$_: an old snapshot has its rows") for '<->', '<=>';
$holder->query_safe('COMMIT');
$holder->quit;
is($node->safe_psql('postgres', $all_toasted->($_)), '50|50', "$_: REINDEX over dead rows with long vectors") for '<->', '<=>';
index_ok($node, $_) for 'toasted_idx', 'toasted_lists';

# Part of a table, an expression, and both.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE docs (id int, kind int, v vector, raw real[]);
INSERT INTO docs SELECT id, id % 4, v, v::real[] FROM pool;
INSERT INTO docs SELECT -i, 9, '[1,2,3]' FROM generate_series(1, 100) i;
CREATE INDEX docs_part ON docs USING hnsw ((v::vector($dim)) vector_cosine_ops) WHERE kind = 2;
CREATE INDEX docs_short ON docs USING hnsw ((v::vector(3)) vector_l2_ops) WHERE kind = 9;
CREATE INDEX docs_bits ON docs USING hnsw ((binary_quantize(v)::bit($dim)) bit_hamming_ops) WHERE kind < 9;
CREATE INDEX docs_first ON docs USING hnsw ((subvector(v, 1, 2)::vector(2)) vector_l2_ops) WHERE kind < 9;
UPDATE docs SET kind = 2 WHERE id BETWEEN 100 AND 200;
DELETE FROM docs WHERE id BETWEEN 150 AND 160;
ANALYZE docs;
SQL
for my $case (
	[ 'docs_part', 'kind = 2', "v::vector($dim) <=> $query" ],
	[ 'docs_short', 'kind = 9', "v::vector(3) <-> '[0,0,0]'" ],
	[ 'docs_bits', 'kind < 9', "binary_quantize(v)::bit($dim) <~> (SELECT binary_quantize(v)::bit($dim) FROM pool WHERE id = 3)" ],
	[ 'docs_first', 'kind < 9', "subvector(v, 1, 2)::vector(2) <-> '[0.1,0.2]'" ])
{
	my ($index, $where, $order) = @$case;
	my $sql = "SELECT id, $order AS d FROM docs WHERE $where ORDER BY $order";
	like(plan_of($node, $sql, index_scan()), qr/Index Scan using $index on docs/, "$index is used");
	is($node->safe_psql('postgres', index_scan() . "SELECT array_agg(id ORDER BY id) FROM ($sql) o"),
		$node->safe_psql('postgres', "SET enable_indexscan = off; SELECT array_agg(id ORDER BY id) FROM ($sql) o"), "$index has the rows of its part");
	is($node->safe_psql('postgres', "SET hnsw.ef_search = 200;" . index_scan() . "SELECT array_agg(d) FROM ($sql LIMIT 5) o"),
		$node->safe_psql('postgres', "SET enable_indexscan = off; SELECT array_agg(d) FROM ($sql LIMIT 5) o"), "$index finds the nearest");
}

# Partitions: ordered scans of each, merged.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE parts (id int, v vector($dim)) PARTITION BY RANGE (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (700);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (700) TO (1400);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
CREATE INDEX parts_idx ON parts USING hnsw (v vector_l2_ops);
INSERT INTO parts SELECT * FROM pool;
INSERT INTO parts SELECT 5000 + i, NULL FROM generate_series(1, 3) i;
UPDATE parts SET id = id + 700 WHERE id BETWEEN 600 AND 650;
ANALYZE parts;
SQL
my $sql = "SELECT id FROM parts ORDER BY v <-> $query";
like(plan_of($node, "$sql LIMIT 10", index_scan()), qr/Merge Append.*Index Scan.*Index Scan.*Index Scan/s, 'partitions are merged');
is($node->safe_psql('postgres', index_scan() . "SELECT count(*), count(DISTINCT id) FROM ($sql) o"), '2003|1952', 'all rows of all partitions');
($recall, $unsorted) = index_recall($node, table => 'parts', queries => 'queries', key => 'parts', settings => 'SET hnsw.ef_search = 60');
cmp_ok($recall, '>=', 0.95, 'recall over partitions');
is($unsorted, 0, 'partitions: in order');

# Temporary tables, with and without their rows at a commit.
my $temp = index_scan() . <<"SQL";
CREATE TEMP TABLE own (id int, v vector($dim));
CREATE INDEX ON own USING hnsw (v vector_l2_ops);
INSERT INTO own SELECT * FROM pool WHERE id < 300;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM own ORDER BY v <-> $query) o;
SELECT id FROM own ORDER BY v <-> $query LIMIT 1;
CREATE TEMP TABLE brief (id int, v vector($dim)) ON COMMIT DELETE ROWS;
CREATE INDEX ON brief USING hnsw (v vector_l2_ops);
BEGIN;
INSERT INTO brief SELECT * FROM pool WHERE id < 30;
SELECT count(*) FROM (SELECT id FROM brief ORDER BY v <-> $query) o;
COMMIT;
SELECT count(*) FROM (SELECT id FROM brief ORDER BY v <-> $query) o;
INSERT INTO brief SELECT * FROM pool WHERE id < 30;
TRUNCATE own;
SELECT count(*) FROM (SELECT id FROM own ORDER BY v <-> $query) o;
INSERT INTO own SELECT * FROM pool WHERE id < 30;
BEGIN;
TRUNCATE own;
INSERT INTO own SELECT * FROM pool WHERE id < 3;
SELECT count(*) FROM (SELECT id FROM own ORDER BY v <-> $query) o;
ROLLBACK;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM own ORDER BY v <-> $query) o;
SQL
is($node->safe_psql('postgres', $temp), "300|300\n3\n30\n0\n0\n3\n30|30", 'temporary tables; TRUNCATE and its rollback');

# A generic plan takes the vector as a parameter, and ef_search as it is when it runs:
# with iterative_scan off the beam is all that a scan returns.
my $prepared = index_scan() . <<"SQL";
SET hnsw.iterative_scan = off;
SET plan_cache_mode = force_generic_plan;
PREPARE near (vector, int) AS SELECT count(*) FROM (SELECT id FROM t ORDER BY v <-> \$1 LIMIT \$2) o;
SET hnsw.ef_search = 20;
EXECUTE near($query, 1000);
SET hnsw.ef_search = 200;
EXECUTE near($query, 1000);
EXECUTE near($query, 7);
EXECUTE near(NULL, 7);
RESET hnsw.iterative_scan;
EXECUTE near($query, 900);
EXPLAIN (COSTS OFF) EXECUTE near($query, 1000);
SQL
my ($few, $many, $seven, $null, $all, $plan) = split /\n/, $node->safe_psql('postgres', $prepared =~ s/EXECUTE near\(\Q$query\E/EXECUTE near('@{[ vector_text($data->[3]) ]}'/gr), 6;
cmp_ok($few, '>=', 20, 'a beam of 20');
cmp_ok($few, '<', 200, 'has no 200 rows');
cmp_ok($many, '>=', 200, 'a beam of 200, same plan');
is("$seven $null $all", '7 7 900', 'LIMIT, a NULL parameter, and more rows than the beam has');
like($plan, qr/Index Scan using t_idx on t\s+Order By: \(v <-> \$1\)/, 'the plan is generic');

# Parallel workers: the leader takes no part, so the scans are theirs.  It has loaded the
# library: workers of a leader that has not cannot take over its settings (the server
# warns), but one that plans an index scan has.
$node->safe_psql('postgres', 'CREATE TABLE probes AS SELECT * FROM pool WHERE id < 60; ALTER TABLE probes SET (parallel_workers = 2); ANALYZE probes');
$node->safe_psql('postgres', 'CREATE FUNCTION beam(vector) RETURNS bigint STABLE PARALLEL SAFE LANGUAGE plpgsql
	AS $$ BEGIN RETURN (SELECT count(*) FROM (SELECT 1 FROM t ORDER BY v <-> $1) o); END $$');
my $by_workers = index_scan() . <<'SQL';
LOAD 'ann';
SET enable_seqscan = on; SET random_page_cost = 0.01; SET hnsw.iterative_scan = off;
SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SQL
for my $case ([ 15, 60 ], [ 150, 0 ])
{
	my ($ef, $small) = @$case;
	my $sql = "SELECT count(*) FROM probes p WHERE beam(v) < 100";
	my $plan = $node->safe_psql('postgres', "$by_workers SET hnsw.ef_search = $ef; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $sql");
	like($plan, qr/Workers Launched: 2.*Parallel Seq Scan on probes p.*Filter: \(beam/s, "ef_search $ef: scans in parallel workers");
	is($node->safe_psql('postgres', "$by_workers SET hnsw.ef_search = $ef; $sql"), $small, "ef_search $ef is what workers search with");
}
log_ok($node);
$node->stop;
done_testing();
