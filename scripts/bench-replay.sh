#!/usr/bin/env bash
# Measures `outbox-relay replay`: ROWS published events of about 300 bytes over 1,000 keys, on a PostgreSQL of its own (durable commits),
# no relay running. Prints the rate of the copies (from outbox_replays, the count before them left out), the time of a dry run that
# matches none of the rows, and the peak memory of the command; then checks that each event was copied once, in the old order.
# ROWS=1000000, BINARY=target/release/outbox-relay. Owns target/bench; stops only what it started. Wants a machine with nothing else to
# do. Arguments go to `outbox-relay replay`.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${ROWS:-1000000}
target=${CARGO_TARGET_DIR:-target}
binary=${BINARY:-$target/release/outbox-relay}
parts=$target/bench

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
start_servers

sql -c 'truncate outbox_events restart identity' -c 'truncate outbox_replays' -c "
  insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, published_at)
  select 'Product', (g % 1000)::text, 'LikeAddedEvent', 'bench-events',
    $(payload), 'PUBLISHED', now()
  from generate_series(1, $rows) g" -c 'vacuum analyze outbox_events' -c checkpoint

begin=$EPOCHREALTIME
code=0
"$binary" replay --key nobody --dry-run >/dev/null 2>&1 || code=$?
((code == 6)) || { echo "a dry run that matches nothing ended with $code" >&2; exit 1; }
looked=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')

"$binary" replay --topic bench-events --yes "$@" >"$parts/replay.out" 2>"$parts/replay.log" &
running=$!
peak=0
while now=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$running/status" 2>/dev/null) && [[ -n $now ]]; do
  peak=$now
  sleep 0.2
done
wait "$running" || { cat "$parts/replay.log" >&2; exit 1; }
running=

sql -F ' ' -c "select copied, round(extract(epoch from finished_at - created_at), 1),
  round(copied / extract(epoch from finished_at - created_at)) from outbox_replays" |
  while read -r copied seconds rate; do
    printf '%s copies in %s s: %s/s, peak memory %s MB; a filter that matches none of the rows: %s s\n' \
      "$copied" "$seconds" "$rate" "$peak" "$looked"
  done
wrong=$(sql -c "select count(*) from (
  select replay_of, row_number() over (order by id) as n from outbox_events where replay_of is not null) c where replay_of <> n")
[[ $wrong == 0 && $(sql -c 'select count(*) from outbox_events where replay_of is not null') == "$rows" ]] ||
  { echo "not every event has one copy in the old order: $wrong are wrong" >&2; exit 1; }
