#!/usr/bin/env bash
# upgrade-from-0.1.sh OLD_BINARY [ROWS]: rehearses an upgrade from version 0.1 under load, by hand. With a relay of 0.1 at work
# and writers inserting, migrates with the binary of this checkout, replaces the relay, and compares what was inserted with what Kafka has.
# OLD_BINARY: an outbox-relay of version 0.1. ROWS: finished rows in the table before the upgrade (1000000).
# Run it through with-parts.sh, which starts the servers: scripts/with-parts.sh scripts/upgrade-from-0.1.sh path/to/outbox-relay-0.1
# NEW_BINARY names another binary than target/debug/outbox-relay. DELIVERY: at-least-once (default) or exactly-once.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

old=${1:?usage: upgrade-from-0.1.sh OLD_BINARY [ROWS]}
rows=${2:-1000000}
new=${NEW_BINARY:-$target_dir/debug/outbox-relay}
name=upgrade_$$
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT

psql -X -q -d "$OUTBOX_TEST_DATABASE_URL" -c "create database $name"
export DATABASE_URL=${OUTBOX_TEST_DATABASE_URL%/*}/$name KAFKA_BOOTSTRAP_SERVERS=$OUTBOX_TEST_KAFKA
export OUTBOX_RELAY_RUN__DEPLOYMENT=$name OUTBOX_RELAY_ADMIN__LISTEN=127.0.0.1:0 OUTBOX_RELAY_CONSUMER__ENABLED=false
export OUTBOX_RELAY_RELAY__LEASE=3s OUTBOX_RELAY_RELAY__DELIVERY=${DELIVERY:-at-least-once} OUTBOX_RELAY_CLEANUP__ENABLED=false
sql() { psql -X -q -t -A -v ON_ERROR_STOP=1 -d "$DATABASE_URL" "$@"; }
waiting() { sql -c "select count(*) from outbox_current where status <> 'PUBLISHED'"; }

"$repo_root/scripts/kafka-topics.sh" "$KAFKA_BOOTSTRAP_SERVERS" "$name" >&2
"$old" migrate up >&2
say "inserting $rows rows"
sql -c "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, published_at)
  select 'Order', 'k' || n % 1000, 'E', '$name', jsonb_build_object('n', n, 'pad', repeat('x', 200)), 'PUBLISHED', now()
  from generate_series(1, $rows) n" -c 'vacuum analyze outbox_events' -c checkpoint

"$old" run >"$work/old.log" 2>&1 &
old_pid=$!

# Writers note how long each insert took, in milliseconds, until the file `stop` is there.
write() {
  local n=0 before after
  while [[ ! -e $work/stop ]]; do
    before=$(date +%s%N)
    echo "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload)
      values ('Order', 'k$((n % 50))', 'E', '$name', '{\"writer\": $1, \"n\": $n}');"
    echo '\echo done'
    read -r _ <&4
    after=$(date +%s%N)
    echo $(((after - before) / 1000000)) >>"$work/times.$1"
    n=$((n + 1))
  done >&3
}
for writer in 1 2 3 4; do
  (
    mkfifo "$work/in.$writer" "$work/out.$writer"
    psql -X -q -t -A -d "$DATABASE_URL" <"$work/in.$writer" >"$work/out.$writer" &
    exec 3>"$work/in.$writer" 4<"$work/out.$writer"
    write "$writer"
  ) &
done

sleep 5
# An application's transaction that stays open over the beginning of the upgrade.
sql -c "begin; lock table outbox_events, outbox_shards, outbox_instances, outbox_held_keys in row exclusive mode; select pg_sleep(5); commit" &
sleep 1
longest() { cat "$work"/times.* | sort -n | tail -1; }
before=$(cat "$work"/times.* | wc -l) longest_before=$(longest)
start=$(date +%s%N)
"$new" migrate up >&2
say "migrated in $((($(date +%s%N) - start) / 1000000)) ms, behind a transaction that was open for 5 s"
say "longest insert before: $longest_before ms, up to the end of the upgrade: $(longest) ms, inserts meanwhile: $(($(cat "$work"/times.* | wc -l) - before))"

"$new" run >"$work/new.log" 2>&1 &
new_pid=$!
sleep 5
kill -0 $old_pid || { say '0.1 ended by itself'; tail -5 "$work/old.log"; exit 1; }
say "0.1 says: $(grep -m1 -o 'this_outbox_relay_is_older_than_the_schema' "$work/old.log")"
kill $old_pid
wait $old_pid || true
say '0.1 has been stopped'
sleep 5
touch "$work/stop"
for _ in $(seq 120); do
  [[ $(waiting) != 0 ]] || break
  sleep 1
done
say "rows that still wait: $(waiting)"
inserted=$(sql -c "select count(*) from outbox_events where id > $rows")
in_kafka=$(sql -c "select count(distinct (published_partition, published_offset)) from outbox_events where id > $rows and published_offset is not null")
say "inserted under load: $inserted, acknowledged at a place of their own: $in_kafka"
kill $new_pid
wait $new_pid || true
[[ $(waiting) == 0 && $inserted == "$in_kafka" ]] || { tail -20 "$work/new.log"; exit 1; }
