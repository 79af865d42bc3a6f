#!/usr/bin/env bash
# install-deps.sh [build|demo|test]: the system packages for a profile, each including the one before (default: test).
#   build  C and C++ compilers and headers for librdkafka
#   demo   + PostgreSQL 15 or newer
#   test   + Java 17 or newer and Maven, for a real Kafka
# Does nothing when all is there. Debian 12+, Ubuntu 24.04+. Owns nothing.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

profile=${1:-test}
case $profile in build | demo | test) ;; *) echo "usage: install-deps.sh [build|demo|test]" >&2; exit 2 ;; esac

has() { command -v "$1" >/dev/null; }

has_postgres() {
  local candidate version
  for candidate in ${PG_BIN:+"$PG_BIN/postgres"} "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
    [[ -x $candidate ]] || continue
    version=$("$candidate" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    ((version < 15)) || return 0
  done
  return 1
}

has_java() {
  local version
  version=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || return 1
  [[ -n $version ]] && ((version >= 17))
}

missing() {
  has cmake || echo cmake
  has g++ || echo g++
  has make || echo make
  has pkg-config || echo pkg-config
  pkg-config --exists zlib 2>/dev/null || echo zlib1g-dev
  pkg-config --exists openssl 2>/dev/null || echo libssl-dev
  [[ $profile != build ]] || return 0
  has_postgres || echo postgresql
  has psql || echo postgresql-client
  [[ $profile != demo ]] || return 0
  has_java || echo java
  has mvn || echo maven
}

# The Java package differs between releases; this asks the package lists, so they have to be there.
java_package() {
  local version
  for version in 21 17 25; do
    if apt-cache show "openjdk-$version-jdk-headless" >/dev/null 2>&1; then
      echo "openjdk-$version-jdk-headless"; return
    fi
  done
  echo default-jdk-headless
}

install() {
  local as=() packages=("$@") drop_in=/etc/postgresql-common/createcluster.d/outbox-relay.conf
  if ((EUID != 0)); then
    if sudo -n true 2>/dev/null; then
      as=(sudo -n)
    else
      say "run this as root, then try again:"
      echo "  apt-get update && apt-get install -y --no-install-recommends ${packages[*]/#java/$(java_package)}" >&2
      exit 1
    fi
  fi
  as+=(env DEBIAN_FRONTEND=noninteractive)
  local apt=("${as[@]}" apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
  say "installing: ${packages[*]}"
  "${apt[@]}" update
  packages=("${packages[@]/#java/$(java_package)}")
  # The programs are enough: no cluster of the system, started at every boot.
  local private=''
  if [[ " ${packages[*]} " == *' postgresql '* && ! -d /etc/postgresql-common ]]; then
    private=1
    "${as[@]}" mkdir -p "${drop_in%/*}"
    echo 'create_main_cluster = false' | "${as[@]}" tee "$drop_in" >/dev/null
  fi
  local code=0
  "${apt[@]}" install --no-install-recommends "${packages[@]}" || code=$?
  [[ -z $private ]] || "${as[@]}" rm -f "$drop_in"
  return "$code"
}

mapfile -t packages < <(missing)
if ((${#packages[@]})); then
  has apt-get || die "missing: ${packages[*]}; no apt-get here, install them with the package manager of this system"
  install "${packages[@]}"
  mapfile -t packages < <(missing)
  case ${packages[*]} in
    '') ;;
    postgresql) die "this release has no PostgreSQL 15 or newer: add https://apt.postgresql.org, or set PG_BIN to the folder of its programs" ;;
    *) die "still missing after the installation: ${packages[*]}" ;;
  esac
fi

wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$repo_root/Cargo.toml")
has cargo || die "Rust is missing: install $wanted or newer from https://rustup.rs"
rust=$(cd "$repo_root" && cargo --version | cut -d' ' -f2)
[[ $(printf '%s\n' "$wanted" "$rust" | sort -V | head -n 1) == "$wanted" ]] \
  || die "Rust $rust is too old: $wanted or newer is needed, run: rustup update stable"
