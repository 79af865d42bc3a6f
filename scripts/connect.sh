#!/usr/bin/env bash
# Kafka Connect, standalone, with Debezium's PostgreSQL connector and its outbox event router: the contender of `make bench`.
# Owns DIR (worker and connector settings, offsets, pid, rest-port, connect.log) and the jars in <target>/parts/connect-<versions>.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'EOT'
usage: connect.sh fetch              fetch the jars once; prints their folder
       connect.sh version            print the version of Debezium
       connect.sh prepare DIR        make the publication and the replication slot, so that what is inserted from now on is drained
       connect.sh start DIR          start the worker with its connector; returns at once, DIR/pid tells who it is
       connect.sh pause DIR          stop the connector, not the JVM; returns when it has let go of its slot
       connect.sh resume DIR         start the connector again
       connect.sh stop DIR           stop the JVM
       connect.sh remove DIR         stop it, and drop the slot and the publication
prepare, start and remove want DATABASE_URL (a superuser, wal_level = logical) and KAFKA_BOOTSTRAP_SERVERS.
EOT
}

pom=$repo_root/scripts/connect-pom.xml
kafka_version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$repo_root/scripts/kafka-pom.xml")
debezium_version=$(sed -n 's|.*<debezium.version>\(.*\)</debezium.version>.*|\1|p' "$pom")
libs=$parts_dir/connect-$kafka_version-$debezium_version
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
name=outbox_bench

fetch() {
  fetch_jars "$libs" "Debezium $debezium_version and Kafka Connect $kafka_version" "debezium-connector-postgres-$debezium_version.jar" \
    -Dkafka.version="$kafka_version"
}

sql() { psql -qAtX -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }

# Inserts only, and a slot that exists before the backlog does.
prepare() {
  sql -c "create publication $name for table outbox_events with (publish = 'insert')" \
    -c "select pg_create_logical_replication_slot('$name', 'pgoutput')" >/dev/null
}

configure() {
  local port=${DATABASE_URL##*:}
  port=${port%%/*}
  free_port >"$dir/rest-port"
  cat >"$dir/worker.properties" <<EOT
bootstrap.servers=$KAFKA_BOOTSTRAP_SERVERS
listeners=http://127.0.0.1:$(<"$dir/rest-port")
offset.storage.file.filename=$dir/offsets
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
header.converter=org.apache.kafka.connect.storage.StringConverter
producer.compression.type=lz4
producer.batch.size=1048576
producer.linger.ms=5
producer.buffer.memory=67108864
producer.max.request.size=8388608
plugin.discovery=only_scan
EOT
  # The payload goes out as it is stored, as text; nothing is parsed. The headers are those that a consumer needs.
  cat >"$dir/connector.properties" <<EOT
name=$name
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
database.hostname=127.0.0.1
database.port=$port
database.user=postgres
database.password=unused
database.dbname=postgres
database.sslmode=disable
topic.prefix=$name
plugin.name=pgoutput
slot.name=$name
publication.name=$name
publication.autocreate.mode=disabled
table.include.list=public.outbox_events
snapshot.mode=no_data
tombstones.on.delete=false
max.batch.size=8192
max.queue.size=32768
poll.interval.ms=10
transforms=outbox
transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
transforms.outbox.table.field.event.id=event_id
transforms.outbox.table.field.event.key=aggregate_id
transforms.outbox.table.field.event.payload=payload
transforms.outbox.route.by.field=topic
transforms.outbox.route.topic.replacement=\${routedByValue}
transforms.outbox.table.fields.additional.placement=event_type:header:eventType,aggregate_type:header:aggregateType
EOT
}

connect_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) && [[ -n $pid ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$dir/worker.properties" || return 1
  echo "$pid"
}
gone() { ! connect_pid >/dev/null; }

# The JVM options are those of Kafka's own start script, the heap that of connect-standalone.sh.
start() {
  gone || die "already running in $dir"
  need "$java"
  fetch
  configure
  setsid "$java" -cp "$libs/*" -Dlog4j2.configurationFile="$repo_root/scripts/kafka-log4j2.properties" -server -Xms256m -Xmx2g -XX:+UseG1GC \
    -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent \
    org.apache.kafka.connect.cli.ConnectStandalone "$dir/worker.properties" "$dir/connector.properties" \
    >>"$dir/connect.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

# put PATH: a request to the worker; succeeds when it is accepted.
put() {
  local status
  exec 3<>"/dev/tcp/127.0.0.1/$(<"$dir/rest-port")" || return 1
  printf 'PUT %s HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n' "$1" >&3
  read -r -t 30 _ status _ <&3 || status=none
  exec 3>&-
  [[ $status == 20* ]] || { say "$1: the worker answers with status $status"; return 1; }
}

slot_free() { [[ $(sql -c "select active from pg_replication_slots where slot_name = '$name'") == f ]]; }

stop() {
  local pid
  pid=$(connect_pid) || return 0
  kill "$pid"
  wait_for 30 gone || { say "does not stop within 30 s, killing it"; kill -KILL "$pid"; wait_for 10 gone; }
  rm -f "$dir/pid"
}

drop() {
  wait_for 20 slot_free || true
  sql -c "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '$name'" \
    -c "drop publication if exists $name" >/dev/null
  rm -f "$dir/offsets"
}

command=${1:-}
case $command in
  fetch) need "$java"; fetch; echo "$libs"; exit ;;
  version) echo "$debezium_version"; exit ;;
  prepare | start | pause | resume | stop | remove) [[ -n ${2:-} ]] || { usage >&2; exit 2; } ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
dir=$(absolute "$2")
case $command in
  prepare) prepare ;;
  start) start ;;
  pause) put "/connectors/$name/stop"; wait_for 60 slot_free || die "the connector does not let go of its slot; see $dir/connect.log" ;;
  resume) put "/connectors/$name/resume" ;;
  stop) stop ;;
  remove) stop; drop ;;
esac
