#!/usr/bin/env bash
# bench.sh [--check] SCENARIO...: compares the relay with others, and with itself, on a PostgreSQL and a Kafka of its own (durable commits), all on
# this machine, which wants nothing else to do. What is measured how, and why it is fair: docs/performance.md.
#   drain      a backlog: relay in both modes, with both trackings and deleting, polling loop, Debezium cold and warm, two ceilings; in turns, ROUNDS times
#   payload    the same without the ceilings, at 100 bytes and at 4 KiB
#   latency    commit to consumer at RATES inserts per second
#   idle       transactions and CPU while there is nothing to do
#   instances  one, two and four relays
#   keys       one hot key, a thousand, a million
#   horizon    a pinned vacuum horizon with PUBLISHED rows behind it
#   growing    a table with a million and with ten million published rows
#   fold       the consumer: records to product_metrics
# Settings: ROWS=1000000 PAYLOAD=300 (bytes) KEYS=1000 ROUNDS=3 RATES="5000 20000" SECONDS_EACH=30 WARMUP=15 WITHIN=900 (seconds for one
# run) PUBLISHED (rows behind the horizon, 2000000) GROWN="0 1000000 10000000" CONTENDERS (those to run),
# BINARY and RIG (other programs than those of `make bench-build`).
# Prints a line for each run; each scenario replaces its part of target/bench/results.jsonl, which `make bench-report` makes tables of.
# Owns target/bench; stops only what it started.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
rows=${ROWS:-1000000} payload=${PAYLOAD:-300} keys=${KEYS:-1000} rounds=${ROUNDS:-3} within=${WITHIN:-900}
target=${CARGO_TARGET_DIR:-target}
binary=${BINARY:-$target/release/outbox-relay}
rig=${RIG:-$target/release/outbox-bench}
out=$target/bench
parts=$out/parts
scenarios=(drain payload latency idle instances keys horizon growing fold)
all_contenders='relay-alo relay-eos delete-alo watermark-alo watermark-eos polling-loop produce claim-and-mark debezium consumer'
chosen=${CONTENDERS:-$all_contenders}

