#!/usr/bin/env bash
# A real Kafka (KRaft) on 127.0.0.1 without Docker, for demo, tests and development: one node, or several as a cluster.
# Owns DIR (data, server.properties, port, pid, kafka.log) and the jars in <target>/parts/kafka-<version>.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<'EOF'
usage: kafka.sh fetch                  fetch the jars once; prints their folder
       kafka.sh start DIR [options]    start; on an existing DIR with the same data, ports and options as before
       kafka.sh cluster DIR...         start these nodes as one cluster: three replicas, two in sync for acks=all. Each may have
                                       been set up before with `prepare`; afterwards each is a DIR for all other commands
       kafka.sh prepare DIR [options]  remember the options of start, and start nothing
       kafka.sh stop|kill DIR          SIGTERM and wait | SIGKILL
       kafka.sh pause|resume DIR       SIGSTOP | SIGCONT
       kafka.sh status DIR             running (0), paused (0) or stopped (3)
       kafka.sh tool CLASS [args]      one of Kafka's own command line tools

KAFKA_JVM: options of the server's JVM, instead of those that make it start with little CPU

options of start (given ones are remembered for the next start):
  --port N              port of the client listener (default: a free one)
  --advertised-port N   tell clients to come back on this port: for a proxy between them and the broker
  --config KEY=VALUE    any broker setting, repeatable; a new list replaces the remembered one

writes: DIR/port (client listener), DIR/direct-port (second listener, never advertised through the proxy),
        DIR/pid, DIR/kafka.log
EOF
}

version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$repo_root/scripts/kafka-pom.xml")
libs=$parts_dir/kafka-$version

fetch() { fetch_jars "$libs" "Kafka $version" "kafka_2.13-$version.jar"; }

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
jvm=("$java" -cp "$libs/*" -Dlog4j2.configurationFile="$repo_root/scripts/kafka-log4j2.properties")
# Half the CPU of a start (5.2 to 2.8 s), which is most of what a broker of a test does. KAFKA_JVM replaces them.
read -ra server_jvm <<<"${KAFKA_JVM:--XX:+UseSerialGC -XX:TieredStopAtLevel=1}"

cluster_id() { echo "A$(head -c 60 /dev/urandom | base64 -w0 | tr -dc 'A-Za-z0-9' | cut -c1-20)A"; }

