#!/usr/bin/env bash
# Prints how far the consumer is behind; fails when a partition is more than LAG_THRESHOLD (default 1000) records behind.
exec "$(dirname "$0")/relay.sh" lag -o table --threshold "${LAG_THRESHOLD:-1000}" "$@"
