#!/usr/bin/env bash
# Trains on several hosts, or as several processes on this one.
#
#   launch/multi_worker.sh --hosts=A,B [--dry_run] [-- flags of trainer.main]
#   launch/multi_worker.sh --local=N   [--dry_run] [-- flags of trainer.main]
#
# --hosts   the hosts as ssh takes them, the first of which writes the files; the
#           checkout, its .venv, the data and the workdir at the same path on all
# --local   instead: N processes on this host, on free ports
# --port    where the workers listen, on every host; 2222
# --grace   seconds from SIGTERM to SIGKILL for those that do not stop; 40
# --folder  the checkout on the hosts; the path that it has here
# --index   be worker number I of --hosts, here; for Slurm and Kubernetes
# --until_eof  with --index: yes = stop when the standard input ends
#
# The same as variables: CLOZE_HOSTS, CLOZE_PORT and so on. CLOZE_PYTHON: the
# interpreter. The first worker that fails stops the others; its exit code is
# the exit code. SIGTERM and Ctrl-C save on all first. The same command resumes.

. "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
read_flags "--hosts --local --port --grace --folder --index --until_eof" "$@"
PORT=${CLOZE_PORT:-2222}
GRACE=${CLOZE_GRACE:-40}
number --port "$PORT" 1 65535
number --grace "$GRACE" 0 86400

is_free() {
  ! (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Sets HOSTS: where to start workers; ADDRESSES: where they find each other.
read_hosts() {
  local host
  IFS=', ' read -ra HOSTS <<<"${CLOZE_HOSTS:-}"
  if [[ $DRY_RUN && ${#HOSTS[@]} == 0 ]]; then HOSTS=('<host1>' '<host2>'); fi
  ((${#HOSTS[@]})) || refuse "--hosts is empty; name hosts, such as" \
    "--hosts=host1,host2, or use --local=2 for two processes here."
  ADDRESSES=()
  for host in "${HOSTS[@]}"; do
    host=${host##*@}
    [[ $host == *:* ]] || host+=:$PORT
    [[ " ${ADDRESSES[*]-} " != *" $host "* ]] ||
      refuse "--hosts names $host twice; name every host once."
    ADDRESSES+=("$host")
  done
}

# Not where other programs take their ports from: 32768 and up.
find_addresses() {
  local port=$((20000 + RANDOM % 12000))
  number --local "$CLOZE_LOCAL" 1 64
  ADDRESSES=()
  while ((${#ADDRESSES[@]} < CLOZE_LOCAL)); do
    if is_free "$port"; then ADDRESSES+=("127.0.0.1:$port"); fi
    port=$((port + 1))
  done
  HOSTS=("${ADDRESSES[@]}")
}

# Becomes worker number CLOZE_INDEX.
work() {
  local last=$((${#ADDRESSES[@]} - 1)) list port
  number --index "$CLOZE_INDEX" 0 "$last"
  port=${ADDRESSES[CLOZE_INDEX]##*:}
  [[ $DRY_RUN ]] || is_free "$port" || refuse "port $port is in use here; stop" \
    "what listens there, or choose another with --port."
  printf -v list '"%s", ' "${ADDRESSES[@]}"
  find_python
  set -- env "TF_CONFIG={\"cluster\": {\"worker\": [${list%, }]}, \"task\":\
 {\"type\": \"worker\", \"index\": $CLOZE_INDEX}}" \
    "$PYTHON" -m trainer.main --strategy=multi_worker "${ARGS[@]}"
  if [[ ! ${CLOZE_UNTIL_EOF:-} || $DRY_RUN ]]; then
    run exec "$@"
  else
    until_eof "$@"
  fi
}

# ssh passes no signals on. But the standard input of what it started ends when
# the launcher lets go, is killed, or is cut off.
until_eof() {
  local child status waited=0 stopping=
  trap 'stopping=yes' INT TERM HUP
  "$@" </dev/null &
  child=$!
  while [[ ! $stopping ]] && kill -0 "$child" 2>/dev/null; do
    # Above 128 = nothing came in this time.
    if read -r -t 0.5; then :; elif (($? <= 128)); then stopping=yes; fi
  done
  kill -TERM "$child" 2>/dev/null || true
  while kill -0 "$child" 2>/dev/null; do
    if ((waited++ >= GRACE * 2)); then kill -KILL "$child" 2>/dev/null || true; fi
    sleep 0.5
  done
  wait "$child" && exit || status=$?
  exit "$status"
}

# The command that starts worker $1.
command_of() {
  COMMAND=(launch/multi_worker.sh "--hosts=$(IFS=, && echo "${ADDRESSES[*]}")"
    "--index=$1" "--grace=$GRACE" --until_eof=yes -- "${ARGS[@]}")
  if [[ ! ${CLOZE_LOCAL:-} ]]; then
    COMMAND=(ssh -o BatchMode=yes -o ServerAliveInterval=15 "${HOSTS[$1]%:*}"
      "cd $(quoted "${CLOZE_FOLDER:-$ROOT}") && exec $(quoted "${COMMAND[@]}")")
  fi
}

# Worker $1, every line of its output with its number before it.
follow() {
  local status=0
  command_of "$1"
  exec 9>&- # The launcher alone holds it.
  # Not to be killed before it has noted how its worker ended.
  trap : INT TERM HUP
  {
    trap : INT TERM HUP # A new shell, and so a new trap.
    "${COMMAND[@]}" <&8 || status=$?
    if ((status)) && (set -C && echo "$status" >"$STATE/failed") 2>/dev/null; then
      echo "ended with exit code $status; stopping the others"
      kill -TERM "$$"
    fi
  } 2>&1 | (trap '' INT TERM && exec sed -u "s/^/[$1] /")
}

launch() {
  local index
  if [[ $DRY_RUN ]]; then
    for index in "${!HOSTS[@]}"; do
      command_of "$index"
      run "${COMMAND[@]}"
    done
    return
  fi
  STATE=$(mktemp -d)
  trap 'rm -rf "$STATE"' EXIT
  mkfifo "$STATE/open"
  # shellcheck disable=SC2094
  exec 9<>"$STATE/open" 8<"$STATE/open" # 8 ends for every worker with 9.
  trap 'exec 9>&-' INT TERM HUP
  for index in "${!HOSTS[@]}"; do
    follow "$index" &
  done
  until wait; do :; done # A signal ends one wait, not the workers.
  if [[ -s $STATE/failed ]]; then exit "$(<"$STATE/failed")"; fi
}

if [[ ${CLOZE_INDEX:-} ]]; then
  read_hosts && work
elif [[ ${CLOZE_LOCAL:-} ]]; then
  find_addresses && launch
else
  read_hosts && launch
fi
