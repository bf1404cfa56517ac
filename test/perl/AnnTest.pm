# AnnTest: what the TAP tests of ann have in common.
#
#   my $node = ann_node('name', 'work_mem = 1MB');        server with the extension
#   my $rows = random_vectors(1000, 16, seed => 1);         [[...], ...], the same every time
#   load_vectors($node, 't', 'vector(16)', $rows);          table t (id int, v), ids from 0
#   my $near = exact_nearest($rows, $query, 'l2', 10);      [[id, distance], ...] in Perl doubles
#   my ($mean, $worst) = recall($node, table => 't', ...);  against exact search
#   my $rows = clustered_vectors(1000, 96, seed => 1);      hard for an index, as real data is
#   my ($recall, $unsorted) = index_recall($node, ...);     many queries in one statement
#   index_ok($node, 't_v_idx');  log_ok($node);             checks
#   my $text = answer($session, $sql);                      of a background_psql session
#   my ($run, $out, $pid) = client($node, $name, @psql);    in the background
#   pgbench_scripts($node, %script);                         files of these names, .sql, in basedir
#   my ($answers, $first) = answers($node, @sql);            to statements on damaged indexes
package AnnTest;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use List::Util qw(sum0 min max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(ann_node random_vectors random_numbers clustered_vectors vector_text load_vectors
  exact_distance exact_nearest recall index_recall index_ok log_ok answer answers client ends hold release pgbench_scripts plan_of index_scan %operator);

# Operator of each metric.
our %operator = (l2 => '<->', ip => '<#>', cosine => '<=>', l1 => '<+>');

# A started server with the extension in database postgres; further arguments are
# lines for postgresql.conf.
sub ann_node
{
	my ($name, @conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', join("\n", @conf, ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION ann');
	return $node;
}

# What a background_psql session prints for a statement.  The first releases of 16
# leave the mark between statements in it.
sub answer
{
	my ($session, $sql) = @_;
	my $text = $session->query_safe($sql);
	$text =~ s/^background_psql: QUERY_SEPARATOR\n?//mg;
	$text =~ s/\n+\z//;
	return $text;
}

# Starts a client of that name.  Returns it, a reference to what it says, and the pid of its backend, which is at work on
# a statement that begins with VACUUM, INSERT or SELECT; '' if it has ended before that was seen.
sub client
{
	my ($node, $name, @psql) = @_;
	my ($pid, $out) = ('', '');
	my $run = IPC::Run::start([ 'psql', '-qAtX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') . " application_name=$name", @psql ],
		'<', \undef, '>&', \$out);
	while ($pid eq '' && $run->pumpable)
	{
		$run->pump_nb;
		$pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = '$name' AND state = 'active' AND query ~ '^(VACUUM|INSERT|SELECT)'");
	}
	return ($run, \$out, $pid);
}

# Stops a backend by a signal, and lets it go on.  False if there is none.
# Not where it has a lock that every other process needs, as it has for moments only: then it goes on for a while.
sub hold
{
	my ($node, $pid) = @_;
	for (1 .. 100)
	{
		my $timed_out = 0;
		return 0 if $pid eq '' || !kill('STOP', $pid);
		# Takes all locks of the lock tables.
		$node->psql('postgres', 'SELECT count(*) FROM pg_locks', timeout => 3, timed_out => \$timed_out);
		return 1 if !$timed_out;
		kill('CONT', $pid);
		usleep(1000);
	}
	return 0;
}
sub release { return $_[0] ne '' && kill('CONT', $_[0]); }

# Whether a client of that name ends while another one is held, rather than to wait for what that one has locked.
sub ends
{
	my ($node, $run, $name) = @_;
	my $waits = 0;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if !$run->pumpable;
		$run->pump_nb;
		usleep(100000);
		my $waiting = $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$name' AND wait_event_type IN ('LWLock', 'BufferPin', 'Lock')");
		$waits = $waiting ? $waits + 1 : 0;
		return 0 if $waits == 5;
	}
	return 0;
}

# Writes scripts for pgbench: name => text, into name.sql below the node's basedir.
sub pgbench_scripts
{
	my ($node, %script) = @_;
	append_to_file($node->basedir . "/$_.sql", $script{$_}) for keys %script;
	return;
}

# Runs each statement in a session of its own.  Returns how many of them the server gave an answer
# to, be it an error (but none of a file that ends before a block that a page names), within their
# statement_timeout; and what came of the first, rows or error.
sub answers
{
	my ($node, @sql) = @_;
	my ($answers, $first) = (0);
	for my $sql (@sql)
	{
		my ($rc, $out, $err) = $node->psql('postgres', $sql);
		# 0: an answer, 3: an error of the script.  2 would be a lost connection.
		$answers++ if ($rc == 0 || $rc == 3) && $err !~ /statement timeout|server closed|could not (open file|read block)/;
		note("no answer: $sql\n$err") if $err =~ /could not (open file|read block)/;
		$err =~ s/^psql:<stdin>:\d+: //;
		$first //= $rc == 0 ? $out : $err;
	}
	return ($answers, $first);
}

