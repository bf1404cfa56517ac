# AnnScan within another index's bitmap while others change the filter's column, update
# rows in place (HOT) and VACUUM: every statement sees each row of its snapshot that
# matches exactly once, none that does not, and all of them if it asks for more.
use strict;
use warnings;

use AnnTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = ann_node('annscan_writers', 'autovacuum = off', 'fsync = off', 'jit = off', 'max_connections = 30');
my $dir = $node->basedir;
my $seconds = 6;

# Each category has 40 rows at any time: swap() exchanges those of two rows.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, cat int, note int DEFAULT 0, v vector(24)) WITH (fillfactor = 60);
INSERT INTO t SELECT i, i % 60, 0, (SELECT array_agg(sin(i * j) ORDER BY j) FROM generate_series(1, 24) j)::real[]::vector FROM generate_series(1, 2400) i;
UPDATE t SET v = NULL WHERE id % 60 = 8 AND id < 300;
CREATE INDEX t_cat ON t (cat);
CREATE INDEX t_hnsw ON t USING hnsw (v vector_l2_ops);
CREATE INDEX t_ivfflat ON t USING ivfflat (v vector_cosine_ops);
ANALYZE t;
CREATE FUNCTION swap(a int, b int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	cat_a int;
	cat_b int;
BEGIN
	PERFORM 1 FROM t WHERE id IN (a, b) ORDER BY id FOR UPDATE;
	SELECT cat INTO cat_a FROM t WHERE id = a;
	SELECT cat INTO cat_b FROM t WHERE id = b;
	UPDATE t SET cat = CASE id WHEN a THEN cat_b ELSE cat_a END WHERE id IN (a, b);
END $$;
-- Raises an error if an answer is not what its snapshot holds.
CREATE FUNCTION look(op text, condition text, wanted int, k int, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	EXECUTE format('SELECT count(*) AS rows, count(DISTINCT id) AS ids, count(*) FILTER (WHERE NOT %2$s) AS wrong,
		count(*) FILTER (WHERE d < before OR before IS NULL AND d IS NOT NULL AND i > 1) AS unsorted
		FROM (SELECT id, cat, d, row_number() OVER () AS i, lag(d) OVER () AS before FROM
		(SELECT id, cat, v %1$s (SELECT v FROM t WHERE id = %3$s) AS d FROM t WHERE %2$s ORDER BY v %1$s (SELECT v FROM t WHERE id = %3$s) LIMIT %4$s) s) w',
		op, condition, n, k) INTO r;
	IF r.rows <> least(wanted, k) OR r.ids <> r.rows OR r.wrong > 0 OR r.unsorted > 0 THEN
		RAISE EXCEPTION '% % %: % rows, % different, % wrong, % unsorted', op, condition, k, r.rows, r.ids, r.wrong, r.unsorted;
	END IF;
END $$;
SQL

my $settings = 'SET enable_seqscan = off; SET enable_sort = off; SET max_parallel_workers_per_gather = 0;';
for my $op ('<->', '<=>')
{
	like(plan_of($node, "SELECT id FROM t WHERE cat = 7 ORDER BY v $op (SELECT v FROM t WHERE id = 1) LIMIT 10", $settings),
		qr/AnnScan.*Bitmap Index Scan on t_cat/s, "$op: a search in the bitmap");
}

my %script = (
	swap => "\\set a random(1, 2400)\n\\set b random(1, 2400)\nSELECT swap(:a, :b);\n",
	hot => "\\set a random(1, 2400)\nUPDATE t SET note = note + 1 WHERE id = :a;\n",
	vacuum => "SELECT pg_sleep(0.05);\nVACUUM t;\n",
	few => "$settings\n\\set c random(0, 59)\n\\set n random(10, 2000)\n"
	  . join('', map { "SELECT look('$_', 'cat = :c', 40, 15, :n);\nSELECT look('$_', 'cat = :c', 40, 100, :n);\n" } '<->', '<=>'),
	many => "$settings\n\\set n random(10, 2000)\n"
	  . join('', map { "SELECT look('$_', 'cat < 20', 800, 25, :n);\nSELECT look('$_', 'cat < 20 AND id % 2 >= 0', 800, 1000, :n);\n" } '<->', '<=>'));
pgbench_scripts($node, %script);
my @run = map { [ 'pgbench', '-n', '-c', $_->[1], '-T', $seconds, '-f', "$dir/$_->[0].sql", '-d', $node->connstr('postgres') ] }
  [ swap => 2 ], [ hot => 2 ], [ vacuum => 1 ], [ few => 2 ], [ many => 1 ];
my @started = map { my ($out, $err) = ('', ''); [ IPC::Run::start($_, '>', \$out, '2>', \$err), \$out, \$err, $_ ] } @run;
for (@started)
{
	my ($handle, $out, $err, $command) = @$_;
	$handle->finish;
	my $name = $command->[7];
	$name =~ s/.*\///;
	is($handle->result(0), 0, "$name: no error") or diag($$err);
	like($$out, qr/number of failed transactions: 0 |actually processed: [1-9]/, "$name: ran");
}
is($node->safe_psql('postgres', 'SELECT min(n), max(n) FROM (SELECT count(*) AS n FROM t GROUP BY cat) c'), '40|40', 'every category kept its rows');
index_ok($node, 't_hnsw');
index_ok($node, 't_ivfflat');
log_ok($node);
$node->stop;
done_testing();
