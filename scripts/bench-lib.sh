# Shared by the bench scripts; sourced, never run. They set `parts`, the folder of the servers, and `binary` before.
# shellcheck shell=bash

# start_servers [kafka TOPIC]: a PostgreSQL, and a Kafka with a topic of six partitions, of the bench's own, with durable commits and an
# up-to-date schema. Ends them when the script ends, and what `$running` names with them.
start_servers() {
  trap stop_servers EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  scripts/postgres.sh start "$parts/postgres"
  DATABASE_URL=$(cat "$parts/postgres/url")
  export DATABASE_URL
  if [[ ${1:-} == kafka ]]; then
    KAFKA_JVM=-XX:+UseG1GC scripts/kafka.sh start "$parts/kafka" # as in production: both compilers
    KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$(cat "$parts/kafka/port")
    export KAFKA_BOOTSTRAP_SERVERS
    scripts/kafka-topics.sh "$KAFKA_BOOTSTRAP_SERVERS" "$2:6" >/dev/null
  fi
  "$binary" migrate up >/dev/null
}

stop_servers() {
  trap '' INT TERM HUP # a second Ctrl-C must not leave servers behind
  [[ -z ${running:-} ]] || { kill "$running" && wait "$running"; } 2>/dev/null || true
  [[ ! -d $parts/connect ]] || scripts/connect.sh stop "$parts/connect" 2>/dev/null || true
  [[ ! -d $parts/kafka ]] || scripts/kafka.sh stop "$parts/kafka" 2>/dev/null || true
  scripts/postgres.sh stop "$parts/postgres" 2>/dev/null || true
}

sql() { psql -qAtX -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }

# The middle one of three.
median() { printf '%s\n' "$@" | sort -n | sed -n 2p; }

# payload: the SQL of a payload of about 300 bytes, for rows numbered by g.
payload() { echo "jsonb_build_object('productId', g % 1000, 'userId', g, 'filler', repeat(md5(g::text), 7))"; }
