# One line for each thing that is missing or wrong on a box. Exit code 1 when there is one.
found=0
wrong() {
    found=1
    echo "$1"
}
folder=$HOME/ddlm venv=$HOME/ddlm/.venv
asked=$(cat "$folder/current/pyproject.toml" "$folder/current/constraints.txt" 2>/dev/null | cksum | cut -d' ' -f1)

if [ -x "$venv/bin/python" ]; then
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        wrong "python: ~/ddlm/.venv has a broken or an old one; remove ~/ddlm/.venv, then bootstrap"
    [ -e "$venv/installed-$asked" ] ||
        wrong "venv: ~/ddlm/.venv was not made for what the current commit asks for; bootstrap"
else
    command -v python3 >/dev/null || wrong "python: none; install python3 and python3-venv"
    wrong "venv: ~/ddlm/.venv is missing; bootstrap"
fi
[ -e "$folder/current/pyproject.toml" ] || wrong "tree: ~/ddlm/current is missing; push"
free_kib=$(df -Pk "$HOME" | awk 'NR == 2 { print $4 }')
[ "$free_kib" -ge 10485760 ] || wrong "disk: $((free_kib / 1024)) MiB free, and an installation with a run takes 10 GiB"

if [ -e "$folder/.env" ]; then
    [ "$(stat -c %a "$folder/.env")" = 600 ] || wrong ".env: others may read it; chmod 600 ~/ddlm/.env, or sync-env"
    sh -n "$folder/.env" 2>/dev/null || wrong ".env: sh can't read it; mend it, or sync-env"
    grep -Eqs '^(export )?PREFECT_API_URL=.' "$folder/.env" || wrong ".env: sets no PREFECT_API_URL, so no worker"
else
    wrong ".env: missing, so no worker; sync-env FILE"
fi
if [ "$(find "$folder/worker.crashes" -mmin -2 2>/dev/null)" ]; then
    wrong "worker: has crashed $(wc -l <"$folder/worker.crashes") times and is started again; worker-logs says why"
elif [ ! -e "$folder/worker.lock" ] || flock -n "$folder/worker.lock" true; then wrong "worker: not running; worker-start"; fi
nvidia-smi >/dev/null 2>&1 || wrong "cuda: nvidia-smi finds no GPU; CPU only"
exit $found
