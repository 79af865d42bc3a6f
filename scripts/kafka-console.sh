#!/usr/bin/env bash
# Reads a topic from the beginning until Ctrl-C, with timestamp, partition, offset, headers and key; owns nothing.
# Further arguments go to Kafka's console consumer, e.g. --max-messages 10 or --timeout-ms 5000.
set -euo pipefail
(($# >= 2)) || { echo "usage: kafka-console.sh BOOTSTRAP TOPIC [consumer options]" >&2; exit 2; }
bootstrap=$1 topic=$2; shift 2
exec "$(dirname "$0")/kafka.sh" tool org.apache.kafka.tools.consumer.ConsoleConsumer \
  --bootstrap-server "$bootstrap" --topic "$topic" --from-beginning --consumer-property isolation.level=read_committed \
  --property print.timestamp=true --property print.partition=true --property print.offset=true \
  --property print.headers=true --property print.key=true --property key.separator=' | ' "$@"
