# What the processes of a build take beside shared buffers, each one's own memory and what they share, stays below
# maintenance_work_mem + 64 MB however much there is to index: by one process and by several.
use strict;
use warnings;

use AnnTest;
use IPC::Run;
use List::Util qw(max sum0);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'memory of processes is read from /proc' if !-r '/proc/self/smaps';

my $dim = 2000;
my $rows = 14400;
my $limit = 64 * 1024;	# kB

my $node = ann_node('build_memory', 'autovacuum = off', 'jit = off', 'fsync = off', 'wal_level = minimal', 'max_wal_senders = 0', 'max_wal_size = 2GB',
	'shared_buffers = 16MB', 'max_parallel_workers = 8', 'min_parallel_table_scan_size = 0', 'max_parallel_maintenance_workers = 0');
# Sums of two of 120 vectors each: 8 kB a row, made without much work.
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE part AS SELECT i, (SELECT array_agg(sin(i * j) + cos(i * i + j * j)) FROM generate_series(1, $dim) j)::vector($dim) AS v FROM generate_series(1, 240) i;
CREATE TABLE t (id int, v vector($dim));
ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
INSERT INTO t SELECT row_number() OVER (), a.v + b.v FROM part a, part b WHERE a.i <= 120 AND b.i > 120;
SQL

# kB that a process has for itself, and of each segment of dynamic shared memory.
sub memory_of
{
	my ($pid) = @_;
	my ($anonymous, $segment, %shared) = (0);
	open(my $smaps, '<', "/proc/$pid/smaps") or return (0);
	while (my $line = <$smaps>)
	{
		# addresses, rights, offset, device, inode, name
		if ($line =~ /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)/)
		{
			$segment = $1 =~ m{/dev/shm/PostgreSQL\.|/pg_dynshmem/} ? $1 : undef;
		}
		elsif ($line =~ /^Rss:\s+(\d+)/ && defined $segment)
		{
			$shared{$segment} += $1;
		}
		elsif ($line =~ /^Anonymous:\s+(\d+)/ && !defined $segment)
		{
			$anonymous += $1;
		}
	}
	close $smaps;
	return ($anonymous, %shared);
}

# The leader and its workers, by the parents of all processes.
sub participants
{
	my ($leader, $postmaster) = @_;
	my @pids = ($leader);
	for my $dir (glob '/proc/[0-9]*')
	{
		my ($pid) = $dir =~ /(\d+)$/;
		open(my $status, '<', "$dir/status") or next;
		my ($parent) = join('', <$status>) =~ /^PPid:\s+(\d+)/m;
		close $status;
		next if ($parent // 0) != $postmaster;
		open(my $cmdline, '<', "$dir/cmdline") or next;
		my $title = join('', <$cmdline>);
		close $cmdline;
		push @pids, $pid if $title =~ /parallel worker for PID $leader\b/;
	}
	return @pids;
}

my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
for my $case (
	[ 'hnsw, vectors in the graph', 'hnsw (v vector_l2_ops) WITH (quantizer = none, refine_type = full, m = 8, ef_construction = 8)', '4MB', 0 ],
	[ 'hnsw, vectors in the graph, workers', 'hnsw (v vector_l2_ops) WITH (quantizer = none, refine_type = full, m = 8, ef_construction = 8)', '4MB', 2 ],
	[ 'hnsw, codes', 'hnsw (v vector_l2_ops) WITH (m = 8, ef_construction = 8)', '1MB', 2 ],
	[ 'ivfflat', 'ivfflat (v vector_l2_ops) WITH (lists = 20, refine_type = full)', '8MB', 0 ],
	[ 'ivfflat, workers', 'ivfflat (v vector_l2_ops) WITH (lists = 20, refine_type = full)', '8MB', 3 ])
{
	my ($name, $index, $memory, $workers) = @$case;
	my $sql = "SET maintenance_work_mem = '$memory'; SET max_parallel_maintenance_workers = $workers; ALTER TABLE t SET (parallel_workers = $workers);
		SELECT pg_backend_pid();";
	my $go = "CREATE INDEX t_v_idx ON t USING $index;";
	my ($in, $out, $err) = ("$sql\n", '', '');
	my $session = IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
	$session->pump until $out =~ /(\d+)\n/;
	my $leader = $1;
	my ($before) = memory_of($leader);
	my ($most, $most_workers, $samples) = (0, 0, 0);

	$in .= "$go\n\\echo built\n";
	$session->pump_nb;
	while ($out !~ /built/ && $session->pumpable)
	{
		my @pids = participants($leader, $postmaster);
		my (%segments, $sum);
		for my $pid (@pids)
		{
			my ($anonymous, %shared) = memory_of($pid);
			$sum += $anonymous;
			$segments{$_} = max($segments{$_} // 0, $shared{$_}) for keys %shared;
		}
		$sum += sum0(values %segments);
		$most = max($most, $sum);
		$most_workers = max($most_workers, $#pids);
		$samples++;
		usleep(5000);
		$session->pump_nb;
	}
	$in .= "\\q\n";
	$session->finish;
	is($err, '', "$name: built");
	my ($allowed) = $memory =~ /(\d+)/;
	$allowed = $allowed * 1024 + $limit;
	note("$name: $most kB at the most of $samples samples, $before before, $most_workers workers");
	cmp_ok($samples, '>', 20, "$name: looked at all along");
	is($most_workers, $workers, "$name: workers");
	cmp_ok($allowed, '<', $rows * $dim * 4 / 1024, "$name: less than the vectors");
	cmp_ok($most, '<', $allowed, "$name: memory");
	is($node->safe_psql('postgres', "SELECT count(*) FROM ann_index_check('t_v_idx', true)"), 0, "$name: no defect");
	$node->safe_psql('postgres', 'DROP INDEX t_v_idx');
}
$node->stop;
done_testing();