check=
[[ ${1:-} != --check ]] || { check=1; shift; }
(($#)) || { echo "usage: bench.sh SCENARIO...   (${scenarios[*]})" >&2; exit 2; }
for scenario; do
  [[ " ${scenarios[*]} " == *" $scenario "* ]] || die "no scenario '$scenario'; there are ${scenarios[*]}"
done
for number in ROWS PAYLOAD KEYS ROUNDS WITHIN SECONDS_EACH WARMUP PUBLISHED; do
  [[ ${!number:-1} =~ ^[1-9][0-9]{0,9}$ ]] || die "$number=${!number} is not a whole number above zero"
done
for number in ${RATES:-} ${GROWN:-}; do
  [[ $number =~ ^[0-9]{1,10}$ ]] || die "'$number' in RATES or GROWN is not a whole number"
done
for contender in $chosen; do
  [[ " $all_contenders " == *" $contender "* ]] || die "no contender '$contender'; there are $all_contenders"
done
[[ -z $check ]] || exit 0 # before anything is built
[[ -x $binary && -x $rig ]] || die "$binary or $rig is not there; run this with make"
need psql

mkdir -p "$out"
exec 7>"$out/.lock"
flock -n 7 || die "another bench is running in $out"
# Before anything is measured: without Java or Maven Central it ends here.
scripts/kafka.sh fetch >/dev/null 7>&-
wants() { [[ " $chosen " == *" $1 "* ]]; }
! wants debezium || scripts/connect.sh fetch >/dev/null 7>&-

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
[[ ! -d $parts/postgres ]] || { stop_servers; scripts/postgres.sh remove "$parts/postgres"; } # left behind by a run that was killed
rm -rf "$parts"
mkdir -p "$parts"
start_servers kafka bench-warmup 7>&-

# --- the backlog ------------------------------------------------------------------------------------------------------

# wal LEVEL: the server writes as much WAL as the contender needs, and no more.
wal() {
  [[ ${level:-replica} != "$1" ]] || return 0
  scripts/postgres.sh restart "$parts/postgres" --config "wal_level=$1" 2>/dev/null 7>&-
  level=$1
}

empty() {
  sql -c 'truncate outbox_events, outbox_held_keys, outbox_again, outbox_progress' \
    -c "update outbox_shards set low_id = 0, done_id = 0, ahead_ids = '{}', batch_ids = null"
}

# Hexadecimal digits in which no compression finds repeats: 997 texts, so that text and key do not go together.
fillers() { # fillers BYTES: of the whole payload
  local bytes=$(($1 > 70 ? $1 - 58 : 12))
  sql -c 'set client_min_messages = warning' -c 'drop table if exists bench_fillers' -c "create table bench_fillers as
    select n, left(string_agg(md5(n || '-' || i), ''), $bytes) as filler
    from generate_series(0, 996) n, generate_series(0, $bytes / 32) i group by n" -c 'analyze bench_fillers'
}

backlog() { # backlog ROWS TOPIC: a thousand rows in each transaction
  sql -c "do \$\$ begin
    for portion in 0 .. ($1 - 1) / 1000 loop
      insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload)
      select 'Product', (g % $keys)::text, 'LikeAddedEvent', '$2',
        jsonb_build_object('productId', g % $keys, 'userId', g, 'filler', filler)
      from generate_series(portion * 1000 + 1, least(portion * 1000 + 1000, $1)) g join bench_fillers on n = g % 997
      order by g;
      commit;
    end loop;
  end \$\$"
  sql -c 'vacuum analyze outbox_events' -c checkpoint
}

published() { # published ROWS: history
  sql -c "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, published_at)
    select 'Product', (g % $keys)::text, 'LikeAddedEvent', 'bench-history',
      jsonb_build_object('productId', g % $keys, 'userId', g, 'filler', filler), 'PUBLISHED', now()
    from generate_series(1, $1) g join bench_fillers on n = g % 997"
}

# --- the measurements -------------------------------------------------------------------------------------------------

topic=bench-warmup numbered=0
fresh_topic() {
  numbered=$((numbered + 1))
  topic=bench-$numbered
  "$rig" create-topic "$topic" 7>&-
}
drop_topic() { "$rig" delete-topics "$topic" 7>&-; }

# measure WHAT CONTENDER [options] [-- command]: in the background, since only then a signal is seen at once.
measure() {
  : >"$parts/contender.log"
  "$rig" "$1" --scenario "$scenario" --contender "$2" --results "$results" --log "$parts/contender.log" \
    --postgres "$(<"$parts/postgres/pid")" --kafka "$(<"$parts/kafka/pid")" "${@:3}" 7>&- &
  running=$!
  wait "$running" || { running=; die "$scenario: $2 was not measured; its output is in $parts, its last words above"; }
  running=
}

relay() { # relay CONTENDER: leaves its command line in $argv
  local mode=at-least-once tracking=rows
  [[ $1 != *-eos ]] || mode=exactly-once
  [[ $1 != watermark-* ]] || tracking=watermark
  argv=("$binary" run --only relay --set "relay.delivery=$mode" --set "relay.tracking=$tracking")
  [[ $1 != delete-* ]] || argv+=(--set relay.after_publish=delete)
}

drain() { # drain CONTENDER [options]: of the relay; the table holds what it should, but for the backlog
  fresh_topic
  backlog "$rows" "$topic"
  relay "$1"
  measure drain "$1" --note "payload=$payload" --note "keys=$keys" --rows "$rows" --within "$within" --topic "$topic" --marks "${@:2}" -- "${argv[@]}"
}

# The records that the relay has just made, from memory.
produce_again() {
  local from=$topic
  fresh_topic
  measure drain produce --note "payload=$payload" --note "keys=$keys" --rows "$rows" --within "$within" --topic "$topic" --loads -- \
    "$rig" produce "$from" "$topic" "$rows"
  "$rig" delete-topics "$from"
}

# The polling loop gets the index that it wants instead of ours.
index=$(sql -c "select pg_get_indexdef('outbox_events_pending'::regclass)")
index_for_polling() { sql -c 'drop index outbox_events_pending' -c "create index bench_pending on outbox_events (id) where status = 'PENDING'"; }
index_for_relay() { sql -c 'drop index bench_pending' -c "$index"; }

compare() { # compare CONTENDER: one run of it, or of both parts of Debezium
  local about=(--note "payload=$payload" --note "keys=$keys" --rows "$rows" --within "$within")
  empty
  case $1 in
    relay-* | watermark-* | delete-*)
      drain "$1"
      if [[ $1 == relay-alo && $scenario == drain ]] && wants produce; then
        produce_again
      fi
      drop_topic
      ;;
    polling-loop)
      fresh_topic
      index_for_polling
      backlog "$rows" "$topic"
      measure drain "$1" "${about[@]}" --topic "$topic" --marks -- "$rig" polling-loop "$topic"
      empty
      index_for_relay
      drop_topic
      ;;
    claim-and-mark)
      backlog "$rows" none
      measure drain "$1" "${about[@]}" --marks -- "$rig" claim-and-mark
      ;;
    debezium)
      wal logical
      scripts/connect.sh prepare "$parts/connect" 7>&-
      fresh_topic
      backlog "$rows" "$topic"
      scripts/connect.sh start "$parts/connect" 7>&-
      measure drain debezium-cold "${about[@]}" --topic "$topic" --pid "$(<"$parts/connect/pid")"
      scripts/connect.sh pause "$parts/connect"
      drop_topic
      fresh_topic
      empty
      backlog "$rows" "$topic"
      measure drain debezium-warm "${about[@]}" --topic "$topic" --pid "$(<"$parts/connect/pid")" -- scripts/connect.sh resume "$parts/connect"
      scripts/connect.sh remove "$parts/connect"
      drop_topic
      wal replica
      ;;
  esac
}

