#!/usr/bin/env bash
# dev-parts.sh up|down|remove: PostgreSQL and Kafka with the topics for development, kept between runs.
# Owns <target>/dev: the data, and the file env with the settings of the relay (there only while the parts are up).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

scripts=$repo_root/scripts
dir=$(absolute "$target_dir/dev")

case ${1:-} in
  up)
    "$scripts/kafka.sh" start "$dir/kafka" &
    "$scripts/postgres.sh" start "$dir/postgres"
    wait $!
    bootstrap=127.0.0.1:$(<"$dir/kafka/port")
    "$scripts/kafka-topics.sh" "$bootstrap" catalog-events catalog-events-dlq order-events order-events-dlq >&2
    printf 'export DATABASE_URL=%q\nexport KAFKA_BOOTSTRAP_SERVERS=%q\n' "$(<"$dir/postgres/url")" "$bootstrap" >"$dir/env"
    cat "$dir/env"
    say "for a shell of your own: . $dir/env"
    ;;
  down)
    rm -f "$dir/env"
    "$scripts/kafka.sh" stop "$dir/kafka"
    "$scripts/postgres.sh" stop "$dir/postgres"
    ;;
  remove)
    "$0" down
    "$scripts/postgres.sh" remove "$dir/postgres"
    rm -rf "$dir"
    ;;
  *) echo "usage: dev-parts.sh up|down|remove" >&2; exit 2 ;;
esac
