#!/usr/bin/env bash
# relay.sh ARG...: the outbox-relay binary, with the settings of the parts that `make up` started, if they are up.
# Owns nothing.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

if [[ -f $target_dir/dev/env ]]; then
  # shellcheck source=/dev/null
  . "$target_dir/dev/env"
fi
for binary in "$target_dir/release/outbox-relay" "$target_dir/debug/outbox-relay" "$(command -v outbox-relay)"; do
  if [[ -x $binary ]]; then exec "$binary" "$@"; fi
done
die "no outbox-relay binary; run: make build"
