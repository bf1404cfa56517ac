# test/lib.sh: what demo, test and bench have in common: packages, build,
# install, throw-away clusters.  To be sourced by bash; contract in test/README.
#
# shellcheck shell=bash

umask 022
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
unset PGHOST PGPORT PGUSER PGDATABASE PGDATA PGPASSWORD PGSERVICE PGOPTIONS PSQLRC
export LC_ALL=C.UTF-8 PGTZ=UTC

ANN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
ANN_TMP=
ANN_CLUSTER=
ANN_NEED_APT_UPDATE=
ANN_EXIT_COMMANDS=()
ANN_SERVER_ENV=()

ann_say() { printf '==> %s\n' "$*"; }
ann_die() { printf 'ann: %s\n' "$*" >&2; exit 1; }

# --- privileges ------------------------------------------------------------

# Can ann_as_root work without a terminal to type a password on?
ann_may_root()
{
	[ "$(id -u)" = 0 ] && return 0
	command -v sudo >/dev/null || return 1
	sudo -n true 2>/dev/null && return 0
	[ -t 0 ] && [ -t 2 ]
}

ann_as_root()
{
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The user that servers run as.  initdb refuses root.
if [ "$(id -u)" != 0 ]; then
	ann_user() { id -un; }
else
	ann_user()
	{
		if getent passwd postgres >/dev/null; then echo postgres; else echo nobody; fi
	}
fi

# Runs a command as that user, with a working directory and HOME it can enter.
ann_run()
{
	ann_tmp
	(
		cd "${ANN_RUN_DIR:-$ANN_TMP}" || exit 1
		if [ "$(id -u)" = 0 ]; then
			HOME=$ANN_TMP exec runuser -u "$(ann_user)" -- "$@"
		else
			HOME=$ANN_TMP exec "$@"
		fi
	)
}

# --- end of the script -----------------------------------------------------

# Adds a command to what happens when the script ends; the last one runs first.
ann_at_exit() { ANN_EXIT_COMMANDS=("$*" "${ANN_EXIT_COMMANDS[@]}"); }

ann_exit()
{
	local status=$? c
	trap - EXIT
	for c in "${ANN_EXIT_COMMANDS[@]}"; do eval "$c"; done
	if [ -n "$ANN_CLUSTER" ]; then
		if [ "${KEEP:-}" = 1 ]; then ann_keep; else ann_stop; fi
	fi
	if [ -n "$ANN_TMP" ] && [ "${KEEP:-}" != 1 ]; then rm -rf "$ANN_TMP"; fi
	exit $status
}
trap ann_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ANN_TMP: this run's temporary folder, owned by ann_user.  Sockets live in it,
# and a socket's path has at most 107 bytes: a long TMPDIR is not used.
ann_tmp()
{
	[ -z "$ANN_TMP" ] || return 0
	local base=${TMPDIR:-/tmp}
	if [ ${#base} -gt 60 ] || ! [ -w "$base" ]; then base=/tmp; fi
	if [ "$(id -u)" = 0 ] && ! runuser -u "$(ann_user)" -- test -x "$base"; then base=/tmp; fi
	ANN_TMP=$(mktemp -d "$base/ann.XXXXXX") || ann_die "no temporary folder below $base"
	[ "$(id -u)" != 0 ] || chown "$(ann_user):" "$ANN_TMP"
}

# --- packages --------------------------------------------------------------

ann_have_package()
{
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Is there a version to install?  Refreshes apt's lists once if there is not.
ann_package_known()
{
	local policy
	policy=$(apt-cache policy "$1" 2>/dev/null)
	case $policy in *Candidate:\ \(none\)*) policy= ;; esac
	[ -n "$policy" ] && return 0
	[ "$ANN_NEED_APT_UPDATE" != done ] || return 1
	ann_may_root || return 1
	ann_apt_update && ann_package_known "$1"
}

ann_apt_update()
{
	ann_say "refreshing the package lists"
	ANN_NEED_APT_UPDATE=done
	ann_as_root apt-get -qq -o DPkg::Lock::Timeout=300 update </dev/null
}

ann_apt_install()
{
	ann_as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
		install --no-install-recommends "$@" </dev/null
}

# ann_need PKG...: installs what is missing, or says what to install and stops.
ann_need()
{
	local p missing=() log status=0
	if ! command -v dpkg-query >/dev/null; then
		[ -n "${ANN_TOLD_NO_DPKG:-}" ] || ann_say "not a Debian system: make sure that you have what these packages hold: $*"
		ANN_TOLD_NO_DPKG=1
		return 0
	fi
	for p in "$@"; do ann_have_package "$p" || missing+=("$p"); done
	[ ${#missing[@]} -gt 0 ] || return 0

	ann_may_root || ann_die "these packages are missing and I may not install them; please run: apt-get install ${missing[*]}"
	for p in "${missing[@]}"; do
		ann_package_known "$p" || ann_die "package $p is missing and apt does not know it; look at /etc/apt/sources.list"
	done

	ann_say "installing ${missing[*]}"
	log=$(mktemp)
	ann_no_main_cluster "${missing[@]}"
	if ! ann_apt_install "${missing[@]}" >"$log" 2>&1; then
		# Lists that are out of date name files that are gone.
		{ ann_apt_update && ann_apt_install "${missing[@]}"; } >>"$log" 2>&1 || status=$?
	fi
	ann_main_cluster_again
	if [ $status != 0 ]; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		ann_die "could not install: ${missing[*]}"
	fi
	rm -f "$log"
}

# Debian's server packages create and start a cluster called main.  On a machine
# that has never seen them nobody asked for one: switched off while we install.
# Where postgresql-common is there already its administrator's choice stands.
ann_no_main_cluster()
{
	ANN_CREATECLUSTER=
	case " $* " in *\ postgresql*) ;; *) return 0 ;; esac
	! ann_have_package postgresql-common || return 0
	ann_package_known postgresql-common || return 0
	ann_apt_install postgresql-common >/dev/null 2>&1 || return 0
	ANN_CREATECLUSTER=/etc/postgresql-common/createcluster.conf
	[ -f $ANN_CREATECLUSTER ] || { ANN_CREATECLUSTER=; return 0; }
	ann_as_root cp -p $ANN_CREATECLUSTER $ANN_CREATECLUSTER.ann
	ann_as_root sh -c "echo 'create_main_cluster = false' >>$ANN_CREATECLUSTER"
}

ann_main_cluster_again()
{
	[ -z "$ANN_CREATECLUSTER" ] || ann_as_root mv $ANN_CREATECLUSTER.ann $ANN_CREATECLUSTER
	ANN_CREATECLUSTER=
}

# A pg_config that can build extensions and comes with a server.
ann_usable_pg_config()
{
	local pgxs
	pgxs=$("$1" --pgxs 2>/dev/null) && [ -f "$pgxs" ] && [ -x "$("$1" --bindir)/initdb" ] &&
		[ -f "$("$1" --includedir-server)/postgres.h" ]
}

# ann_need_base: what it takes to build the library and to run a server.  Sets
# and exports PG_CONFIG, ANN_BINDIR and ANN_PG_MAJOR, puts ANN_BINDIR in front
# of PATH.  A PG_CONFIG that is given must be usable and is used; otherwise the
# newest complete installation, otherwise the distribution's own version.
ann_need_base()
{
	local c n
	ann_need build-essential libsimde-dev
	if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != pg_config ]; then
		ann_usable_pg_config "$PG_CONFIG" ||
			ann_die "PG_CONFIG=$PG_CONFIG has no server with its development files beside it"
	else
		PG_CONFIG=
		for c in $(printf '%s\n' /usr/lib/postgresql/*/bin/pg_config | sort -t/ -k5,5nr) "$(command -v pg_config)"; do
			if ann_usable_pg_config "$c"; then PG_CONFIG=$c; break; fi
		done
		if [ -z "$PG_CONFIG" ]; then
			if command -v dpkg-query >/dev/null; then
				ann_have_package postgresql || ann_package_known postgresql ||
					ann_die "apt knows no package postgresql; give PG_CONFIG=/path/to/pg_config"
				n=$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1)
				[ -n "$n" ] || ann_die "cannot tell the distribution's PostgreSQL version; give PG_CONFIG=/path/to/pg_config"
				ann_need "postgresql-$n" "postgresql-server-dev-$n"
				PG_CONFIG=/usr/lib/postgresql/$n/bin/pg_config
			fi
			ann_usable_pg_config "$PG_CONFIG" ||
				ann_die "found no PostgreSQL server with development files; give PG_CONFIG=/path/to/pg_config"
		fi
	fi
	export PG_CONFIG
	ANN_BINDIR=$("$PG_CONFIG" --bindir)
	ANN_PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
	export ANN_BINDIR ANN_PG_MAJOR PATH="$ANN_BINDIR:$PATH"
}

# --- build and install -----------------------------------------------------

# ann_make TARGET...: make with the chosen server in this run's build folder,
# ANN_BUILD.  Building outside the source tree keeps the objects of different
# servers and flags apart and leaves a tree alone that we may not write to.
ann_make()
{
	local tag=pg$ANN_PG_MAJOR${ANN_BUILD_TAG:-} stamp flags=${ANN_COPT:-}
	if [ "${ANN_WERROR:-}" = 1 ]; then flags="-Werror $flags"; tag=$tag-werror; fi
	if [ -z "${ANN_BUILD:-}" ]; then
		ANN_BUILD=$ANN_ROOT/build/$tag
		if ! { mkdir -p "$ANN_BUILD" && [ -w "$ANN_BUILD" ]; } 2>/dev/null; then
			ann_tmp
			ANN_BUILD=$ANN_TMP/build-$tag
			mkdir -p "$ANN_BUILD"
		fi
	fi
	stamp=$("$PG_CONFIG" | grep -v '^PGXS'; echo "$flags")
	if [ "$(cat "$ANN_BUILD/.stamp" 2>/dev/null)" != "$stamp" ]; then
		find "$ANN_BUILD" -mindepth 1 -delete
		printf '%s\n' "$stamp" >"$ANN_BUILD/.stamp"
	fi
	${ANN_MAKE_PREFIX:-} make -s -C "$ANN_BUILD" -f "$ANN_ROOT/Makefile" VPATH="$ANN_ROOT" \
		-j"$(nproc)" PG_CONFIG="$PG_CONFIG" ${flags:+COPT="$flags"} "$@"
}

# ann_build_install: builds with PG_CONFIG (ANN_WERROR=1: warnings are errors)
# and installs there, through sudo where that takes it.
ann_build_install()
{
	local d
	ann_say "building for $("$PG_CONFIG" --version)"
	ann_make all || ann_die "the build failed"
	ANN_MAKE_PREFIX=
	for d in "$("$PG_CONFIG" --pkglibdir)" "$("$PG_CONFIG" --sharedir)/extension"; do
		[ -w "$d" ] || ANN_MAKE_PREFIX=ann_as_root
	done
	if [ -n "$ANN_MAKE_PREFIX" ] && ! ann_may_root; then
		ann_die "may not write to $d; install as root: make install PG_CONFIG=$PG_CONFIG"
	fi
	ann_make install || ann_die "the installation failed"
	ANN_MAKE_PREFIX=
	# What root leaves in somebody's tree is theirs.
	if [ "$(id -u)" = 0 ] && [ -d "$ANN_ROOT/build" ]; then
		chown -R --reference="$ANN_ROOT" "$ANN_ROOT/build"
	fi
}

# ann_build_install_copy: the same, but into a copy of the server in ANN_TMP, which
# ANN_BINDIR and PATH name from then on: for builds nobody wants in the real one.
# PostgreSQL finds its files relative to its programs.
ann_build_install_copy()
{
	local d
	ann_say "building for a copy of $("$PG_CONFIG" --version)"
	ann_make all || ann_die "the build failed"
	ann_tmp
	for d in --bindir --pkglibdir --sharedir; do
		d=$("$PG_CONFIG" $d)
		mkdir -p "$ANN_TMP/server$d"
		cp -a "$d/." "$ANN_TMP/server$d/"
	done
	ann_make install DESTDIR="$ANN_TMP/server" || ann_die "the installation failed"
	PATH=$ANN_TMP/server$ANN_BINDIR:${PATH#"$ANN_BINDIR":}
	ANN_BINDIR=$ANN_TMP/server$ANN_BINDIR
}

# --- a throw-away cluster --------------------------------------------------

# ann_start [SETTING=VALUE...]: a fresh cluster, reachable only through a socket
# in its own folder.  Exports PGHOST PGPORT PGUSER PGDATABASE.  The server's
# environment gets the assignments in ANN_SERVER_ENV.
ann_start()
{
	local s
	[ -z "$ANN_CLUSTER" ] || ann_die "a cluster is running already in $ANN_CLUSTER"
	ann_tmp
	ANN_CLUSTER=$ANN_TMP/cluster
	ann_run mkdir -m 700 "$ANN_CLUSTER"
	ann_run "$ANN_BINDIR/initdb" -D "$ANN_CLUSTER/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
		>"$ANN_TMP/initdb.log" 2>&1 || { cat "$ANN_TMP/initdb.log" >&2; ann_die "initdb failed"; }
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$ANN_CLUSTER'"
		echo "fsync = off"
		echo "timezone = 'UTC'"
		for s in "$@"; do
			printf "%s = '%s'\n" "${s%%=*}" "$(printf %s "${s#*=}" | sed "s/'/''/g")"
		done
	} | ann_run tee -a "$ANN_CLUSTER/data/postgresql.conf" >/dev/null
	export PGHOST=$ANN_CLUSTER PGPORT=5432 PGUSER=postgres PGDATABASE=postgres ANN_CLUSTER
	ann_run env "${ANN_SERVER_ENV[@]}" "$ANN_BINDIR/pg_ctl" -D "$ANN_CLUSTER/data" -l "$ANN_CLUSTER/log" -w -t 120 start >/dev/null ||
		{ tail -n 30 "$ANN_CLUSTER/log" >&2; ann_die "the server did not start"; }
}

# ann_stop: ends the cluster and removes its folder.
ann_stop()
{
	[ -n "$ANN_CLUSTER" ] || return 0
	ann_run "$ANN_BINDIR/pg_ctl" -D "$ANN_CLUSTER/data" -m immediate -w stop >/dev/null 2>&1
	rm -rf "$ANN_CLUSTER"
	ANN_CLUSTER=
	unset PGHOST PGPORT PGUSER PGDATABASE
}

# ann_keep: leaves the cluster running and says how to use and how to end it.
ann_keep()
{
	local as=
	[ "$(id -u)" != 0 ] || as="runuser -u $(ann_user) -- "
	cat <<-END
		The server is still running (KEEP=1).
		  use it:  $ANN_BINDIR/psql -h $PGHOST -p $PGPORT -U $PGUSER $PGDATABASE
		  end it:  $as$ANN_BINDIR/pg_ctl -D $ANN_CLUSTER/data -m fast stop; rm -rf $ANN_TMP
	END
}
