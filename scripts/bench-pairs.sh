#!/usr/bin/env bash
# bench-pairs.sh OTHER: compares this build of the relay with another one, OTHER (the path of a binary), in alternating pairs on one PostgreSQL and
# one Kafka of its own, each build with a database of its own. Drain: ROWS events of about 300 bytes over 1,000 keys. Latency: commit to
# consumer at RATE inserts per second for SECONDS_EACH seconds.
# Prints each run, then for each way the ratio of the pairs: the median, the lowest and the highest; above 1 this build is better. WAL and
# transactions are those of the database while the backlog drains, per event and per thousand events; a last, untimed run counts statements.
# Settings: ROWS=400000 PAIRS=7 RATE=5000 SECONDS_EACH=15 WAYS="relay-alo relay-eos watermark-alo watermark-eos" LATENCY="relay-alo relay-eos"
# PAIRS=0 counts statements only. BINARY, RIG (other programs than those of `make bench-build`).
# Owns target/bench-pairs; stops only what it started. Wants a machine with nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
target=${CARGO_TARGET_DIR:-target}
binary=${BINARY:-$target/release/outbox-relay}
rig=${RIG:-$target/release/outbox-bench}
(($# == 1)) || { echo 'usage: bench-pairs.sh OTHER_BINARY' >&2; exit 2; }
other=$1
rows=${ROWS:-400000} pairs=${PAIRS:-7} rate=${RATE:-5000} seconds=${SECONDS_EACH:-15}
for program in "$binary" "$rig" "$other"; do [[ -x $program ]] || die "$program is not there; run make bench-build"; done
parts=$target/bench-pairs
results=$parts/results.jsonl
[[ ! -d $parts/postgres ]] || scripts/postgres.sh remove "$parts/postgres"
rm -rf "$parts"
mkdir -p "$parts"

# shellcheck source=scripts/bench-lib.sh
. scripts/bench-lib.sh
start_servers kafka bench-warmup
own_url=$DATABASE_URL
sql -c 'create database bench_other' >/dev/null
other_url=${own_url%/*}/bench_other
[[ $other_url != "$own_url" && $own_url == */* ]] || die "cannot make a second URL of $own_url"
DATABASE_URL=$other_url "$other" migrate up >/dev/null

use() { # use own|other
  if [[ $1 == own ]]; then DATABASE_URL=$own_url program=$binary; else DATABASE_URL=$other_url program=$other; fi
  export DATABASE_URL
}

relay() { # relay WAY: leaves its command line in $argv
  local mode=at-least-once tracking=rows
  [[ $1 != *-eos ]] || mode=exactly-once
  [[ $1 != watermark-* ]] || tracking=watermark
  argv=("$program" run --only relay --set "relay.delivery=$mode" --set "relay.tracking=$tracking" --set "run.deployment=pair-$2")
}

numbered=0
begin() {
  numbered=$((numbered + 1))
  topic=bench-$numbered
  "$rig" create-topic "$topic"
  sql -c 'truncate outbox_events, outbox_held_keys, outbox_again, outbox_progress' \
    -c "update outbox_shards set low_id = 0, done_id = 0, ahead_ids = '{}', batch_ids = null"
}

backlog() {
  sql -c "do \$\$ begin
    for portion in 0 .. ($rows - 1) / 1000 loop
      insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload)
      select 'Product', (g % 1000)::text, 'LikeAddedEvent', '$topic', $(payload)
      from generate_series(portion * 1000 + 1, least(portion * 1000 + 1000, $rows)) g order by g;
      commit;
    end loop;
  end \$\$" -c 'vacuum analyze outbox_events' -c checkpoint
}

measure() { # measure WHAT WAY WHO [options]
  relay "$2" "$3"
  : >"$parts/relay.log"
  "$rig" "$1" --scenario "$1" --contender "$2:$3" --results "$results" --log "$parts/relay.log" --postgres "$(<"$parts/postgres/pid")" \
    --kafka "$(<"$parts/kafka/pid")" "${@:4}" -- "${argv[@]}" &
  running=$!
  wait "$running" || { running=; die "$1 of $2 ($3) was not measured; see $parts/relay.log"; }
  running=
  "$rig" delete-topics "$topic"
}

counters() { sql -c "select pg_current_wal_insert_lsn() - '0/0', xact_commit from pg_stat_database where datname = current_database()"; }
drain() { # drain WAY WHO
  use "$2"
  begin
  backlog
  local before after
  sleep 1 # the server writes its counters twice a second
  before=$(counters)
  measure drain "$1" "$2" --rows "$rows" --within 900 --topic "$topic" --marks
  sleep 1
  after=$(counters)
  awk -v a="$before" -v b="$after" -v rows="$rows" -v name="$1:$2" 'BEGIN {
    split(a, x, "|"); split(b, y, "|")
    printf "{\"scenario\": \"cost\", \"contender\": \"%s\", \"wal\": %.1f, \"commits\": %.2f}\n", name, (y[1] - x[1]) / rows, (y[2] - x[2]) / rows * 1000
  }' >>"$results"
}

