#!/bin/sh
# A small Debian for arm64 and the packages of the bundle's requirements for it, in a folder that is made once.
#
#     sh infra/arm64.sh FOLDER
#
# FOLDER/root holds Debian's Python, FOLDER/jp62 and FOLDER/jp72 what a requirements file of each JetPack asks for.
# It unpacks packages and runs none of them, so it needs no root and changes nothing outside; qemu-aarch64-static -L
# runs the Python there. JetPack's own Python is 3.10 or 3.12 and Debian has neither: the packages have JetPack's
# versions, the interpreter has Debian's. Exit code 3, and a line that says why, where it can't be made.
set -eu
folder=${1:?arm64.sh: wanted a folder}
requirements=$(cd "$(dirname "$0")/../ddlm/export/device" && pwd)
python=${PYTHON:-python3}

cant() {
    echo "arm64.sh: $1"
    exit 3
}
stamp=made-$(cat "$0" "$requirements"/requirements-jp*.txt | sha256sum | cut -c 1-16)
[ ! -e "$folder/$stamp" ] || exit 0
for tool in apt-get dpkg-deb qemu-aarch64-static sha256sum; do
    command -v "$tool" >/dev/null || cant "no $tool; on Debian: apt-get install qemu-user-static dpkg apt"
done
"$python" -m pip --version >/dev/null 2>&1 || cant "$python has no pip"

mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.part-XXXXXX")
trap 'rm -rf "$part"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$part/apt/lists/partial" "$part/apt/archives/partial" "$part/root"
: >"$part/apt/status"

# This machine's sources and keys, another architecture, and an account of its own: nothing is installed yet.
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=false \
        -o Dir::State::Lists="$part/apt/lists" -o Dir::State::status="$part/apt/status" -o Dir::Cache="$part/apt" \
        -o Dir::Cache::archives="$part/apt/archives" -o Debug::NoLocking=1 -o APT::Sandbox::User= "$@" 2>&1
}
said=$(apt update) || cant "no package lists for arm64: $(echo "$said" | tail -n 1)"
said=$(apt -y --download-only install python3 libstdc++6) || cant "no packages for arm64: $(echo "$said" | tail -n 1)"
for package in "$part"/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$part/root"
done
# onnxruntime looks for its processors, and would mix what stands in this machine's /sys with the emulated rest: 1.31
# and 1.32 end in a segmentation fault on it. One processor without caches is what all of them take.
processors=$part/root/sys/devices/system/cpu
mkdir -p "$processors/cpu0/cache/index2"
echo 0 | tee "$processors/possible" >"$processors/present"
touch "$processors/cpu0/cache/index2/level" "$processors/cpu0/cache/index2/size" \
    "$processors/cpu0/cache/index2/shared_cpu_list"
version=$(readlink "$part/root/usr/bin/python3")

for release in jp62 jp72; do
    set -- --quiet --no-deps --only-binary=:all: --implementation cp --python-version "${version#python}"
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        set -- "$@" --platform "${tag}_aarch64"
    done
    "$python" -m pip download "$@" -d "$part/wheels-$release" -r "$requirements/requirements-$release.txt" \
        >"$part/log" 2>&1 || cant "no packages of $release for $version: $(tail -n 1 "$part/log")"
    for wheel in "$part/wheels-$release"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$part/$release"
    done
done
rm -rf "$part/apt" "$part"/wheels-* "$part/log"
touch "$part/$stamp"
rm -rf "$folder"
mv "$part" "$folder"
