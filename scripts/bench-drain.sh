#!/usr/bin/env bash
# Measures how fast the relay drains a backlog: ROWS events of about 300 bytes over 1,000 keys, into a topic with six
# partitions, on a PostgreSQL and a Kafka of its own (durable commits), all on this machine. One run in each delivery mode to warm up,
# since the broker compiles its code as it goes and that of transactions is not that of plain records; then three in each, in turns, so
# that a slow moment of the machine meets both.
# With POISON=N: three more runs in at-least-once delivery, in turns without and with N events of one more key, the first of which can
# never be published and the rest of which is held behind it when the other keys begin; the rate is that of the other keys.
# Prints for each: events per second between the first and the last settled batch, CPU of the relay and of PostgreSQL per million
# events, and the relay's peak memory; at the end the medians and their ratio. Owns target/bench; stops only what it started. Wants a
# machine with nothing else to do. Arguments go to `outbox-relay run`.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${ROWS:-600000}
target=${CARGO_TARGET_DIR:-target}
binary=$target/release/outbox-relay
parts=$target/bench
topic=bench-events
poison=${POISON:-0}

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
start_servers kafka "$topic"

backends_cpu() { # clock ticks of every process of the server, those that ended included
  local pid=$1 ticks
  ticks=$(awk '{ print $14 + $15 + $16 + $17 }' "/proc/$pid/stat")
  for child in $(pgrep -P "$pid"); do
    ticks=$((ticks + $(awk '{ print $14 + $15 }' "/proc/$child/stat" 2>/dev/null || echo 0)))
  done
  echo "$ticks"
}

per_million() { awk -v ticks="$1" -v hz="$(getconf CLK_TCK)" -v rows="$rows" 'BEGIN { printf "%.1f", ticks / hz / rows * 1e6 }'; }

backlog() { # backlog ROWS KEY HEADERS
  sql -c "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, headers, payload)
    select 'Product', $2, 'LikeAddedEvent', '$topic', $3,
      $(payload)
    from generate_series(1, $1) g"
}

until_drained() { # until_drained DELIVERY: starts a relay and ends it when nothing is PENDING
  "$binary" run --only relay --set "relay.delivery=$1" "${@:2}" 2>"$parts/relay.log" &
  running=$!
  while [[ $(sql -c "select exists (select 1 from outbox_events where status = 'PENDING')") == t ]]; do
    kill -0 "$running" || { tail -5 "$parts/relay.log" >&2; exit 1; }
    sleep 1
  done
  kill "$running"
  wait "$running"
  running=
}

drain() { # drain DELIVERY: prints a line, leaves the rate in $rate; $among events of a poisoned key wait already
  sql -c 'truncate outbox_events, outbox_held_keys' -c 'update outbox_shards set low_id = 0'
  if ((${among:-0})); then
    # Headers that are no strings cannot be sent.
    backlog "$among" "'poison'" "case when g = 1 then '{\"a\": 1}'::jsonb end"
    until_drained "$@"
  fi
  backlog "$rows" '(g % 1000)::text' null
  sql -c 'vacuum analyze outbox_events' -c checkpoint
  local before postgres second ticks peak
  postgres=$(cat "$parts/postgres/pid")
  before=$(backends_cpu "$postgres")
  "$binary" run --only relay --set "relay.delivery=$1" "${@:2}" 2>"$parts/relay.log" &
  running=$!
  for ((second = 0; ; second++)); do
    ((second < 300)) || { echo "not drained within 300 s; see $parts/relay.log" >&2; exit 1; }
    kill -0 "$running" || { tail -5 "$parts/relay.log" >&2; exit 1; }
    [[ $(sql -c "select exists (select 1 from outbox_events where status = 'PENDING')") == t ]] || break
    sleep 1
  done
  ticks=$(awk '{ print $14 + $15 }' "/proc/$running/stat")
  peak=$(awk '/VmHWM/ { print int($2 / 1024) " MB" }' "/proc/$running/status")
  before=$(($(backends_cpu "$postgres") - before))
  kill "$running"
  wait "$running"
  running=
  rate=$(sql -c "select round(count(*) / extract(epoch from max(published_at) - min(published_at))) from outbox_events where status = 'PUBLISHED'")
  printf '%-14s %10s %18s %18s %12s\n' "$1" "$rate" "$(per_million "$ticks")" "$(per_million "$before")" "$peak"
}

printf '%-14s %10s %18s %18s %12s\n' delivery events/s 'relay CPU s/M' 'PostgreSQL CPU s/M' 'peak memory'
at_least_once=() exactly_once=()
for mode in at-least-once exactly-once; do
  drain "$mode" "$@" | sed 's/$/   (warm-up)/'
done
for _ in 1 2 3; do
  drain at-least-once "$@"
  at_least_once+=("$rate")
  drain exactly-once "$@"
  exactly_once+=("$rate")
done
printf 'medians: at-least-once %s, exactly-once %s events/s, ratio %s\n' "$(median "${at_least_once[@]}")" \
  "$(median "${exactly_once[@]}")" \
  "$(awk -v a="$(median "${at_least_once[@]}")" -v b="$(median "${exactly_once[@]}")" 'BEGIN { printf "%.2f", b / a }')"

((poison)) || exit 0
without=() with=()
for _ in 1 2 3; do
  among=0 drain at-least-once "$@"
  without+=("$rate")
  among=$poison drain at-least-once "$@"
  with+=("$rate")
done
printf 'medians: %s without, %s events/s of the other keys with a poisoned key of %s events, ratio %s\n' "$(median "${without[@]}")" \
  "$(median "${with[@]}")" "$poison" \
  "$(awk -v a="$(median "${without[@]}")" -v b="$(median "${with[@]}")" 'BEGIN { printf "%.2f", b / a }')"
