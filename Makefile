# The two commands that matter: `make run` (the demo) and `make test` (every check). Debian 12, Rust, gcc, make, git, apt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO := cargo
FUZZ_SECONDS ?= 10
GATE_INTERLEAVINGS ?= 1000000

# What the build needs: cmake (zlib-ng, BoringSSL), a C++ compiler (BoringSSL), libclang (BoringSSL's and Kerberos' bindings),
# the Kerberos library.
BUILD_PACKAGES := cmake g++ libclang-dev libkrb5-dev pkg-config
# What the tests need besides: OpenLDAP, an old TLS server, a browser and its letters, a client, kill.
TEST_PACKAGES := slapd ldap-utils openssl curl chromium fonts-dejavu-core python3 procps
# What reads metrics, dashboards' queries and rules as Prometheus does.
TEST_PACKAGES += prometheus
# A Kerberos KDC, a server with Windows authentication, clients of both.
TEST_PACKAGES += krb5-kdc krb5-admin-server krb5-user apache2-bin libapache2-mod-auth-gssapi gss-ntlmssp
TEST_PACKAGES += python3-venv python3-gssapi python3-requests-kerberos python3-exchangelib
# An Active Directory forest of two domain controllers, and Kerberos for OpenLDAP's programs.
TEST_PACKAGES += samba samba-ad-dc samba-ad-provision samba-dsdb-modules winbind ldb-tools libnss-wrapper
TEST_PACKAGES += libsasl2-modules-gssapi-mit
# Mail servers, and a client that keeps a whole mailbox in step.
MAIL_PACKAGES := dovecot-imapd dovecot-pop3d
TEST_PACKAGES += $(MAIL_PACKAGES) isync
# Clocks that are wrong.
TEST_PACKAGES += faketime
# The readers of the manual, the unit, the package and the examples.
TEST_PACKAGES += groff-base systemd python3-seccomp lintian dpkg-dev haproxy keepalived

# Their ports and their clocks are the machine's: two checks at once would stand in each other's way.
.NOTPARALLEL:

.PHONY: help run build test lint unit gate fuzz deny windows form mail samba sign-in packages deb booted peers mutants bench build-packages test-packages

help:
	@echo 'make run      build, start the stand-in organisation contoso and the edge, until Ctrl-C'
	@echo 'make test     every check: format, lints, tests against real servers, a simulation of the gate, fuzzing, the demo itself'
	@echo 'make form     part of it: people log on and off by the form, in Chromium'
	@echo 'make mail     part of it: mail programs log on by POP3 and IMAP4, with Dovecot as the servers behind'
	@echo 'make samba    part of it: beside a real Active Directory forest of two domain controllers; as root, for their ports'
	@echo 'make sign-in  part of it: the edge signs in for users to servers that take Kerberos alone; as root, for a real domain controller'
	@echo 'make packages part of it: unit, package, image and examples, each read by the program it is for'
	@echo 'make deb      a Debian package, in target/debian'
	@echo 'make booted   the package installed, started, reloaded, upgraded and removed in a Debian of its own; as root'
	@echo 'make peers    whose connection is it? HAProxy, nginx, Squid, Apache and firstcas under the isolation hammer'
	@echo 'make mutants  breaks the gate on purpose, and expects the isolation hammer to see it'
	@echo 'make bench    criterion benches, requests per CPU-second beside a bare Pingora proxy, what pinned clients cost, what look-ups'
	@echo '              cost the directory, what signing in for users costs, upgrades under load, what idle IMAP4 sessions cost'

run: build
	$(call install,python3 $(MAIL_PACKAGES))
	tests/contoso/demo

build: build-packages
	$(CARGO) build --locked --release --bin firstcas --example contoso

# Domain controllers have the ports of domain controllers.
AS_ROOT := env
ifneq ($(shell id -u),0)
AS_ROOT := sudo -E env "PATH=$(PATH)"
endif

# What the load tests need besides.
LOAD_PACKAGES := wrk curl python3 slapd ldap-utils krb5-kdc krb5-admin-server krb5-user
# Mail proxies to compare with, and a server behind them.
LOAD_PACKAGES += nginx libnginx-mod-mail dovecot-imapd openssl

test: test-packages lint deny unit gate fuzz build windows form mail samba sign-in packages
	tests/shown_by

lint: test-packages
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings

unit: test-packages
	$(CARGO) test --locked

# The gate among a million interleavings of clients, servers and failures; then the same for gates broken on purpose.
gate:
	$(CARGO) run --quiet --locked --release --manifest-path tests/gate/Cargo.toml -- $(GATE_INTERLEAVINGS)
	tests/gate_mutants

fuzz:
	tests/fuzz/run $(FUZZ_SECONDS)

deny:
	tests/deny

# Windows authentication with real servers and real clients; pyspnego and requests-ntlm come from PyPI.
windows: test-packages build
	tests/windows/run

# People log on and off by the form, in Chromium, with their keyboard alone.
form: test-packages build
	tests/form/run

# Mail programs read and write mail by POP3 and IMAP4, Dovecot being the servers behind.
mail: test-packages build
	tests/mail/run

# A real Active Directory forest: the directory's tests against it, and the edge beside it, which also signs in by Kerberos.
samba: test-packages build
	$(AS_ROOT) tests/samba/beside $(CARGO) test --locked --test directory --test command_line
	$(AS_ROOT) tests/samba/run

# Who is served by whom, and as whom, where servers take Kerberos alone; and what an administrator sees when it fails.
sign-in: test-packages build
	$(AS_ROOT) tests/sign_in/run

# What is installed, each part checked by the program that reads it; validators of Containerfiles and of Kubernetes come from
# PyPI, cargo-deb from crates.io.
packages: test-packages build
	tests/packages/run

deb: build
	$(call install,dpkg-dev)
	conf/debian/make

# The package in a Debian of its own with systemd as its first process; the first run fetches that, some 100 MB.
booted: deb
	$(call install,debootstrap systemd-container openssl)
	$(AS_ROOT) tests/packages/booted

# Installs the peers, some 30 MB, if they are missing.
peers: build-packages
	tests/peers/run 10

# A build for each way of breaking the gate: some minutes.
mutants: test-packages
	tests/hammer_mutants

bench: build
	$(call install,$(LOAD_PACKAGES))
	$(CARGO) build --locked --release --example bare --example lookups
	$(CARGO) bench --locked
	loadtest/cpu
	loadtest/pinned
	loadtest/directory
	loadtest/sign_in
	loadtest/upgrade
	loadtest/mail

# Installs what is missing, with sudo where it is needed; silent where all is there. No service is started for it: Debian's
# packages ask policy-rc.d before they start theirs.
define install
@missing=$$({ dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(1) 2>&1 || true; } | awk '/^installed / {have[$$2]} END {n=split("$(1)", p, " "); for (i=1; i<=n; i++) if (!(p[i] in have)) print p[i]}'); \
if [ -n "$$missing" ]; then \
	echo "installing" $$missing; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
		trap "$$sudo rm -f $$policy" EXIT; \
		printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy >/dev/null; \
		$$sudo chmod 755 $$policy; \
	fi; \
	$$sudo apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; \
fi
endef

build-packages:
	$(call install,$(BUILD_PACKAGES))

test-packages: build-packages
	$(call install,$(TEST_PACKAGES))
