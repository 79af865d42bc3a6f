#!/usr/bin/env bash
# Prints what waits in the outbox and how far the consumer is behind; exits 6 when either is more than LAG_THRESHOLD
# (default 1000) in total.
exec "$(dirname "$0")/relay.sh" lag -o table --fail-over "${LAG_THRESHOLD:-1000}" "$@"