drain_heading() { printf '%-14s %10s %12s %12s %12s %10s %8s\n' contender events/s 'own CPU s/M' 'PostgreSQL' Kafka 'peak MB' repeats; }

# The broker compiles its code as it goes: in each mode a run of a million events at least that nobody counts.
warm_up() {
  [[ -z ${warm:-} ]] || return 0
  warm=1
  local counted=$results rows=$((rows < 1000000 ? 1000000 : rows)) mode
  results=$parts/warm-up.jsonl
  echo 'warm-up, not counted:'
  for mode in relay-alo relay-eos; do
    empty
    drain "$mode"
    drop_topic
  done
  echo 'counted:'
  results=$counted
}

# --- the scenarios ----------------------------------------------------------------------------------------------------

drain_in_turns() {
  local round contender
  warm_up
  for ((round = 1; round <= rounds; round++)); do
    for contender in $1; do
      ! wants "$contender" || compare "$contender"
    done
  done
}

run_drain() {
  drain_heading
  drain_in_turns 'relay-alo relay-eos delete-alo watermark-alo watermark-eos polling-loop claim-and-mark debezium'
}

run_payload() {
  local all=$rows payload
  drain_heading
  for payload in 100 4096; do
    echo "payload of $payload bytes:"
    # Forty times the bytes: a quarter of the rows takes long enough.
    local rows=$((payload > 1000 ? (all + 3) / 4 : all))
    fillers "$payload"
    drain_in_turns 'relay-alo relay-eos watermark-alo polling-loop debezium'
  done
  fillers "$PAYLOAD_BYTES"
}

run_latency() {
  local rate contender
  drain_heading
  warm_up
  printf '%-14s %9s %10s %10s %10s %10s %8s\n' contender offered/s inserted/s 'p50 ms' 'p99 ms' 'p99.9 ms' missing
  for rate in ${RATES:-5000 20000}; do
    for contender in relay-alo relay-eos delete-alo watermark-alo watermark-eos polling-loop debezium; do
      wants "$contender" || continue
      empty
      fresh_topic
      local about=(--note "payload=$payload" --note "keys=$keys" --topic "$topic" --rate "$rate" --keys "$keys" --payload "$payload"
        --seconds "${SECONDS_EACH:-30}" --warmup "${WARMUP:-15}" --within "$within")
      case $contender in
        relay-* | watermark-* | delete-*)
          relay "$contender"
          measure latency "$contender" "${about[@]}" -- "${argv[@]}"
          ;;
        polling-loop)
          index_for_polling
          measure latency "$contender" "${about[@]}" -- "$rig" polling-loop "$topic"
          empty
          index_for_relay
          ;;
        debezium)
          with_debezium measure latency "$contender" "${about[@]}"
          ;;
      esac
      drop_topic
    done
  done
}

with_debezium() { # with_debezium measure ...: the worker is up and its connector at work
  wal logical
  scripts/connect.sh prepare "$parts/connect" 7>&-
  scripts/connect.sh start "$parts/connect" 7>&-
  wait_for 90 slot_taken || die "Debezium did not begin within 90 s; see $parts/connect/connect.log"
  "$@" --pid "$(<"$parts/connect/pid")"
  scripts/connect.sh remove "$parts/connect"
  wal replica
}
slot_taken() { [[ $(sql -c 'select bool_or(active) from pg_replication_slots') == t ]]; }

