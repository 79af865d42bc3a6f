#!/usr/bin/env bash
# Measures what deleting costs, on a PostgreSQL and a Kafka of its own (durable commits), all on this machine:
# 1. how fast `cleanup` deletes ROWS published rows (a million), three times;
# 2. what a writer pays for it: latencies of single inserts (RATE per second, counted from when each was due) while the relay drains a
#    backlog of ROWS events, with the cleaner off and at work on ROWS old rows, three times in turns. SECONDS_EACH is how long each takes.
# Prints a line for each run and the medians at the end, with the ratio of the p99 latencies; the goal is 1.5. Owns target/bench-cleanup; stops
# only what it started. Wants a machine with nothing else to do. BINARY names another binary than the one of `make build`.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${ROWS:-1000000}
rate=${RATE:-200}
each=${SECONDS_EACH:-15}
target=${CARGO_TARGET_DIR:-target}
binary=${BINARY:-$target/release/outbox-relay}
parts=$target/bench-cleanup
topic=bench-events

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
pgbench=$(command -v pgbench || ls "$(scripts/postgres.sh fetch)/pgbench")
start_servers kafka "$topic"

insert() { # insert STATUS PUBLISHED_AT
  sql -c "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, created_at, published_at)
    select 'Product', (g % 1000)::text, 'LikeAddedEvent', '$topic',
      $(payload), '$1', $2, case when '$1' = 'PUBLISHED' then $2 end
    from generate_series(1, $rows) g"
}
prepare() { sql -c 'vacuum analyze outbox_events' -c checkpoint; }
empty() { sql -c 'truncate outbox_events' -c 'update outbox_shards set low_id = 0, batch_ids = null'; }
old() { sql -c "select count(*) from outbox_events where created_at < now() - interval '7 days'"; }

delete() { # prints a line, leaves the rate in $speed
  empty
  insert PUBLISHED "now() - interval '8 days'"
  prepare
  local begin=${EPOCHREALTIME/./}
  "$binary" -q cleanup --older-than 7d --yes >/dev/null
  local took=$((${EPOCHREALTIME/./} - begin))
  [[ $(old) == 0 ]] || { echo 'not everything was deleted' >&2; exit 1; }
  speed=$((rows * 1000000 / took))
  printf 'cleanup of %s rows: %.1f s, %s rows/s\n' "$rows" "${took}e-6" "$speed"
}

write() { # write NAME CLEANER: prints a line, leaves the latencies in $p50 and $p99 (ms), and the rates in $published and $deleted
  empty
  insert PUBLISHED "now() - interval '8 days'"
  insert PENDING "now()"
  prepare
  local before id
  id=$(sql -c 'select max(id) from outbox_events')
  "$binary" run --only relay --set "cleanup.enabled=$2" --set cleanup.interval=1s 2>"$parts/relay.log" &
  running=$!
  rm -f "$parts"/log.*
  for ((n = 0; n < 100; n++)); do # until it works, so that its start is not measured
    [[ $(sql -c "select exists (select 1 from outbox_events where status = 'PUBLISHED' and created_at > now() - interval '7 days')") == f ]] || break
    sleep 0.1
  done
  before=$(old)
  local pending
  pending=$(sql -c "select count(*) from outbox_events where status = 'PENDING'")
  "$pgbench" -n -c 4 -j 1 -R "$rate" -T "$each" -f <(echo "insert into outbox_events (aggregate_id, event_type, topic, payload) values ('w' || :client_id, 'E', '$topic', '{}')") \
    -l --log-prefix="$parts/log" "$DATABASE_URL" >"$parts/pgbench.log" 2>&1
  published=$(((pending - $(sql -c "select count(*) from outbox_events where status = 'PENDING' and id <= $id")) / each))
  deleted=$(((before - $(old)) / each))
  kill "$running"
  wait "$running"
  running=
  sort -n -k3,3 "$parts"/log.* | awk '{ print $3 }' >"$parts/latencies"
  local n
  n=$(wc -l <"$parts/latencies")
  p50=$(awk -v at="$(((n + 1) / 2))" 'NR == at { printf "%.2f", $1 / 1000 }' "$parts/latencies")
  p99=$(awk -v at="$(((n * 99 + 99) / 100))" 'NR == at { printf "%.2f", $1 / 1000 }' "$parts/latencies")
  row "$1" "$n" "$p50" "$p99" "$published" "$deleted"
}

row() { printf '%-12s %9s %9s %9s %14s %12s\n' "$@"; }

speeds=()
for _ in 1 2 3; do
  delete
  speeds+=("$speed")
done
row cleaner inserts 'p50 ms' 'p99 ms' 'published/s' 'deleted/s'
off=() on=() off50=() on50=() off_rate=() on_rate=() on_deleted=()
for _ in 1 2 3; do
  write off false
  off+=("$p99") off50+=("$p50") off_rate+=("$published")
  write on true
  on+=("$p99") on50+=("$p50") on_rate+=("$published") on_deleted+=("$deleted")
done
echo 'medians:'
row off '' "$(median "${off50[@]}")" "$(median "${off[@]}")" "$(median "${off_rate[@]}")" 0
row on '' "$(median "${on50[@]}")" "$(median "${on[@]}")" "$(median "${on_rate[@]}")" "$(median "${on_deleted[@]}")"
awk -v off="$(median "${off[@]}")" -v on="$(median "${on[@]}")" -v speed="$(median "${speeds[@]}")" \
  'BEGIN { printf "p99 with the cleaner is %.2f times the p99 without it; cleanup deletes %s rows/s\n", on / off, speed }'
