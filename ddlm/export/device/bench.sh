#!/bin/sh
# How fast this bundle writes here, at what memory and power: one JSON document.
#
#     sh bench.sh [-o FILE] [what generate.py takes …]
#     sh bench.sh -o 25W.json --backend trt --samples 50 --steps 64 "One day"
#
# It writes 20 texts unless --samples says otherwise, and records what stands beside every number that means anything:
# power mode, clocks before and after, JetPack, TensorRT. It changes no clock: run `sudo jetson_clocks` first, or the
# figures are those of a governor that dozes. PYTHON says which Python (else .venv/bin/python here, else python3).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
output=
case ${1:-} in
    -o) output=${2:?bench.sh: -o wants a file} && shift 2 ;;
esac
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$python" ] || python=$(command -v "${PYTHON:-python3}") || {
    echo "bench.sh: no Python; install python3 or set PYTHON" >&2
    exit 2
}
DDLM_FACTS=$(sh "$here/facts.sh")
DDLM_STARTED=$(date -u +%Y-%m-%dT%H:%M:%SZ)
export DDLM_FACTS DDLM_STARTED
fact() {
    printf '%s\n' "$DDLM_FACTS" | sed -n "s/^$1=//p"
}
if [ -n "$(fact gpu_max_hz)" ] && [ "$(fact gpu_hz)" != "$(fact gpu_max_hz)" ]; then
    echo "bench.sh: the GPU runs at $(fact gpu_hz) of $(fact gpu_max_hz) Hz; run sudo jetson_clocks for its best" >&2
fi
if [ -z "$output" ]; then
    exec "$python" "$here/measure.py" "$@"
fi
"$python" "$here/measure.py" "$@" >"$output.part" || {
    code=$?
    rm -f "$output.part"
    exit "$code"
}
mv "$output.part" "$output"
echo "bench.sh: $output" >&2
