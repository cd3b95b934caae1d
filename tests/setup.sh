#!/bin/sh
# Installs what the tests need on Debian: gdbm's own tool, Debian's Python with its gdbm module, and,
# in target/interop, the established Python client and server that ours is compared with.
# Leaves no service running or enabled. Quick when there is nothing to do.
set -eu
cd "$(dirname "$0")/.."

pyzor=1.1.2
interop=target/interop
python=/usr/bin/python3

missing=
for package in gdbmtool python3 python3-gdbm python3-venv tzdata util-linux; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = 'install ok installed' ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq
    # The packages are names without blanks, to be split here.
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
fi

# The stamp is written last, so that an interrupted run is begun anew. The virtual environment holds
# its own absolute path, so a moved folder needs another one.
stamp=$interop/ready
want="pyzor $pyzor in $(pwd)/$interop with $($python --version)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    rm -rf "$interop"
    mkdir -p target
    # dbm.gnu belongs to Debian's Python and comes in with its site packages.
    "$python" -m venv --system-site-packages "$interop"
    "$interop/bin/pip" install --quiet --disable-pip-version-check "pyzor==$pyzor"
    "$interop/bin/python" -c 'import dbm.gnu, pyzor.client, pyzor.server'
    "$interop/bin/pyzor" --version >/dev/null 2>&1
    printf '%s\n' "$want" >"$stamp"
fi