run_idle() {
  local contender
  printf '%-14s %16s %12s %12s %12s\n' contender transactions/s 'own CPU %' 'PostgreSQL %' 'Kafka %'
  for contender in nobody relay-alo relay-eos watermark-alo polling-loop debezium; do
    [[ $contender == nobody ]] || wants "$contender" || continue
    empty
    local about=(--seconds "${SECONDS_EACH:-60}")
    case $contender in
      nobody) measure idle "$contender" "${about[@]}" -- sleep infinity ;;
      relay-* | watermark-* | delete-*) relay "$contender"; measure idle "$contender" "${about[@]}" -- "${argv[@]}" ;;
      polling-loop) measure idle "$contender" "${about[@]}" -- "$rig" polling-loop bench-warmup ;;
      debezium) with_debezium measure idle "$contender" "${about[@]}" ;;
    esac
  done
}

# Of the relay alone, in turns: each call of FUNCTION is one run.
in_turns() { # in_turns CONTENDERS FUNCTION VALUE...: FUNCTION gets one of each
  local round value contender
  drain_heading
  warm_up
  for ((round = 1; round <= rounds; round++)); do
    for value in "${@:3}"; do
      for contender in $1; do
        wants "$contender" || continue
        echo "$scenario: $value"
        "$2" "$contender" "$value"
        drop_topic
      done
    done
  done
}

run_instances() {
  one() { empty; drain "$1" --instances "$2"; }
  in_turns relay-alo one 1 2 4
}

run_keys() {
  one() {
    local keys=$2
    empty
    drain "$1"
    # The records of one key go to one partition.
    [[ $1:$keys != relay-alo:1 ]] || produce_again
  }
  in_turns 'relay-alo watermark-alo' one 1 1000 1000000
}

unpin() { sql -c "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'bench-pin'" >/dev/null; }
pinned() { [[ $(sql -c "select exists (select 1 from pg_stat_activity where application_name = 'bench-pin' and backend_xmin is not null)") == t ]]; }

# The rows behind the horizon are published by the relay itself, so that what it leaves behind is what is there.
run_horizon() {
  one() {
    local behind=${PUBLISHED:-2000000}
    empty
    if [[ $2 == yes ]]; then
      PGAPPNAME=bench-pin sql -c 'begin isolation level repeatable read' -c 'select pg_current_xact_id()' -c 'select pg_sleep(86400)' >/dev/null 2>&1 7>&- &
      wait_for 10 pinned || die 'the transaction that pins the horizon did not begin'
    fi
    local counted=$results
    results=$parts/behind.jsonl
    rows=$behind drain "$1"
    drop_topic
    results=$counted
    drain "$1" --note "published=$behind" --note "pinned=$2"
    [[ $2 == no ]] || unpin
  }
  in_turns 'relay-alo watermark-alo' one no yes
}

run_growing() {
  one() {
    empty
    (($2 == 0)) || published "$2"
    drain "$1" --note "published=$2"
  }
  # shellcheck disable=SC2086 # a list of numbers
  in_turns relay-alo one ${GROWN:-0 1000000 10000000}
}

run_fold() {
  one() {
    local counted=$results
    empty
    results=$parts/behind.jsonl
    drain relay-alo
    results=$counted
    sql -c 'truncate event_handled, product_metrics'
    measure fold consumer --note "payload=$payload" --note "keys=$keys" --group "$topic" --rows "$rows" --within "$within" -- \
      "$binary" run --only consumer --set "consumer.group=$topic" --set "consumer.topics=$topic"
  }
  in_turns consumer one "$rows"
}

PAYLOAD_BYTES=$payload
fillers "$payload"
command="ROWS=$rows PAYLOAD=$payload KEYS=$keys ROUNDS=$rounds"
for name in RATES SECONDS_EACH WARMUP PUBLISHED GROWN CONTENDERS; do
  [[ -z ${!name:-} ]] || command+=" $name=${!name@Q}"
done
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
for scenario; do
  results=$out/$scenario.part.jsonl
  rm -f "$results"
  "$rig" environment --results "$results" --command "$command scripts/bench.sh $scenario" \
    --version "outbox-relay=$("$binary" --version | awk 'NR == 1 { print $2 }')" \
    --version "PostgreSQL=$(sql -c "select split_part(current_setting('server_version'), ' ', 1)")" \
    --version "Kafka=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' scripts/kafka-pom.xml)" \
    --version "Debezium=$(scripts/connect.sh version)" \
    --version "Java=$("$java" -version 2>&1 | sed -n '1s/.*"\(.*\)".*/\1/p')"
  "run_$scenario"
  # Only now: a scenario that was interrupted leaves the old figures.
  mv "$results" "$out/$scenario.jsonl"
  for name in "${scenarios[@]}"; do
    [[ ! -f $out/$name.jsonl ]] || cat "$out/$name.jsonl"
  done >"$out/results.jsonl"
done
"$rig" report --results "$out/results.jsonl"
