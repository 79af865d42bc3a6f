#!/usr/bin/env bash
# A private PostgreSQL (15 or newer) on 127.0.0.1, superuser "postgres" without password, for demo, tests, development.
# Owns DIR (data, relay.conf, port, pid, url, postgres.log). PostgreSQL refuses to run as root: started by root it runs
# as the user "postgres", or as "outbox-relay-test", created when needed; if that user cannot reach DIR, the data goes
# to a private folder below ${TMPDIR:-/tmp}, whose path is kept in DIR/datadir.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'EOF'
usage: postgres.sh start DIR [options]                    start; on an existing DIR with the same data, port and options
       postgres.sh stop DIR [--mode fast|immediate]       immediate = crash, the next start recovers (default: fast)
       postgres.sh restart DIR [--mode fast|immediate] [options of start]
       postgres.sh status DIR                             running (0) or stopped (3)
       postgres.sh remove DIR                             stop at once, and remove DIR and the data
       postgres.sh fetch                                  print the folder of the binaries, fetching them if there are none

options of start (given ones are remembered for the next start):
  --port N              (default: a free one)
  --config KEY=VALUE    any setting, repeatable, e.g. fsync=off; a new list replaces the remembered one
  --standby-of URL      a streaming replica of the server with this URL (of a superuser); only for a new DIR

writes: DIR/port, DIR/url, DIR/pid, DIR/datadir, DIR/postgres.log
binaries: $PG_BIN, PATH, pg_config, newest of /usr/lib/postgresql; if there are none, fetched with maven
EOF
}

embedded_version=17.5.0

usable() { # usable FOLDER: holds a server of version 15 or newer
  [[ -x $1/postgres && -x $1/initdb && -x $1/pg_ctl ]] || return 1
  local version
  version=$("$1/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
  ((version >= 15))
}

find_binaries() {
  local found candidate
  if [[ -n ${PG_BIN:-} ]]; then
    usable "$PG_BIN" || die "PG_BIN=$PG_BIN holds no PostgreSQL server of version 15 or newer"
    echo "$PG_BIN"; return
  fi
  if found=$(command -v postgres) && found=$(dirname "$(readlink -f "$found")") && usable "$found"; then
    echo "$found"; return
  fi
  if found=$(pg_config --bindir 2>/dev/null) && usable "$found"; then
    echo "$found"; return
  fi
  for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
    if usable "$candidate"; then echo "$candidate"; return; fi
  done
  fetch_embedded
}

fetch_embedded() {
  local arch folder=$parts_dir/postgres-$embedded_version
  case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64v8 ;;
    *) die "no PostgreSQL found; run scripts/install-deps.sh demo" ;;
  esac
  mkdir -p "$parts_dir"
  (
    flock 9
    [[ -x $folder/bin/postgres ]] && exit # somebody else was faster
    command -v mvn >/dev/null || die "no PostgreSQL found; run scripts/install-deps.sh demo"
    say "fetching PostgreSQL $embedded_version"
    rm -rf "$folder" "$folder.part"
    maven dependency:unpack -DoutputDirectory="$folder.part" 9>&- \
      -Dartifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-$arch:$embedded_version"
    tar -xJf "$folder.part"/postgres-*.txz -C "$folder.part"
    chmod -R a+rX "$folder.part"
    mv "$folder.part" "$folder"
  ) 9>"$parts_dir/.postgres.lock" || exit
  echo "$folder/bin"
}

# --- who runs the server, and where the data lives --------------------------------------------------------------------

as=() # prefix of commands run as the server's user; empty unless we are root
choose_user() {
  ((EUID == 0)) || return 0
  local user=postgres
  if ! getent passwd "$user" >/dev/null; then
    user=outbox-relay-test
    getent passwd "$user" >/dev/null || useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
  fi
  owner=$user
  as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups env "HOME=/" "USER=$user" "LOGNAME=$user")
}
owner=$(id -un)

reachable() { (cd / && "${as[@]}" test -x "$1"); }

choose_data() {
  if [[ -s $dir/datadir ]]; then
    data=$(<"$dir/datadir")
    return
  fi
  data=$dir/data
  if ! reachable "$dir"; then
    local base=${TMPDIR:-/tmp}
    reachable "$base" || base=/tmp
    data=$(mktemp -d "$base/outbox-relay-postgres.XXXXXX")/data
    chmod 711 "${data%/data}"
  fi
  echo "$data" >"$dir/datadir"
}

