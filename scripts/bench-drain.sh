#!/usr/bin/env bash
# Measures how fast the relay drains a backlog: ROWS events of about 300 bytes over 1,000 keys, into a topic with six
# partitions, on a PostgreSQL and a Kafka of its own (durable commits), all on this machine. Three runs.
# Prints for each: events per second between the first and the last settled batch, CPU of the relay per million events, and its
# peak memory. Owns target/bench; stops only what it started. Wants a machine with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${ROWS:-300000}
target=${CARGO_TARGET_DIR:-target}
binary=$target/release/outbox-relay
parts=$target/bench
topic=bench-events

cleanup() {
  [[ -z ${relay:-} ]] || kill "$relay" 2>/dev/null || true
  scripts/kafka.sh stop "$parts/kafka" 2>/dev/null || true
  scripts/postgres.sh stop "$parts/postgres" 2>/dev/null || true
}
trap cleanup EXIT

scripts/postgres.sh start "$parts/postgres"
scripts/kafka.sh start "$parts/kafka"
DATABASE_URL=$(cat "$parts/postgres/url")
KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$(cat "$parts/kafka/port")
export DATABASE_URL KAFKA_BOOTSTRAP_SERVERS
scripts/kafka-topics.sh "$KAFKA_BOOTSTRAP_SERVERS" "$topic:6" >/dev/null
"$binary" migrate up >/dev/null

sql() { psql -qAtX -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }

printf '%-4s %12s %22s %12s\n' run events/s 'relay CPU s per million' 'peak memory'
for run in 1 2 3; do
  sql -c 'truncate outbox_events' -c 'update outbox_shards set low_id = 0' -c "
    insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload)
    select 'Product', (g % 1000)::text, 'LikeAddedEvent', '$topic',
      jsonb_build_object('productId', g % 1000, 'userId', g, 'filler', repeat(md5(g::text), 7))
    from generate_series(1, $rows) g" -c 'vacuum analyze outbox_events' -c checkpoint
  "$binary" run --only relay "$@" 2>"$parts/relay.log" &
  relay=$!
  for ((second = 0; ; second++)); do
    ((second < 300)) || { echo "not drained within 300 s; see $parts/relay.log" >&2; exit 1; }
    kill -0 "$relay" || { tail -5 "$parts/relay.log" >&2; exit 1; }
    [[ $(sql -c "select exists (select 1 from outbox_events where status = 'PENDING')") == t ]] || break
    sleep 1
  done
  ticks=$(awk '{ print $14 + $15 }' "/proc/$relay/stat")
  peak=$(awk '/VmHWM/ { print int($2 / 1024) " MB" }' "/proc/$relay/status")
  kill "$relay"
  wait "$relay"
  relay=
  rate=$(sql -c "select round(count(*) / extract(epoch from max(published_at) - min(published_at))) from outbox_events where status = 'PUBLISHED'")
  cpu=$(awk -v ticks="$ticks" -v hz="$(getconf CLK_TCK)" -v rows="$rows" 'BEGIN { printf "%.1f", ticks / hz / rows * 1e6 }')
  printf '%-4s %12s %22s %12s\n' "$run" "$rate" "$cpu" "$peak"
done
