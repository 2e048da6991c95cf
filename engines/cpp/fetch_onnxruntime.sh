#!/bin/sh
# Puts ONNX Runtime for C++ into a folder, without touching the system:   fetch_onnxruntime.sh FOLDER
#
#     FOLDER/include   headers, of Debian's libonnxruntime-dev, fetched by apt (on Ubuntu too) and checked by SHA-256
#     FOLDER/lib       links to the library of the Python package onnxruntime (of $PYTHON, or python3)
#
# Then: cmake -DONNXRUNTIME_ROOT=FOLDER. On other systems an archive of an ONNX Runtime release does as well.
set -eu

# The oldest that is supported; every later library runs what is compiled with these headers.
DEB=pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb
SHA256=14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
APT_HELPER=/usr/lib/apt/apt-helper
PYTHON=${PYTHON:-python3}

fail() {
    echo "fetch_onnxruntime: $1" >&2
    exit 1
}

[ $# = 1 ] || fail "usage: fetch_onnxruntime.sh FOLDER"
for tool in $APT_HELPER dpkg-deb "$PYTHON"; do
    command -v "$tool" >/dev/null || fail "$tool is missing; set ONNXRUNTIME_ROOT to an ONNX Runtime release instead"
done
library=$("$PYTHON" - <<'END'
import importlib.util, pathlib
found = importlib.util.find_spec("onnxruntime")
if found:
    print(*sorted(pathlib.Path(found.origin).parent.glob("capi/libonnxruntime.so.1*"))[:1], sep="")
END
) || fail "$PYTHON does not run"
[ -n "$library" ] || fail "$PYTHON has no package onnxruntime; install it, or set PYTHON to a Python that has it"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
$APT_HELPER -qq -o Acquire::Retries=2 -o APT::Sandbox::User="$(id -un)" \
    download-file "$MIRROR/$DEB" "$work/dev.deb" "SHA256:$SHA256" >&2 ||
    fail "no $DEB with SHA-256 $SHA256 from $MIRROR; set DEBIAN_MIRROR to a mirror that keeps it"
dpkg-deb -x "$work/dev.deb" "$work"

rm -rf "$1/include" "$1/lib"
mkdir -p "$1/lib"
cp -r "$work/usr/include/onnxruntime" "$1/include"
ln -s "$library" "$1/lib/libonnxruntime.so.1" # the name that programs ask the loader for
ln -s libonnxruntime.so.1 "$1/lib/libonnxruntime.so"
echo "$1"
