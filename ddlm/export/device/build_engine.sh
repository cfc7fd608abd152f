#!/bin/sh
# An engine for the GPU of this machine from one of the bundle's graphs, built once: prints the path of the engine.
#
#     sh build_engine.sh [--dry-run | --path] [GRAPH]
#
# --dry-run prints the command that would build it, and runs nothing. --path prints where the engine is or would be.
# GRAPH is step_float16.onnx beside this script when it is not given.
#
# An engine fits one graph, one TensorRT, one GPU, one JetPack and the flags it was built with; the hash of all these
# names it. DDLM_ENGINES says where engines lie (else ~/.cache/ddlm/engines), WORKSPACE_MIB how much memory the builder
# may take for one layer (1024: JetPack leaves about 5 of the 8 GB; take 512 where a build runs out of memory).
set -eu
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "build_engine.sh: $1" >&2
    exit "${2:-2}"
}

mode=build
case ${1:-} in
    --dry-run | --path) mode=${1#--} && shift ;;
    -*) fail "unknown option $1; wanted --dry-run, --path or a graph" ;;
esac
[ $# -le 1 ] || fail "got $# graphs, wanted one at a time"
graph=${1:-$here/step_float16.onnx}
[ -f "$graph" ] || fail "$graph: no such graph; give one of this folder's .onnx files"
[ -n "${DDLM_ENGINES:-}${XDG_CACHE_HOME:-}${HOME:-}" ] ||
    fail "neither DDLM_ENGINES nor HOME is set; set DDLM_ENGINES to a folder for the engines"
folder=${DDLM_ENGINES:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/ddlm/engines}
workspace=${WORKSPACE_MIB:-1024}
case $workspace in
    '' | *[!0-9]*) fail "WORKSPACE_MIB=$workspace: wanted a number of MiB" ;;
esac

facts=$(sh "$here/facts.sh")
fact() {
    printf '%s\n' "$facts" | sed -n "s/^$1=//p"
}
trtexec=$(fact trtexec)
tensorrt=$(fact tensorrt)
[ -n "$trtexec" ] || fail "no trtexec; on a Jetson run sudo apt install nvidia-jetpack"
# Strongly typed: each layer computes in the precision that the graph says, in 10.3 (JetPack 6.2) as in 10.16 (7.2).
# TensorRT 11 knows nothing else and has no such flag. TF32 would round what the graph says is float32.
case $tensorrt in
    10.*) typed=--stronglyTyped ;;
    11.*) typed= ;;
    *) fail "TensorRT ${tensorrt:-of unknown version}; wanted 10.3 or later" ;;
esac
flags="$typed --memPoolSize=workspace:$workspace --builderOptimizationLevel=3 --noTF32 --skipInference"

digest() {
    sha256sum "$1" | cut -c 1-64
}
name=$(basename "$graph" .onnx)
key=$(printf '%s\n' "$(digest "$graph")" "$tensorrt" "$(fact tensorrt_package)" "$(fact gpu)" "$(fact jetpack)" \
    "$(fact l4t)" "$flags" | sha256sum | cut -c 1-20)
engine=$folder/$name-$key.plan
timing=$folder/timing-$(printf '%s\n' "$tensorrt" "$(fact gpu)" | sha256sum | cut -c 1-12).cache

# Whether the engine is there, whole.
is_built() {
    [ -f "$engine" ] && [ "$(cat "$engine.sha256" 2>/dev/null)" = "$(digest "$engine")" ]
}

# "$@" are more of trtexec's options.
command_line() {
    # shellcheck disable=SC2086  # the flags are words
    set -- "$trtexec" --onnx="$graph" $flags "$@"
    if [ "$mode" = dry-run ]; then
        printf "'%s' " "$@" && echo
    else
        "$@"
    fi
}

case $mode in
    path) echo "$engine" && exit ;;
    dry-run) command_line --saveEngine="$engine" --timingCacheFile="$timing" && exit ;;
esac
if is_built; then
    echo "$engine"
    exit
fi
mkdir -p "$folder" 2>/dev/null || fail "$folder can't be made; set DDLM_ENGINES to a folder that you may write" 1
# One build at a time: two would not fit into 8 GB. Who waited finds the engine there.
exec 9>"$folder/lock" || fail "$folder can't be written; set DDLM_ENGINES to a folder that you may write" 1
flock 9
if is_built; then
    echo "$engine"
    exit
fi
scratch=$(mktemp -d "$folder/.building-XXXXXX") || fail "$folder can't be written; is the disk full?" 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
[ ! -f "$timing" ] || cp "$timing" "$scratch/timing"
echo "build_engine.sh: building $name for $(fact gpu) with TensorRT $tensorrt; this takes minutes, once" >&2
started=$(date +%s)
if ! command_line --saveEngine="$scratch/plan" --timingCacheFile="$scratch/timing" >"$scratch/log" 2>&1 9>&-; then
    cp "$scratch/log" "$folder/$name.log" 2>/dev/null || true
    why=$(grep -F '[E]' "$scratch/log" | tail -n 1)
    fail "trtexec failed: ${why:-$(tail -n 1 "$scratch/log")} (all of it is in $folder/$name.log)" 1
fi
[ -s "$scratch/plan" ] || fail "trtexec wrote no engine; its words are lost with it, run it by hand: --dry-run" 1
digest "$scratch/plan" >"$scratch/sum"
[ ! -f "$scratch/timing" ] || mv "$scratch/timing" "$timing"
sync "$scratch/plan" 2>/dev/null || true
mv "$scratch/sum" "$engine.sha256"
mv "$scratch/plan" "$engine"
echo "build_engine.sh: built in $(($(date +%s) - started)) s" >&2
echo "$engine"
