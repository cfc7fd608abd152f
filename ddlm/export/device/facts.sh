#!/bin/sh
# What this machine is, a line NAME=value each, empty where it can't be told. Needs no root; with it, it sees more.
# SYSROOT stands before every path that is read.
root=${SYSROOT:-}

line() {
    printf '%s=%s\n' "$1" "$(printf %s "$2" | tr '\000\n\r\t' '    ' | sed 's/  */ /g; s/ *$//')"
}
content() {
    cat "$root$1" 2>/dev/null
}
package() {
    dpkg-query -W -f '${Version}' "$1" 2>/dev/null
}
first_of() {
    for candidate in "$@"; do
        [ -z "$candidate" ] || { printf %s "$candidate"; return; }
    done
}
trtexec_path() {
    command -v trtexec || { [ -x "$root/usr/src/tensorrt/bin/trtexec" ] && echo "$root/usr/src/tensorrt/bin/trtexec"; }
}
# trtexec says "[TensorRT v100300]" on its first line: major, minor and patch, two digits each but the first.
tensorrt_version() {
    [ -n "$trtexec" ] || return
    "$trtexec" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9]*\)\([0-9][0-9]\)\([0-9][0-9]\)\].*/\1.\2.\3/p' | head -n 1 |
        sed 's/\.0\([0-9]\)/.\1/g'
}
l4t() {
    content /etc/nv_tegra_release | sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p'
}
jetpack_of() {
    case $1 in
        '') ;;
        36.4.0) echo 6.1 ;;
        36.4.* | 36.5*) echo 6.2 ;;
        39.2*) echo 7.2 ;;
        *) echo "L4T $1" ;;
    esac
}
hertz_of_gpu() {
    for folder in "$root"/sys/class/devfreq/*gpu* "$root"/sys/class/devfreq/*.ga10b; do
        [ -r "$folder/$1" ] && { cat "$folder/$1"; return; }
    done
}
hottest() {
    cat "$root"/sys/class/thermal/thermal_zone*/temp 2>/dev/null | sort -n | tail -n 1
}
memory() {
    content /proc/meminfo | sed -n "s/^$1: *\([0-9]*\) kB/\1/p"
}

trtexec=$(trtexec_path)
release=$(l4t)
line machine "$(first_of "$(content /proc/device-tree/model)" "$(content /sys/class/dmi/id/product_name)" "$(uname -m)")"
line l4t "$release"
line jetpack "$(first_of "$(package nvidia-jetpack)" "$(jetpack_of "$release")")"
line tensorrt "$(first_of "$(tensorrt_version)" "$(package libnvinfer10)")"
line tensorrt_package "$(package libnvinfer10)"
line trtexec "$trtexec"
line gpu "$(first_of "$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)" "$(content /proc/device-tree/model)")"
line power_mode "$(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: *//p')"
line gpu_hz "$(hertz_of_gpu cur_freq)"
line gpu_max_hz "$(hertz_of_gpu max_freq)"
line cpu_khz "$(content /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq)"
line cpu_max_khz "$(content /sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq)"
line cpu_governor "$(content /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)"
line memory_clock_hz "$(content /sys/kernel/debug/clk/emc/clk_rate)"
line memory_total_kib "$(memory MemTotal)"
line memory_available_kib "$(memory MemAvailable)"
line swap_total_kib "$(memory SwapTotal)"
line hottest_millicelsius "$(hottest)"
line disk_free_kib "$(df -Pk "${HOME:-/}" 2>/dev/null | awk 'NR == 2 { print $4 }')"