# A generator of its own, as Perl's rand differs between builds: returns a function
# that gives the next number in [0, 1).  Constants: Knuth, MMIX, here reduced to 48
# bits (those of POSIX drand48) so that products stay exact in two halves.
sub random_numbers
{
	my ($seed) = @_;
	my $x = (($seed * 65536) + 0x330E) % (2**48);
	my $a = 25214903917;
	return sub {
		use integer;
		my $low = $x & 0xFFFFFF;
		my $high = $x >> 24;
		# (high * 2^24 + low) * a mod 2^48; each product is below 2^61
		$x = (((($high * $a) & 0xFFFFFF) << 24) + $low * $a + 0xB) & 281474976710655;
		no integer;
		return $x / 2**48;
	};
}

# $count vectors of $dim coordinates, multiples of 1/8 in [-range, range]: such
# numbers are exact in float4 and half, and so are sums of many of them in float4.
# Options: seed (1), range (8).
sub random_vectors
{
	my ($count, $dim, %opt) = @_;
	my $next = random_numbers($opt{seed} // 1);
	my $range = $opt{range} // 8;
	my $steps = 16 * $range + 1;
	return [
		map { [ map { int($next->() * $steps) / 8 - $range } 1 .. $dim ] } 1 .. $count
	];
}

# $count vectors of $dim coordinates with three decimals: points around $opt{clusters}
# (20) centres in [-1, 1], +- $opt{spread} (0.7) in each coordinate.  Neighbours lie in
# one cluster and are nearly equally far, which is hard.  Options: seed (1).
# Vectors of the same seed's first part have the same centres: take rows and queries
# from one call.
sub clustered_vectors
{
	my ($count, $dim, %opt) = @_;
	my $next = random_numbers($opt{seed} // 1);
	my $clusters = $opt{clusters} // 20;
	my $scale = 2 * ($opt{spread} // 0.7);
	my @centre = map { [ map { 2 * $next->() - 1 } 1 .. $dim ] } 1 .. $clusters;
	return [
		map {
			my $centre = $centre[ int($next->() * $clusters) ];
			[ map { int(1000 * ($_ + $scale * ($next->() - 0.5))) / 1000 } @$centre ]
		} 1 .. $count
	];
}

# Text form for vector and halfvec.
sub vector_text { return '[' . join(',', @{ $_[0] }) . ']'; }

# Creates table $table (id int, v $type) and fills it.  The text is that of vector;
# for other types give a function as the last argument.
sub load_vectors
{
	my ($node, $table, $type, $rows, $text) = @_;
	$text //= \&vector_text;
	my $id = 0;
	my $data = join('', map { $id++ . "\t" . $text->($_) . "\n" } @$rows);
	$node->safe_psql('postgres', "CREATE TABLE $table (id int, v $type)");
	$node->safe_psql('postgres', "COPY $table FROM STDIN;\n$data\\.\n");
	$node->safe_psql('postgres', "ANALYZE $table");
	return;
}

# The distance as its definition says, in doubles.
sub exact_distance
{
	my ($p, $q, $metric) = @_;
	my ($pq, $pp, $qq, $l1, $l2) = (0, 0, 0, 0, 0);
	for my $i (0 .. $#$p)
	{
		my ($a, $b) = ($p->[$i], $q->[$i]);
		$pq += $a * $b;
		$pp += $a * $a;
		$qq += $b * $b;
		$l1 += abs($a - $b);
		$l2 += ($a - $b)**2;
	}
	return sqrt($l2) if $metric eq 'l2';
	return -$pq if $metric eq 'ip';
	return $l1 if $metric eq 'l1';
	return $pp * $qq > 0 ? 1 - $pq / sqrt($pp * $qq) : 'nan' + 0 if $metric eq 'cosine';
	die "metric $metric";
}

# The k nearest rows, nearest first: [[id, distance], ...].
sub exact_nearest
{
	my ($rows, $query, $metric, $k) = @_;
	my $id = 0;
	my @all = sort { $a->[1] <=> $b->[1] || $a->[0] <=> $b->[0] }
	  map { [ $id++, exact_distance($_, $query, $metric) ] } @$rows;
	return [ @all[ 0 .. min($k, scalar @all) - 1 ] ];
}

# Recall of what the server plans now against its own exact search (a sequential
# scan, which has tests of its own).  A row counts if it is no farther than the exact
# k-th, so ties do no harm; a missing row counts as a miss.  Arguments: table, queries
# (text forms); column (v), operator (<->), k (10), where (true), settings (SQL run
# first), plan (a pattern the approximate plan must match).  Returns mean and worst.
sub recall
{
	my ($node, %arg) = @_;
	my $column = $arg{column} // 'v';
	my $op = $arg{operator} // '<->';
	my $k = $arg{k} // 10;
	my $where = $arg{where} // 'true';
	my @recall;

	my $select = sub {
		my ($q) = @_;
		return "SELECT $column $op '$q' AS d FROM $arg{table} WHERE $where "
		  . "ORDER BY $column $op '$q' LIMIT $k";
	};
	my $settings = ($arg{settings} // '') . ';';
	my $exact = 'SET enable_indexscan = off; SET enable_bitmapscan = off; '
	  . "SET enable_indexonlyscan = off; SET ann.enable_annscan = off;";

	if ($arg{plan})
	{
		my $plan = plan_of($node, $select->($arg{queries}[0]), $settings);
		like($plan, $arg{plan}, 'recall is measured on the intended plan');
	}
	# All queries in one session: a line for each, '-' for no row.
	my $answers = sub {
		my ($set) = @_;
		my $sql = join('', map { "SELECT coalesce(string_agg(d::text, ' '), '-') FROM (" . $select->($_) . ") s;\n" }
			@{ $arg{queries} });
		return map { [ grep { $_ ne '-' } split / / ] } split /\n/, $node->safe_psql('postgres', "$set\n$sql");
	};
	my @got = $answers->($settings);
	my @want = $answers->($exact);
	for my $i (0 .. $#want)
	{
		my @exact = @{ $want[$i] };
		next if !@exact;
		my $limit = $exact[-1];
		my $hits = grep { $_ <= $limit || $_ eq $limit } @{ $got[$i] };
		push @recall, min($hits, scalar @exact) / @exact;
	}
	die 'no query had an answer' if !@recall;
	return (sum0(@recall) / @recall, min(@recall));
}

# Settings with which an ordered scan of an index is what the planner takes.  No jit:
# the price of what is switched off would make every statement worth compiling.
sub index_scan
{
	return 'SET enable_seqscan = off; SET enable_sort = off; SET enable_bitmapscan = off; '
	  . 'SET ann.enable_annscan = off; SET max_parallel_workers_per_gather = 0; SET jit = off;';
}

# Recall of index scans for all rows of a table of queries (id, v), in one session.
# The exact answers come from sequential scans and are kept in table exact_$key, so that
# several indexes of the same column share them; as in recall(), ties do no harm.
# Arguments: table, queries (its name), key; column (v), query (v, expression over the
# queries), operator (<->), k (10), where (true), settings.  Returns the mean recall and
# the number of answers that have too few rows or are not sorted by the true distance
# (a filter that keeps few rows: but for a tail that is).
sub index_recall
{
	my ($node, %arg) = @_;
	my ($column, $op, $k) = ($arg{column} // 'v', $arg{operator} // '<->', $arg{k} // 10);
	my $query = 'q.' . ($arg{query} // 'v');
	my $where = $arg{where} // 'true';
	my $from = "FROM $arg{queries} q, LATERAL (SELECT t.$column $op $query AS d FROM $arg{table} t "
	  . "WHERE $where ORDER BY t.$column $op $query LIMIT $k) n";
	my $settings = index_scan() . ($arg{settings} // '') . ';';
	my $tail = $where eq 'true' ? 0 : 1;

	$node->safe_psql(
		'postgres', "SET enable_indexscan = off; SET enable_bitmapscan = off; SET ann.enable_annscan = off;
		CREATE TABLE IF NOT EXISTS exact_$arg{key} AS SELECT q.id, array_agg(d ORDER BY d) AS exact $from GROUP BY q.id");
	my $plan = plan_of($node, "SELECT q.id, d $from", $settings);
	die "no index scan: $plan" if $plan !~ /Index Scan using.*Order By/s;
	my ($recall, $unsorted) = split /\|/, $node->safe_psql(
		'postgres', "$settings SELECT avg(hits / cardinality(exact)::float), count(*) FILTER (WHERE NOT good)
		FROM (SELECT id, (SELECT count(*) FROM unnest(got) d WHERE d <= exact[cardinality(exact)]) AS hits, exact,
			cardinality(got) = cardinality(exact) AND $tail >= (SELECT count(*) FILTER (WHERE d < before)
				FROM (SELECT d, lag(d) OVER (ORDER BY i) AS before FROM unnest(got) WITH ORDINALITY u (d, i)) p) AS good
			FROM (SELECT q.id, array_agg(d) AS got $from GROUP BY q.id) g JOIN exact_$arg{key} USING (id)) h");
	return ($recall, $unsorted);
}

# The plan of a query, without costs.
sub plan_of
{
	my ($node, $query, $settings) = @_;
	return $node->safe_psql('postgres', ($settings // '') . "; EXPLAIN (COSTS OFF) $query");
}

# No defect in the index, by the extension's own checker.
sub index_ok
{
	my ($node, $index) = @_;
	my $defects = $node->safe_psql('postgres', "SELECT * FROM ann_index_check('$index', true)");
	is($defects, '', "index $index has no defect");
	return;
}

# Nothing in the server's log that no test may cause.
sub log_ok
{
	my ($node) = @_;
	my @bad = grep { /PANIC|TRAP|was terminated by signal|refcount leak|file leak|leaked|unexpected data beyond EOF/ }
	  split /\n/, slurp_file($node->logfile);
	is("@bad", '', 'server log has no crash and no leak');
	return;
}

1;
