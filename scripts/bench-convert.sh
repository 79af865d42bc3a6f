#!/usr/bin/env bash
# Measures what a writer notices of `migrate up --partitioned` on ROWS rows (a million), on a PostgreSQL of its own (durable commits): four
# connections insert RATE rows per second in all, each in a transaction of its own, counted from when each was due. The outbox is
# converted while they do. Three times; prints a line for each, with the longest insert before the conversion and while it runs.
# Owns target/bench-convert; stops only what it started. BINARY names another binary than the one of `make build`.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${ROWS:-1000000}
rate=${RATE:-400}
target=${CARGO_TARGET_DIR:-target}
binary=${BINARY:-$target/release/outbox-relay}
parts=$target/bench-convert

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
pgbench=$(command -v pgbench || ls "$(scripts/postgres.sh fetch)/pgbench")
start_servers
server=$DATABASE_URL

latencies() { # latencies FROM TO: p50, p99 and the longest in ms, of inserts that ended between two times in µs
  awk -v from="$1" -v to="$2" '{ at = $5 * 1000000 + $6; if (at >= from && at <= to) print $3 }' "$parts"/log.* | sort -n |
    awk '{ l[NR] = $1 } END { printf "p50 %.2f ms, p99 %.2f ms, longest %.1f ms of %d", l[int((NR + 1) / 2)] / 1000, l[int((NR * 99 + 99) / 100)] / 1000, l[NR] / 1000, NR }'
}

for round in 1 2 3; do
  DATABASE_URL=$server
  sql -c "drop database if exists convert_$round" -c "create database convert_$round"
  DATABASE_URL=${server%/*}/convert_$round
  "$binary" -q migrate up >/dev/null 2>&1
  sql -c "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, published_at)
    select 'Product', (g % 1000)::text, 'LikeAddedEvent', 'bench-events', $(payload), 'PUBLISHED', now() from generate_series(1, $rows) g"
  sql -c 'vacuum analyze outbox_events' -c checkpoint
  rm -f "$parts"/log.*
  "$pgbench" -n -M prepared -c 4 -j 1 -R "$rate" -T 20 -l --log-prefix="$parts/log" "$DATABASE_URL" \
    -f <(echo "insert into outbox_events (aggregate_id, event_type, topic, payload) values ('w' || :client_id, 'E', 'bench-events', '{}')") \
    >"$parts/pgbench.log" 2>&1 &
  running=$!
  sleep 8
  begin=${EPOCHREALTIME/./}
  "$binary" migrate up --partitioned >/dev/null 2>"$parts/convert.log"
  end=${EPOCHREALTIME/./}
  wait "$running"
  running=
  [[ $(sql -c "select relkind from pg_class where relname = 'outbox_events'") == p ]] || { echo 'it was not converted' >&2; exit 1; }
  failed=$(grep -o 'number of failed transactions: [0-9]*' "$parts/pgbench.log" || echo 'no failures counted')
  printf 'before: %s\nconversion of %s rows, %.1f s: %s (%s)\n' "$(latencies "$((begin - 6000000))" "$begin")" "$rows" "$((end - begin))e-6" \
    "$(latencies "$begin" "$((end + 300000))")" "$failed"
done
