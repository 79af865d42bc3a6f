#!/usr/bin/env bash
# with-parts.sh CMD...: runs CMD with a fresh PostgreSQL and Kafka at hand and ends with CMD's exit code.
# Owns <target>/test-parts (wiped at the start; its logs stay afterwards). One run at a time; others wait.
# CMD sees OUTBOX_TEST_DATABASE_URL (superuser) and OUTBOX_TEST_KAFKA (host:port).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

(($#)) || { echo "usage: with-parts.sh CMD..." >&2; exit 2; }
scripts=$repo_root/scripts
dir=$(absolute "$target_dir/test-parts")

exec 7>"$target_dir/.test-parts.lock"
flock -n 7 || { say "waiting for another run to finish"; flock 7; }

stop_parts() { # the data is thrown away anyway
  trap '' INT TERM HUP # a second Ctrl-C must not leave servers behind
  wait || true # a broker that is still starting could not be stopped yet
  [[ ! -d $dir/kafka ]] || "$scripts/kafka.sh" kill "$dir/kafka" 2>/dev/null || true
  [[ ! -d $dir/postgres ]] || "$scripts/postgres.sh" stop "$dir/postgres" --mode immediate 2>/dev/null || true
}

(stop_parts) # left behind by a run that was killed; a subshell, for its traps
[[ ! -d $dir/postgres ]] || "$scripts/postgres.sh" remove "$dir/postgres"
rm -rf "$dir"
mkdir -p "$dir"

trap stop_parts EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$scripts/kafka.sh" start "$dir/kafka" 7>&- &
# fsync=off: what must survive here is a crash of the server, not of the machine
"$scripts/postgres.sh" start "$dir/postgres" --config fsync=off 7>&-
wait $!

OUTBOX_TEST_DATABASE_URL=$(<"$dir/postgres/url")
OUTBOX_TEST_KAFKA=127.0.0.1:$(<"$dir/kafka/port")
export OUTBOX_TEST_DATABASE_URL OUTBOX_TEST_KAFKA

code=0
"$@" 7>&- || code=$?
say "exit code $code: $*"
exit "$code"
