#!/usr/bin/env bash
# Creates topics that do not exist yet; owns nothing.   kafka-topics.sh BOOTSTRAP name[:partitions] ...
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

(($# >= 2)) || { echo "usage: kafka-topics.sh BOOTSTRAP name[:partitions] ...   (6 partitions unless told)" >&2; exit 2; }
bootstrap=$1; shift

create() {
  exec "$repo_root/scripts/kafka.sh" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" \
    --command-config <(printf '%s\n' default.api.timeout.ms=20000 request.timeout.ms=10000) \
    --create --if-not-exists --topic "$1" --partitions "$2" --replication-factor 1
}

pids=()
for topic; do
  partitions=6
  [[ $topic != *:* ]] || partitions=${topic##*:}
  [[ $partitions =~ ^[1-9][0-9]*$ ]] || die "no number of partitions: $topic"
  create "${topic%%:*}" "$partitions" & # side by side: most of the time is the start of a JVM
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
exit "$failed"
