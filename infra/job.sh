#!/bin/sh
# A job on a box, in its own session: `setsid -f sh ~/ddlm/job.sh NAME again COMMAND…`. It outlives the connection.
# Any other word than `again`: it is not started again when it ends badly.
# NAME.lock is held while it lives, NAME.pid leads its process group, NAME.log is what it says, NAME.rc how it ended,
# NAME.crashes has a line for each time it ended badly and is started again.
set -u
name=$1 mode=$2
shift 2
umask 077
cd "$HOME/ddlm" || exit
exec 9>"$name.lock"
flock -n 9 || exit 75
exec </dev/null >>"$name.log" 2>&1
echo $$ >"$name.pid"
rm -f "$name.rc"

# The tree as it is now: a push while the job lives changes nothing under it. Prefect's pull step asks for PWD.
cd -P current || exit
set -a
# Not the system's folder for these: another user's worker may have made there what this one would write to.
TMPDIR=$HOME/ddlm/tmp
if [ -e ../../.env ]; then . ../../.env; fi
: "${DDLM_HOME:=$HOME/ddlm/outputs}" "${PREFECT_HOME:=$DDLM_HOME/prefect}"
: "${DO_NOT_TRACK:=true}" "${MLFLOW_DISABLE_TELEMETRY:=true}" "${HF_HUB_DISABLE_TELEMETRY:=1}"
PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_LOGGING_EXTRA_LOGGERS=ddlm PYTHONUNBUFFERED=1
PATH=$HOME/ddlm/.venv/bin:$PATH PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} DDLM_JOB=$name-$$ PWD=$PWD
set +a
mkdir -p -m 700 "$TMPDIR" || exit

trap 'mode=once' INT TERM
while :; do
    "$@" 9>&-
    status=$?
    if [ "$mode" != once ] && [ "$status" != 0 ]; then echo "$status" >>"$HOME/ddlm/$name.crashes"; fi
    if [ "$mode" != again ] || [ "$status" = 0 ]; then break; fi
    echo "ended with exit code $status; starting again in 10 s"
    sleep 10 9>&-
    if [ "$mode" != again ]; then break; fi
done
echo "$status" >"$HOME/ddlm/$name.rc"
exit "$status"
