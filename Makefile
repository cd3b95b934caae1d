# make run, make test: see README.md. make help lists the rest.

CARGO ?= cargo
# The oldest Rust that builds this, as Cargo.toml says.
rust_version := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
target := $(or $(CARGO_TARGET_DIR),target)

prefix ?= /usr/local
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
# Where pyzord goes: beside the client, as with the Python server, unless somebody wants it in an sbin.
sbindir ?= $(bindir)
datarootdir ?= $(prefix)/share
docdir ?= $(datarootdir)/doc/pyzord
mandir ?= $(datarootdir)/man
unitdir ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
INSTALL ?= install

# How long "make fuzz" runs each target, and which.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

scripts := .ci/run $(wildcard tests/*.sh dist/*.sh fuzz/*.sh)

# One after the other, whatever -j says: several of them install packages.
.NOTPARALLEL:
.DEFAULT_GOAL := build
.PHONY: build run dev check test oldest outages pauses hostile bench bench-long migrations lint audit rust build-packages lint-packages test-packages install uninstall clean fuzz soak faults kills storms sanitize help

# Installs the Debian packages named in $$missing, if any.
define install_missing
[ -z "$$missing" ] && exit 0; \
command -v apt-get >/dev/null || { echo "make: please install what Debian calls$$missing" >&2; exit 1; }; \
as_root=; \
if [ "$$(id -u)" -ne 0 ]; then \
    command -v sudo >/dev/null || { echo "make: as root, please run: apt-get install$$missing" >&2; exit 1; }; \
    as_root=sudo; \
fi; \
echo "installing$$missing"; \
$$as_root apt-get update -qq && \
$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-remove --no-install-recommends $$missing
endef

build: rust build-packages
	$(CARGO) build --locked --release

# The directory var is this server's homedir. The shell gives way to the server, so that signals reach it.
run: build
	exec $(target)/release/pyzord --homedir var --address 127.0.0.1 --port 24441

# The same with a debug build, which is made in less time.
dev: rust build-packages
	$(CARGO) build --locked
	exec $(target)/debug/pyzord --homedir var --address 127.0.0.1 --port 24441

# What can be checked after each edit. "make test" checks the rest.
check: rust build-packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib

# Whether the oldest supported Rust builds all of it, tests too; it has a directory of its own, so that nothing
# is built anew afterwards.
oldest: rust build-packages
	@if [ "$$($(CARGO) --version | cut -d' ' -f2 | cut -d. -f1-2)" = $(rust_version) ]; then \
	    echo 'This is Rust $(rust_version), the oldest supported version'; \
	elif rustup toolchain list 2>/dev/null | grep -q '^$(rust_version)[.-]'; then \
	    rustup run $(rust_version) cargo check --locked --workspace --all-targets --target-dir $(target)/oldest; \
	else \
	    echo 'The oldest supported Rust was not tried: rustup toolchain install --profile minimal $(rust_version)'; \
	fi

# What takes little time comes first, and the tests through the front door last.
test: rust lint build-packages test-packages oldest
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check bans licenses sources; \
	else \
	    echo 'cargo-deny is not installed: tests/supply.rs alone looks at licences, bans and sources'; \
	fi
	$(CARGO) test --locked --workspace --doc
	CARGO='$(CARGO)' tests/run.sh

# Measurements, which take minutes; what they print is in the pages under docs.
outages: rust build-packages test-packages
	PYZORD_SYNC=1 PYZORD_OUTAGES=20 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 comes_back

pauses: rust build-packages test-packages
	PYZORD_SYNC=1 PYZORD_PAUSE_RECORDS=1000000 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 expire_from

hostile: rust build-packages test-packages
	PYZORD_HOSTILE=10000000 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 hostile::

storms: rust build-packages test-packages
	PYZORD_STORM_SECONDS=60 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 storms::

bench: rust build-packages test-packages
	$(CARGO) build --locked --release -p pyzor-bench
	$(CARGO) bench --locked --bench pure
	$(CARGO) bench --locked --bench compare

bench-long: rust build-packages test-packages
	$(CARGO) build --locked --release -p pyzor-bench
	PYZORD_BENCH_LONG=1 $(CARGO) bench --locked --bench compare

migrations: rust build-packages test-packages
	$(CARGO) bench --locked --bench migrate

# With the compiler's coverage and without end, as it were; the tests do the same for a minute.
fuzz: rust build-packages
	fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

sanitize: rust build-packages
	tests/sanitize.sh

faults: rust build-packages test-packages
	PYZORD_KILLS=200 PYZORD_DAMAGES=500 PYZORD_REPAIR_RECORDS=1000000 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 in_the_middle_of_reports flipped_and_missing beside_one_of_the_library

kills: rust build-packages test-packages
	PYZORD_CALL_STRIDE=1 PYZORD_STEP_KILLS=300 $(CARGO) test --locked --release --test blackbox -- --nocapture traces::kills:: call_that_fails

soak: rust build-packages test-packages
	PYZORD_SOAK_SECONDS=$${PYZORD_SOAK_SECONDS:-1800} $(CARGO) test --locked --release --test blackbox -- --nocapture under_full_load

lint: rust lint-packages
	$(CARGO) fmt --all --check
	shellcheck $(scripts)
	mandoc -T lint -W warning docs/man/*.[158]
	dist/check-unit.sh

# Whatever is known of the dependencies, published holes included, which needs the network.
audit: rust
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check

rust:
	@command -v $(CARGO) >/dev/null || { \
	    echo "make: there is no $(CARGO) in PATH: install Rust $(rust_version) or newer, for instance from https://rustup.rs" >&2; \
	    exit 1; }
	@have=$$($(CARGO) --version | cut -d' ' -f2); \
	[ "$$(printf '%s\n' $(rust_version) "$$have" | sort -V | head -n 1)" = $(rust_version) ] || { \
	    echo "make: Rust $(rust_version) or newer is needed, and $(CARGO) is $$have: see https://rustup.rs" >&2; \
	    exit 1; }

# Whether something is missing is found out by trying, which works on systems other than Debian, too.
build-packages:
	@missing=; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	echo '#include <gdbm.h>' | cc -E -x c - >/dev/null 2>&1 || missing="$$missing libgdbm-dev"; \
	$(install_missing)

lint-packages:
	@missing=; \
	for command in mandoc shellcheck; do \
	    command -v $$command >/dev/null || missing="$$missing $$command"; \
	done; \
	$(install_missing)

test-packages:
	tests/setup.sh

# Installs what has been built, so that "make" can be run by anybody and "make install" by root.
$(target)/release/pyzord:
	$(MAKE) build

install: $(target)/release/pyzord
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(sbindir) \
	    $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man5 $(DESTDIR)$(mandir)/man8 \
	    $(DESTDIR)$(docdir)/docs/development $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir)
	$(INSTALL) -m 755 $(target)/release/pyzord $(DESTDIR)$(sbindir)/pyzord
	$(INSTALL) -m 755 $(target)/release/pyzor-migrate $(DESTDIR)$(bindir)/pyzor-migrate
	$(INSTALL) -m 755 $(target)/release/pyzor-bench $(DESTDIR)$(bindir)/pyzor-bench
	$(INSTALL) -m 644 docs/man/pyzor-bench.1 $(DESTDIR)$(mandir)/man1/pyzor-bench.1
	$(INSTALL) -m 644 docs/man/pyzor-migrate.1 $(DESTDIR)$(mandir)/man1/pyzor-migrate.1
	$(INSTALL) -m 644 docs/man/pyzord.8 $(DESTDIR)$(mandir)/man8/pyzord.8
	$(INSTALL) -m 644 docs/man/pyzord.conf.5 $(DESTDIR)$(mandir)/man5/pyzord.conf.5
	$(INSTALL) -m 644 README.md CHANGELOG.md LICENSE config.example $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 docs/*.md $(DESTDIR)$(docdir)/docs
	$(INSTALL) -m 644 docs/development/*.md $(DESTDIR)$(docdir)/docs/development
	$(INSTALL) -m 644 dist/pyzord.sysctl $(DESTDIR)$(docdir)
	sed 's|/usr/local/bin/pyzord|$(sbindir)/pyzord|' dist/pyzord.service >$(DESTDIR)$(unitdir)/pyzord.service
	chmod 644 $(DESTDIR)$(unitdir)/pyzord.service
	$(INSTALL) -m 644 $(DESTDIR)$(unitdir)/pyzord.service $(DESTDIR)$(unitdir)/pyzord@.service
	$(INSTALL) -m 644 dist/pyzord.sysusers $(DESTDIR)$(sysusersdir)/pyzord.conf

# Leaves configuration, accounts, databases and the user pyzord alone.
uninstall:
	rm -f $(DESTDIR)$(sbindir)/pyzord $(DESTDIR)$(bindir)/pyzor-migrate $(DESTDIR)$(bindir)/pyzor-bench \
	    $(DESTDIR)$(mandir)/man1/pyzor-migrate.1 $(DESTDIR)$(mandir)/man1/pyzor-bench.1 \
	    $(DESTDIR)$(mandir)/man8/pyzord.8 $(DESTDIR)$(mandir)/man5/pyzord.conf.5 \
	    $(DESTDIR)$(unitdir)/pyzord.service $(DESTDIR)$(unitdir)/pyzord@.service $(DESTDIR)$(sysusersdir)/pyzord.conf
	rm -rf $(DESTDIR)$(docdir)

# Leaves the directory var alone, which holds the database of "make run".
clean:
	$(CARGO) clean
	rm -rf fuzz/target

help:
	@echo 'make            build the server'
	@echo 'make run        build it and run it on 127.0.0.1:24441, with its files in ./var'
	@echo 'make dev        the same with a debug build, which is made in less time'
	@echo 'make check      format, clippy and unit tests'
	@echo 'make test       install what the tests need and run everything that is checked'
	@echo 'make outages    kill and stop database servers under load, again and again, and print what was measured'
	@echo 'make pauses     let a million records expire under load, and print what was measured'
	@echo 'make hostile    send ten million mutated datagrams to a server on each engine, and print what was seen'
	@echo 'make storms     reload and rotate two hundred times a second under load, and print what was seen'
	@echo 'make bench      compare this server, the Python one and a bare echo, and write docs/performance.md'
	@echo 'make bench-long two minutes of half load on a million records, with a sync and a sweep meanwhile'
	@echo 'make migrations move a million records between engines, beside what the databases do themselves'
	@echo 'make sanitize   the module that calls the C library, under valgrind and the address sanitizer'
	@echo 'make faults     3 x 200 kills under load, servers on 500 damaged databases, and how long a repair takes'
	@echo 'make kills      kills at every system call of starts, repairs and stops, and behind the writes of each change'
	@echo 'make soak       half an hour of full load and all faults on all engines'
	@echo 'make audit      licences, origins and published holes of the dependencies'
	@echo 'make fuzz       fuzz every target for FUZZ_SECONDS (60), or only FUZZ_TARGETS; installs cargo-fuzz'
	@echo 'make oldest     build with the oldest supported Rust, where that is installed'
	@echo 'make lint       only what is checked quickly: format, scripts, manual pages, systemd unit'
	@echo 'make install    install what was built; DESTDIR, prefix, bindir, sbindir, mandir, docdir, unitdir'
	@echo '                and sysusersdir are honoured (prefix is /usr/local, sbindir is bindir)'
	@echo 'make uninstall  remove what make install put there, with the same variables'
	@echo 'make clean      remove what was built'
