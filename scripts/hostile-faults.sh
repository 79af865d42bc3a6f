#!/usr/bin/env bash
# hostile-faults.sh [FAULT...]: switches the mistakes of src/failpoint/fault.rs back on, one at a time, runs the hostile rounds against each
# until the judge finds something, and prints a table. Ends with 0 if at least nine of ten are found and the run without a fault is kept.
# SECONDS_PER_FAULT (120): how long rounds go on. SEED (1): the first one; each fault has seeds of its own.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo_root"

seconds=${SECONDS_PER_FAULT:-120} seed=${SEED:-1}
if [[ -z ${OUTBOX_TEST_KAFKA:-} ]]; then
  cargo test --locked --features failpoints --test it --no-run
  exec scripts/with-parts.sh "$0" "$@"
fi

mapfile -t faults < <(grep -o '"fault\.[a-z-]*"' src/failpoint/fault.rs | tr -d '"')
(($# == 0)) || faults=("$@")
logs=$target_dir/hostile-faults
mkdir -p "$logs"

# Prints: rule that found it, or nothing.
run() { # FAULT SEED
  local log=$logs/${1#fault.}.log code=0
  FAILPOINTS=${1:+$1=return} HOSTILE_SEED=$2 HOSTILE_SECONDS=$seconds HOSTILE_PATIENCE=${PATIENCE:-30} \
    cargo test --locked --features failpoints --test it -- hostile::rounds_with_a_fault --exact --ignored --nocapture >"$log" 2>&1 || code=$?
  ((code == 0)) || grep -om1 'seed [0-9]*, rule "[^"]*"' "$log" || echo 'no rule: see the log'
}

say "without a fault"
control=$(run "" "$seed")
found=0 table=()
[[ -z $control ]] || say "NOT KEPT without a fault: $control"
for fault in "${faults[@]}"; do
  seed=$((seed + 1000))
  begin=$(date +%s)
  by=$(run "$fault" "$seed")
  took=$(($(date +%s) - begin))
  if [[ -z $by ]]; then
    row="| ${fault#fault.} | NOT FOUND | in $took s |"
  else
    [[ $by == no* ]] || found=$((found + 1))
    row="| ${fault#fault.} | ${by#*rule } | $took s |"
  fi
  say "$row"
  table+=("$row")
done
printf '\n| fault | found by the rule | after |\n|---|---|---|\n'
printf '%s\n' "${table[@]}"
printf '\n%s of %s found\n' "$found" "${#faults[@]}"
[[ -z $control ]] && ((found * 10 >= ${#faults[@]} * 9))