latency() { # latency WAY WHO
  use "$2"
  begin
  measure latency "$1" "$2" --rate "$rate" --warmup 5 --seconds "$seconds" --within 300 --topic "$topic"
}

compare() {
  echo 'warm-up, not counted:'
  for who in own other; do for way in relay-alo relay-eos; do drain "$way" "$who"; done; done
  rm -f "$results"
  echo 'counted:'
  for ((pair = 1; pair <= pairs; pair++)); do
    order=(own other)
    ((pair % 2)) || order=(other own)
    for way in ${WAYS:-relay-alo relay-eos watermark-alo watermark-eos}; do for who in "${order[@]}"; do drain "$way" "$who"; done; done
    for way in ${LATENCY:-relay-alo relay-eos}; do for who in "${order[@]}"; do latency "$way" "$who"; done; done
  done
  cp "$results" "$target/bench-pairs.jsonl"
  use own
  # No byte of JSON is a backspace or a bell, so that each line is one value.
  psql -qX -v ON_ERROR_STOP=1 "$DATABASE_URL" -c 'create table bench_runs (n int generated always as identity, run jsonb)' \
    -c "\\copy bench_runs (run) from '$target/bench-pairs.jsonl' with (format csv, delimiter e'\\x01', quote e'\\x02')"
  psql -qX -v ON_ERROR_STOP=1 "$DATABASE_URL" <<'SQL'
  with runs as (
    select run, run ->> 'scenario' as scenario, split_part(run ->> 'contender', ':', 1) as way, split_part(run ->> 'contender', ':', 2) as who,
      row_number() over (partition by run ->> 'scenario', run ->> 'contender' order by n) as pair
    from bench_runs
  ),
  measured as (
    select scenario, way, who, pair, figure, value::float as value
    from runs
    cross join lateral (values ('events/s', run ->> 'rate'), ('p50 ms', run ->> 'p50_ms'), ('p99 ms', run ->> 'p99_ms'), ('peak MB', run ->> 'peak_mb'),
      ('own CPU', run -> 'cpu' ->> 'contender'), ('PostgreSQL CPU', run -> 'cpu' ->> 'postgres'), ('WAL bytes', run ->> 'wal'),
      ('commits', run ->> 'commits')) as f(figure, value)
    where value is not null
  ),
  compared as (
    select way, figure, a.value as own, b.value as other, case figure when 'events/s' then a.value / b.value else b.value / nullif(a.value, 0) end as ratio
    from measured a join measured b using (scenario, way, figure, pair)
    where a.who = 'own' and b.who = 'other' and not (scenario = 'latency' and figure in ('peak MB', 'own CPU', 'PostgreSQL CPU'))
  )
  select way, figure, count(*) as pairs,
    round((percentile_cont(0.5) within group (order by own))::numeric, 1) as this_build,
    round((percentile_cont(0.5) within group (order by other))::numeric, 1) as other_build,
    round((percentile_cont(0.5) within group (order by ratio))::numeric, 3) as ratio,
    round(min(ratio)::numeric, 3) as lowest, round(max(ratio)::numeric, 3) as highest
  from compared group by way, figure order by figure, way;
SQL
}
((pairs == 0)) || compare

# Statements, counted and not timed: the server has to watch each of them.
scripts/postgres.sh restart "$parts/postgres" --config shared_preload_libraries=pg_stat_statements --config pg_stat_statements.track=top >/dev/null
counted=$parts/statements.tsv
: >"$counted"
for way in ${WAYS:-relay-alo relay-eos watermark-alo watermark-eos}; do
  for who in own other; do
    use "$who"
    sql -c 'set client_min_messages = warning' -c 'create extension if not exists pg_stat_statements'
    begin
    backlog
    sql -c 'select pg_stat_statements_reset()' >/dev/null
    measure drain "$way" "$who" --rows "$rows" --within 900 --topic "$topic" --marks
    # BEGIN, COMMIT and what a session sets at its start count as well; each call is a round trip unless it is pipelined.
    sql -F $'\t' -c "select '$way', '$who', sum(calls), round(sum(wal_bytes) / $rows, 1), sum(wal_records)
      from pg_stat_statements s join pg_database d on d.oid = s.dbid
      where d.datname = current_database() and query not like '%pg_stat_statements%'" >>"$counted"
    sql -F $'\t' -c "select calls, round(total_exec_time), left(regexp_replace(query, '\\s+', ' ', 'g'), 160)
      from pg_stat_statements s join pg_database d on d.oid = s.dbid
      where d.datname = current_database() order by calls desc limit 40" >"$target/bench-pairs-$way-$who.tsv"
  done
done
echo
awk -F '\t' -v rows="$rows" '
  BEGIN { printf "%-14s %22s %22s %18s %18s\n", "way", "statements, this one", "the other one", "WAL bytes/event", "the other one" }
  $2 == "own" { calls = $3; wal = $4 }
  $2 == "other" { printf "%-14s %22d %22d %18s %18s\n", $1, calls, $3, wal, $4 }' "$counted"
