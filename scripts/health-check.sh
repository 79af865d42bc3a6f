#!/usr/bin/env bash
# Checks PostgreSQL, the schema, Kafka and the topics; exit code 0 when all is well. More: outbox-relay check --help
exec "$(dirname "$0")/relay.sh" check "$@"
