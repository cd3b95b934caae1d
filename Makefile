# make run, make test: see README.md. make help lists the rest.

CARGO ?= cargo
# The oldest Rust that builds this, as in Cargo.toml.
rust_version := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
target := $(or $(CARGO_TARGET_DIR),target)

prefix ?= /usr/local
exec_prefix ?= $(prefix)
bindir ?= $(exec_prefix)/bin
# The directory of pyzord: beside the client, like the Python server. Set sbindir to install it elsewhere.
sbindir ?= $(bindir)
datarootdir ?= $(prefix)/share
docdir ?= $(datarootdir)/doc/pyzord
mandir ?= $(datarootdir)/man
unitdir ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
INSTALL ?= install

# The time in seconds that "make fuzz" runs each target, and the targets.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

programs := pyzord pyzorctl pyzor-migrate pyzor-bench
scripts := .ci/run $(wildcard tests/*.sh dist/*.sh fuzz/*.sh)

# One target at a time, even with -j: several of them install packages.
.NOTPARALLEL:
.DEFAULT_GOAL := build
.PHONY: build run dev check test oldest outages pauses hostile bench bench-long migrations lint audit rust build-packages lint-packages test-packages install uninstall clean fuzz soak faults kills storms sanitize help

# Installs the Debian packages named in $$missing, if any.
define install_missing
[ -z "$$missing" ] && exit 0; \
command -v apt-get >/dev/null || { echo "make: missing packages, please install them (names as in Debian):$$missing" >&2; exit 1; }; \
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

# The homedir is ./var. exec replaces the shell, so that signals reach the server.
run: build
	exec $(target)/release/pyzord --homedir var --address 127.0.0.1 --port 24441

# Like run, with a debug build, which compiles faster.
dev: rust build-packages
	$(CARGO) build --locked
	exec $(target)/debug/pyzord --homedir var --address 127.0.0.1 --port 24441

# The quick checks, to run after each edit. "make test" runs all of them.
check: rust build-packages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib

# Checks that the oldest supported Rust compiles everything, tests included. It has its own target directory, so that
# other builds stay up to date.
oldest: rust build-packages
	@if [ "$$($(CARGO) --version | cut -d' ' -f2 | cut -d. -f1-2)" = $(rust_version) ]; then \
	    echo 'This is Rust $(rust_version), the oldest supported version'; \
	elif rustup toolchain list 2>/dev/null | grep -q '^$(rust_version)[.-]'; then \
	    rustup run $(rust_version) cargo check --locked --workspace --all-targets --target-dir $(target)/oldest; \
	else \
	    echo 'The oldest supported Rust is not installed, its build was skipped: rustup toolchain install --profile minimal $(rust_version)'; \
	fi

# Quick checks first, black-box tests last.
test: rust lint build-packages test-packages oldest
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --locked check bans licenses sources; \
	else \
	    echo 'cargo-deny is not installed: licences, bans and sources are checked by tests/supply.rs only'; \
	fi
	$(CARGO) test --locked --workspace --doc
	CARGO='$(CARGO)' tests/run.sh

# Measurements. They take minutes; the pages under docs quote their output.
outages: rust build-packages test-packages
	PYZORD_SYNC=1 PYZORD_OUTAGES=20 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 comes_back

pauses: rust build-packages test-packages
	PYZORD_SYNC=1 PYZORD_PAUSE_RECORDS=1000000 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 expire_from

hostile: rust build-packages test-packages
	PYZORD_HOSTILE=10000000 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 hostile::

storms: rust build-packages test-packages
	PYZORD_STORM_SECONDS=60 $(CARGO) test --locked --release --test blackbox -- --nocapture --test-threads 1 storms::

bench: rust build-packages test-packages
	$(CARGO) bench --locked --bench pure
	$(CARGO) bench --locked --bench compare

bench-long: rust build-packages test-packages
	PYZORD_BENCH_LONG=1 $(CARGO) bench --locked --bench compare

migrations: rust build-packages test-packages
	$(CARGO) bench --locked --bench migrate

# Coverage-guided fuzzing. "make test" mutates the corpus for a minute, without coverage.
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

# Checks the dependencies, including published advisories. Needs the network.
audit: rust
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check

rust:
	@command -v $(CARGO) >/dev/null || { \
	    echo "make: cannot find $(CARGO) in PATH: install Rust $(rust_version) or newer, for instance from https://rustup.rs" >&2; \
	    exit 1; }
	@have=$$($(CARGO) --version | cut -d' ' -f2); \
	[ "$$(printf '%s\n' $(rust_version) "$$have" | sort -V | head -n 1)" = $(rust_version) ] || { \
	    echo "make: $(CARGO) is version $$have, but Rust $(rust_version) or newer is required: update it, see https://rustup.rs" >&2; \
	    exit 1; }

# Looks for the tools themselves, not for packages, so that it works on systems other than Debian too.
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

# "make install" builds only what is missing, so that root installs what an ordinary user has built.
$(programs:%=$(target)/release/%):
	$(MAKE) build

# Removes the pages of an older version, which may have had other names.
install: $(programs:%=$(target)/release/%)
	rm -rf $(DESTDIR)$(docdir)/docs
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(sbindir) \
	    $(DESTDIR)$(mandir)/man1 $(DESTDIR)$(mandir)/man5 $(DESTDIR)$(mandir)/man8 \
	    $(DESTDIR)$(docdir)/docs/development $(DESTDIR)$(unitdir) $(DESTDIR)$(sysusersdir)
	$(INSTALL) -m 755 $(target)/release/pyzord $(DESTDIR)$(sbindir)/pyzord
	$(INSTALL) -m 755 $(target)/release/pyzorctl $(DESTDIR)$(bindir)/pyzorctl
	$(INSTALL) -m 755 $(target)/release/pyzor-migrate $(DESTDIR)$(bindir)/pyzor-migrate
	$(INSTALL) -m 755 $(target)/release/pyzor-bench $(DESTDIR)$(bindir)/pyzor-bench
	$(INSTALL) -m 644 docs/man/pyzor-bench.1 $(DESTDIR)$(mandir)/man1/pyzor-bench.1
	$(INSTALL) -m 644 docs/man/pyzor-migrate.1 $(DESTDIR)$(mandir)/man1/pyzor-migrate.1
	$(INSTALL) -m 644 docs/man/pyzorctl.1 $(DESTDIR)$(mandir)/man1/pyzorctl.1
	$(INSTALL) -m 644 docs/man/pyzord.8 $(DESTDIR)$(mandir)/man8/pyzord.8
	$(INSTALL) -m 644 docs/man/pyzord.conf.5 $(DESTDIR)$(mandir)/man5/pyzord.conf.5
	$(INSTALL) -m 644 README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE config.example $(DESTDIR)$(docdir)
	$(INSTALL) -m 644 docs/*.md $(DESTDIR)$(docdir)/docs
	$(INSTALL) -m 644 docs/development/*.md $(DESTDIR)$(docdir)/docs/development
	$(INSTALL) -m 644 dist/pyzord.sysctl dist/pyzord.rules.yml $(DESTDIR)$(docdir)
	sed -e 's|/usr/local/bin/pyzord |$(sbindir)/pyzord |' -e 's|/usr/local/bin/pyzorctl |$(bindir)/pyzorctl |' \
	    dist/pyzord.service >$(DESTDIR)$(unitdir)/pyzord.service
	sed 's|^ExecReload=.*|ExecReload=/bin/kill -USR1 $$MAINPID|' \
	    $(DESTDIR)$(unitdir)/pyzord.service >$(DESTDIR)$(unitdir)/pyzord@.service
	chmod 644 $(DESTDIR)$(unitdir)/pyzord.service $(DESTDIR)$(unitdir)/pyzord@.service
	$(INSTALL) -m 644 dist/pyzord.socket $(DESTDIR)$(unitdir)/pyzord.socket
	$(INSTALL) -m 644 dist/pyzord.sysusers $(DESTDIR)$(sysusersdir)/pyzord.conf

# Leaves configuration, accounts, databases and the user pyzord alone.
uninstall:
	rm -f $(DESTDIR)$(sbindir)/pyzord $(DESTDIR)$(bindir)/pyzorctl $(DESTDIR)$(bindir)/pyzor-migrate \
	    $(DESTDIR)$(bindir)/pyzor-bench $(DESTDIR)$(mandir)/man1/pyzorctl.1 \
	    $(DESTDIR)$(mandir)/man1/pyzor-migrate.1 $(DESTDIR)$(mandir)/man1/pyzor-bench.1 \
	    $(DESTDIR)$(mandir)/man8/pyzord.8 $(DESTDIR)$(mandir)/man5/pyzord.conf.5 \
	    $(DESTDIR)$(unitdir)/pyzord.service $(DESTDIR)$(unitdir)/pyzord@.service \
	    $(DESTDIR)$(unitdir)/pyzord.socket $(DESTDIR)$(sysusersdir)/pyzord.conf
	rm -rf $(DESTDIR)$(docdir)

# Leaves the directory var alone, which holds the database of "make run".
clean:
	$(CARGO) clean
	rm -rf fuzz/target

help:
	@echo 'make            build the server'
	@echo 'make run        build the server and run it on 127.0.0.1:24441, with its files in ./var'
	@echo 'make dev        like make run, with a debug build, which compiles faster'
	@echo 'make check      format, clippy and unit tests'
	@echo 'make test       install what the tests need and run the whole test suite'
	@echo 'make outages    measure how pyzord behaves while database servers are killed and stopped under load'
	@echo 'make pauses     measure the pauses while a million records expire under load'
	@echo 'make hostile    send ten million mutated datagrams to a server on each engine'
	@echo 'make storms     reload and rotate logs two hundred times a second under load'
	@echo 'make bench      compare this server, the Python one and a bare echo, and write docs/performance.md'
	@echo 'make bench-long measure two minutes of half load on a million records, during a sync and an expiry'
	@echo 'make migrations measure moving a million records between engines, beside the tools of the databases'
	@echo 'make sanitize   run the gdbm module under valgrind and the address sanitizer'
	@echo 'make faults     3 x 200 kills under load, servers on 500 damaged databases, duration of a repair'
	@echo 'make kills      kill at every system call of starts, repairs and stops, and after the writes of each change'
	@echo 'make soak       half an hour of full load with all faults on all engines'
	@echo 'make audit      check licences, sources and security advisories of the dependencies'
	@echo 'make fuzz       fuzz every target for FUZZ_SECONDS (60), or only FUZZ_TARGETS; installs cargo-fuzz'
	@echo 'make oldest     check the build with the oldest supported Rust, if it is installed'
	@echo 'make lint       check format, scripts, manual pages and systemd units'
	@echo 'make install    install the built programs; set DESTDIR, prefix, bindir, sbindir, mandir, docdir, unitdir'
	@echo '                and sysusersdir as usual (default prefix /usr/local, sbindir as bindir)'
	@echo 'make uninstall  remove the installed files; set the same variables'
	@echo 'make clean      remove build results'
