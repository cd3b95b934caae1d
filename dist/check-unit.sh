#!/bin/sh
# Checks the systemd unit: no mistakes, and no more exposure than 2.0.
#
# Where there is no systemd-analyze, it is unpacked under target with the libraries that it needs:
# installing Debian's package would enable units of its own.
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
            echo "$0: systemd-analyze is needed" >&2
            exit 1
        }
        # An ordinary user may do all this in directories of their own.
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

# The programs need not be installed, nor the user exist, for the rest of the unit to be checked.
sed 's|^\(Exec[A-Za-z]*=\)[^ ]*|\1/bin/true|' dist/pyzord.service >"$work/unit/pyzord.service"
mistakes=$(systemd-analyze verify --man=no "$(pwd)/$work/unit/pyzord.service" 2>&1 | grep -F pyzord || true)
if [ -n "$mistakes" ]; then
    printf '%s\n' "$mistakes" >&2
    exit 1
fi
systemd-analyze security --offline=true --threshold="$limit" --no-pager "$(pwd)/dist/pyzord.service" >"$work/exposure" || {
    cat "$work/exposure" >&2
    exit 1
}
tail -n 1 "$work/exposure"
