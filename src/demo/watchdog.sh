# Runs a server for as long as its owner lives. The owner holds the other end of this script's standard input: when the
# owner closes it, or ends in any way (SIGKILL too), `read` returns and the server is stopped.
#
# $1: folder to remove after that, or empty to keep it. $2: signal that stops the server. The rest: the command.
# When the server ends by itself the folder stays, so that the owner can read its log; the exit status is the server's.
folder=$1 signal=$2
shift 2
exec 3<&0 </dev/null

# A server that has only just started does not listen to signals yet, and a stuck one never does.
insist() {
  for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    sleep 1
    kill "-$signal" "$server"
  done
  kill -KILL "$server"
}

stop() {
  owner_gone=1
  kill "-$signal" "$server"
  insist &
  insisting=$!
}

owner_gone=
trap stop USR1
"$@" 3<&- &
server=$!
{ read -r _ <&3; kill -USR1 $$; } &
watch=$!
exec 3<&-
wait "$server"
status=$?
if [ -n "$owner_gone" ]; then
  wait "$server" # The first wait was cut short by the signal.
  kill "$insisting"
  if [ -n "$folder" ]; then rm -rf "$folder"; fi
else
  kill "$watch"
fi
exit "$status"
