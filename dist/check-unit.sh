#!/bin/sh
# Checks the systemd units with systemd-analyze: no errors, exposure at most 2.0.
#
# If systemd-analyze is missing, its Debian package is unpacked under target: installing the package would enable
# units.
set -eu
cd "$(dirname "$0")/.."

limit=20
work=target/check-unit
rm -rf "$work/unit"
mkdir -p "$work/unit"

if ! command -v systemd-analyze >/dev/null; then
    root=$(pwd)/$work/root
    if [ ! -e "$root/complete" ]; then
        command -v apt-get >/dev/null || {
            echo "$0: cannot find systemd-analyze: install systemd" >&2
            exit 1
        }
        # All of this works without root, in directories under target.
        rm -rf "$root" "$work/apt"
        mkdir -p "$root" "$work/apt/lists/partial" "$work/apt/archives/partial"
        apt() {
            apt-get -qq -y --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User= \
                -o Dir::State::lists="$(pwd)/$work/apt/lists" -o Dir::Cache="$(pwd)/$work/apt" "$@"
        }
        apt update
        apt --download-only install systemd
        for package in "$work"/apt/archives/*.deb; do
            dpkg-deb --extract "$package" "$root"
        done
        rm -rf "$work/apt"
        touch "$root/complete"
    fi
    libraries=
    for directory in "$root"/lib/*-linux-* "$root"/lib/*-linux-*/systemd "$root"/lib/systemd \
        "$root"/usr/lib/*-linux-* "$root"/usr/lib/*-linux-*/systemd "$root"/usr/lib/systemd; do
        [ ! -d "$directory" ] || libraries="$libraries${libraries:+:}$directory"
    done
    PATH=$root/bin:$root/usr/bin:$PATH
    export LD_LIBRARY_PATH="$libraries" SYSTEMD_UNIT_PATH="$root/lib/systemd/system:$root/usr/lib/systemd/system"
fi

# Replace the programs, so that the units can be checked before they are installed.
sed 's|^\(Exec[A-Za-z]*=\)[^ ]*|\1/bin/true|' dist/pyzord.service >"$work/unit/pyzord.service"
cp dist/pyzord.socket "$work/unit"
mistakes=$(systemd-analyze verify --man=no "$(pwd)/$work/unit/pyzord.service" "$(pwd)/$work/unit/pyzord.socket" 2>&1 |
    grep -F pyzord || true)
if [ -n "$mistakes" ]; then
    printf '%s\n' "$mistakes" >&2
    exit 1
fi
systemd-analyze security --offline=true --threshold="$limit" --no-pager "$(pwd)/dist/pyzord.service" >"$work/exposure" || {
    cat "$work/exposure" >&2
    exit 1
}
tail -n 1 "$work/exposure"