# The pid of the broker of this DIR, if it runs: a recycled pid or a zombie does not count.
broker_pid() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) && [[ -n $pid ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$dir/server.properties" || return 1
  echo "$pid"
}

signal() {
  local pid
  pid=$(broker_pid) || die "no broker running in $dir"
  kill "-$1" "$pid"
}

gone() { ! broker_pid >/dev/null; }
ports_free() {
  local file
  for file in "$dir"/{port,direct-port,controller-port}; do
    ! port_in_use "$(<"$file")" || return 1
  done
}
# A killed JVM disappears before the kernel has closed its sockets.
wait_gone() { wait_for "$1" gone && wait_for 10 ports_free; }
started() { tail -c "+$log_start" "$dir/kafka.log" | grep -q 'Kafka Server started' && port_in_use "$(<"$dir/port")"; }
started_or_gone() { started || gone; }

remembered() { cat "$dir/$1" 2>/dev/null || true; }

configure() {
  local port=$1 advertised=$2 direct=$3 controller=$4 node voters replicas=1 in_sync=1
  node=$(remembered node)
  voters=$(remembered voters)
  [[ -z $voters ]] || replicas=3 in_sync=2
  cat >"$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=${node:-1}
log.dirs=$dir/data
listeners=CLIENT://127.0.0.1:$port,DIRECT://127.0.0.1:$direct,CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLIENT://127.0.0.1:$advertised,DIRECT://127.0.0.1:$direct
listener.security.protocol.map=CLIENT:PLAINTEXT,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=DIRECT
controller.listener.names=CONTROLLER
controller.quorum.voters=${voters:-1@127.0.0.1:$controller}
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=4
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=3600000
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
background.threads=2
$(remembered config)
EOF
}

# Reads the options of start, and remembers them and the ports.
remember() {
  local configs=()
  while (($#)); do
    (($# > 1)) || die "$1 needs a value"
    case $1 in
      --port) echo "$2" >"$dir/port" ;;
      --advertised-port) echo "$2" >"$dir/advertised-port" ;;
      --config) configs+=("$2") ;;
      *) die "unknown option $1" ;;
    esac
    shift 2
  done
  ((${#configs[@]} == 0)) || printf '%s\n' "${configs[@]}" >"$dir/config"
  local file
  for file in port direct-port controller-port; do
    [[ -s $dir/$file ]] || free_port >"$dir/$file"
  done
}

start() {
  exec 8>"$dir/.lock"; flock 8
  if ! gone; then say "already running on port $(<"$dir/port")"; return; fi
  need "$java"
  fetch
  remember "$@"
  local port advertised heap=384m
  port=$(<"$dir/port")
  advertised=$(remembered advertised-port)
  # The nodes of a cluster share a small machine.
  [[ -z $(remembered voters) ]] || heap=256m
  wait_for 3 ports_free || die "port $port, $(<"$dir/direct-port") or $(<"$dir/controller-port") is taken by another process"
  configure "$port" "${advertised:-$port}" "$(<"$dir/direct-port")" "$(<"$dir/controller-port")"

  touch "$dir/kafka.log"
  log_start=$(($(stat -c %s "$dir/kafka.log") + 1))
  if [[ ! -f $dir/data/meta.properties ]]; then
    [[ -s $dir/cluster-id ]] || cluster_id >"$dir/cluster-id"
    "${jvm[@]}" -Xmx128m -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t "$(<"$dir/cluster-id")" -c "$dir/server.properties" \
      >>"$dir/kafka.log" 2>&1 </dev/null 8>&- || { tail -n 20 "$dir/kafka.log" >&2; die "formatting the storage failed"; }
  fi
  # setsid: a Ctrl-C meant for the caller must not take the broker along
  setsid "${jvm[@]}" "${server_jvm[@]}" -Xms128m "-Xmx$heap" -XX:+ExitOnOutOfMemoryError kafka.Kafka "$dir/server.properties" \
    >>"$dir/kafka.log" 2>&1 </dev/null 8>&- &
  echo $! >"$dir/pid"
  wait_for 90 started_or_gone || true
  started || {
    tail -n 40 "$dir/kafka.log" >&2
    gone || kill -KILL "$(broker_pid)"
    die "the broker did not start; see $dir/kafka.log"
  }
  say "Kafka $version on 127.0.0.1:$port, pid $(<"$dir/pid")"
}

# Nodes that know each other from now on. They start side by side: none is up before most of them are.
cluster() {
  local id voters='' nodes=("$@") n starting=()
  id=$(cluster_id)
  for n in "${!nodes[@]}"; do
    dir=${nodes[n]}
    remember
    voters+=${voters:+,}$((n + 1))@127.0.0.1:$(<"$dir/controller-port")
  done
  for n in "${!nodes[@]}"; do
    dir=${nodes[n]}
    [[ -s $dir/cluster-id ]] || { echo "$id" >"$dir/cluster-id"; echo $((n + 1)) >"$dir/node"; echo "$voters" >"$dir/voters"; }
    (start) & starting+=($!)
  done
  for n in "${starting[@]}"; do wait "$n" || die "a node did not start"; done
}

stop() {
  local pid
  pid=$(broker_pid) || { say "not running"; return; }
  kill -CONT "$pid" # a paused process would sleep through the SIGTERM
  kill -TERM "$pid"
  wait_gone 30 || { say "does not stop within 30 s, killing it"; kill -KILL "$pid"; wait_gone 10; }
  rm -f "$dir/pid"
}

tool() {
  [[ -n ${1:-} ]] || { usage >&2; exit 2; }
  need "$java"
  fetch
  exec "${jvm[@]}" -Xmx256m -XX:TieredStopAtLevel=1 -Dkafka.log.target=SYSTEM_ERR "$@"
}

status() {
  local pid
  pid=$(broker_pid) || { echo stopped; exit 3; }
  if grep -q '^State:[[:space:]]*T' "/proc/$pid/status"; then echo paused; else echo running; fi
}

command=${1:-}
case $command in
  fetch) fetch; echo "$libs"; exit ;;
  tool) shift; tool "$@" ;;
  start | prepare | cluster | stop | kill | pause | resume | status) [[ -n ${2:-} ]] || { usage >&2; exit 2; } ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
shift
if [[ $command == cluster ]]; then
  nodes=()
  for dir in "$@"; do nodes+=("$(absolute "$dir")"); done
  cluster "${nodes[@]}"
  exit
fi
dir=$(absolute "$1")
shift
case $command in
  start) start "$@" ;;
  prepare) remember "$@" ;;
  stop) stop ;;
  kill) signal KILL; wait_gone 10; rm -f "$dir/pid" ;;
  pause) signal STOP ;;
  resume) signal CONT ;;
  status) status ;;
esac