# Binaries below a folder the user cannot enter are copied next to the data.
choose_binaries() {
  bin=$(find_binaries)
  reachable "$bin/postgres" && return
  local copy=${data%/data}/postgres-binaries
  [[ -d $copy ]] || cp -r "$(dirname "$bin")" "$copy"
  bin=$copy/bin
}

server() { (cd "$data" && "${as[@]}" "$bin/$1" -D "$data" "${@:2}"); }

# --- commands ---------------------------------------------------------------------------------------------------------

# The pid of the server of this DIR, if it runs: a recycled pid or a zombie does not count.
server_pid() {
  local pid
  pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) && [[ -n $pid ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$data" || return 1
  echo "$pid"
}

port_free() { ! port_in_use "$port"; }

init() {
  [[ -f $data/PG_VERSION ]] && return
  rm -rf "$data"
  install -d -m 700 -o "$owner" "$data"
  if [[ -n $standby_of ]]; then
    (cd / && "${as[@]}" "$bin/pg_basebackup" -d "$standby_of" -D "$data" -R -X stream -c fast) >>"$dir/postgres.log" 2>&1 </dev/null \
      || { tail -n 20 "$dir/postgres.log" >&2; rm -rf "$data"; die "pg_basebackup failed"; }
    return
  fi
  server initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync \
    >>"$dir/postgres.log" 2>&1 </dev/null || { tail -n 20 "$dir/postgres.log" >&2; die "initdb failed"; }
  echo "include_if_exists 'relay.conf'" >>"$data/postgresql.conf"
}

configure() {
  local socket=$data
  ((${#socket} < 85)) || socket='' # a socket path is limited to 107 characters
  {
    echo "port = $1"
    echo "listen_addresses = '127.0.0.1'"
    echo "unix_socket_directories = '$socket'"
    echo "max_connections = 200"
    echo "shared_buffers = 256MB"
    echo "max_wal_size = 2GB"
    echo "timezone = 'UTC'"
    echo "log_timezone = 'UTC'"
    sed "s/'/''/g; s/^\([^=]*\)=\(.*\)$/\1 = '\2'/" "$dir/config" 2>/dev/null || true
  } >"$data/relay.conf"
  chmod 644 "$data/relay.conf"
}

start() {
  if server_pid >/dev/null; then say "already running on port $(<"$dir/port")"; return; fi
  choose_binaries
  if [[ -z $port && -s $dir/port ]]; then port=$(<"$dir/port"); fi
  [[ -n $port ]] || port=$(free_port)
  wait_for 3 port_free || die "port $port is taken by another process"
  ((${#configs[@]} == 0)) || printf '%s\n' "${configs[@]}" >"$dir/config"
  init
  configure "$port"
  echo "$port" >"$dir/port"
  echo "postgres://postgres@127.0.0.1:$port/postgres" >"$dir/url"
  # The log is opened by us: the server's user may not be able to reach DIR.
  server pg_ctl start -w -t 90 >>"$dir/postgres.log" 2>&1 </dev/null 8>&- || {
    tail -n 40 "$dir/postgres.log" >&2
    die "PostgreSQL did not start; see $dir/postgres.log"
  }
  server_pid >"$dir/pid"
  say "PostgreSQL on 127.0.0.1:$port, pid $(<"$dir/pid")"
}

stop() {
  server_pid >/dev/null || { say "not running"; return; }
  choose_binaries
  server pg_ctl stop -w -t 60 -m "$mode" >>"$dir/postgres.log" 2>&1 </dev/null 8>&- \
    || die "PostgreSQL did not stop; see $dir/postgres.log"
  rm -f "$dir/pid"
}

remove() {
  mode=immediate
  if server_pid >/dev/null; then stop; fi
  # The data may be elsewhere, see above; only a folder with a name that we gave is removed.
  [[ $data != */outbox-relay-postgres.*/data ]] || rm -rf "${data%/data}"
  rm -rf "$dir"
}

command=${1:-}
case $command in
  fetch) find_binaries; exit ;;
  start | stop | restart | status | remove) [[ -n ${2:-} ]] || { usage >&2; exit 2; } ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
dir=$(absolute "$2")
shift 2
port='' mode=fast standby_of='' configs=()
while (($#)); do
  (($# > 1)) || die "$1 needs a value"
  case $1 in
    --port) port=$2 ;;
    --config) configs+=("$2") ;;
    --mode) mode=$2 ;;
    --standby-of) standby_of=$2 ;;
    *) die "unknown option $1" ;;
  esac
  shift 2
done
exec 8>"$dir/.lock"
flock 8
choose_user
choose_data
case $command in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  remove) remove ;;
  status) if server_pid >/dev/null; then echo running; else echo stopped; exit 3; fi ;;
esac
