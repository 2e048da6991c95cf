#!/bin/sh
# Puts ONNX Runtime for C++ into a folder, without touching the system:   fetch_onnxruntime.sh FOLDER
#
#     FOLDER/include   headers, of Debian's libonnxruntime-dev, which apt downloads and nobody installs
#     FOLDER/lib       links to the library of the Python package onnxruntime (of $PYTHON, or python3)
#
# Then: cmake -DONNXRUNTIME_ROOT=FOLDER. Elsewhere than on Debian, an archive of an ONNX Runtime release does as well.
set -eu

SUITE=trixie # its headers are of 1.21; every later library runs what is compiled with them
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
PYTHON=${PYTHON:-python3}

fail() {
    echo "fetch_onnxruntime: $1" >&2
    exit 1
}

[ $# = 1 ] || fail "usage: fetch_onnxruntime.sh FOLDER"
for tool in apt-get dpkg-deb "$PYTHON"; do
    command -v "$tool" >/dev/null || fail "$tool is missing; set ONNXRUNTIME_ROOT to an ONNX Runtime release instead"
done
[ -r $KEYS ] || fail "$KEYS is missing; install debian-archive-keyring"
library=$("$PYTHON" - <<'END'
import importlib.util, pathlib
found = importlib.util.find_spec("onnxruntime")
if found:
    print(*sorted(pathlib.Path(found.origin).parent.glob("capi/libonnxruntime.so.1*"))[:1], sep="")
END
) || fail "$PYTHON does not run"
[ -n "$library" ] || fail "no library in the Python package onnxruntime; pip install onnxruntime"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked"
echo "deb [signed-by=$KEYS] $MIRROR $SUITE main" >"$work/sources.list"
private() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/cache" \
        -o Acquire::Languages=none -o Acquire::Retries=2 -o APT::Sandbox::User="$(id -un)" "$@"
}
private update >&2 || fail "no package list from $MIRROR"
(cd "$work" && private download libonnxruntime-dev) >&2 || fail "no libonnxruntime-dev from $MIRROR"
dpkg-deb -x "$work"/libonnxruntime-dev_*.deb "$work/unpacked"

rm -rf "$1/include" "$1/lib"
mkdir -p "$1/lib"
cp -r "$work/unpacked/usr/include/onnxruntime" "$1/include"
ln -s "$library" "$1/lib/libonnxruntime.so.1" # the name that programs ask the loader for
ln -s libonnxruntime.so.1 "$1/lib/libonnxruntime.so"
echo "$1"
