# Shared by the scripts in this folder; sourced, never run. Owns nothing on disk.
# shellcheck shell=bash

repo_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# Cargo's target folder: everything these scripts create without being told where goes below it.
target_dir=${CARGO_TARGET_DIR:-target}
[[ $target_dir == /* ]] || target_dir=$repo_root/$target_dir
# shellcheck disable=SC2034 # used by those who source this
parts_dir=$target_dir/parts

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }
need() { command -v "$1" >/dev/null || die "'$1' not found; run scripts/install-deps.sh ${2:-test}"; }

# absolute DIR: creates the folder and prints its absolute path.
absolute() { mkdir -p "$1" && (cd "$1" && pwd -P); }

# port_in_use PORT: somebody listens on it.
port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: prints a port nobody listens on, from below the range the kernel hands out to clients.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((10000 + SRANDOM % 20000))
    port_in_use "$port" || { echo "$port"; return; }
  done
  die "no free port found"
}

# wait_for SECONDS CMD...: polls CMD until it succeeds; fails when the time is up.
wait_for() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# maven ARG...: runs mvn on the POM in `pom` (that of Kafka unless told) quietly; its output is shown only when it fails.
maven() {
  need mvn
  local log
  log=$(mktemp)
  mvn -B -f "${pom:-$repo_root/scripts/kafka-pom.xml}" -Dmaven.wagon.http.retryHandler.count=3 "$@" </dev/null >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    rm -f "$log"
    die "maven failed: $*"
  }
  rm -f "$log"
}

# fetch_jars FOLDER WHAT JAR [option of maven]...: brings what the POM needs at run time into FOLDER, once, however many scripts ask at the
# same time. JAR is one of them, by which it is known that they came.
fetch_jars() {
  local folder=$1 what=$2 jar=$3
  shift 3
  [[ ! -d $folder ]] || return 0
  mkdir -p "$parts_dir"
  (
    flock 9
    [[ ! -d $folder ]] || exit 0 # somebody else was faster
    say "fetching $what"
    rm -rf "$folder.part"
    # 9>&-: nothing that outlives us may hold the lock
    maven dependency:copy-dependencies "$@" -DincludeScope=runtime -DoutputDirectory="$folder.part" 9>&-
    [[ -f $folder.part/$jar ]] || die "maven brought no $jar"
    mv "$folder.part" "$folder"
  ) 9>"$parts_dir/.${folder##*/}.lock"
}
