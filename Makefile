# What a person or a machine does with the project. Everything is built under target/; nothing is installed anywhere else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools that cargo does not bring, each at one version.
BUF_VERSION := v1.75.0
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.1
VERSITYGW_VERSION := v1.8.0
AZURITE_VERSION := 3.37.0
HELM_VERSION := v3.22.0
MDBOOK_VERSION := 0.5.4
KUBERNETES_VERSION := 1.31.0
KUBERNETES_VALIDATE_VERSION := 1.37.0
TOOLS := $(CURDIR)/target/tools
BUF := $(TOOLS)/buf-$(BUF_VERSION)/buf
DENY := $(TOOLS)/deny-$(DENY_VERSION)/bin/cargo-deny
FUZZ := $(TOOLS)/fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
VERSITYGW := $(TOOLS)/versitygw-$(VERSITYGW_VERSION)/versitygw
AZURITE := $(TOOLS)/azurite-$(AZURITE_VERSION)/node_modules/azurite/dist/src/blob/main.js
HELM := $(TOOLS)/helm-$(HELM_VERSION)/helm
MDBOOK := $(TOOLS)/mdbook-$(MDBOOK_VERSION)/bin/mdbook
KUBERNETES := $(TOOLS)/kubernetes-validate-$(KUBERNETES_VALIDATE_VERSION)/bin/kubernetes-validate
PROMETHEUS := $(TOOLS)/prometheus
CARGO := cargo
LOCKED := --locked
# One build serves every test: the one in which nodes can be made to fail on purpose.
FAULTS := --features fault-injection

.PHONY: help demo deb image chart site console test compare failpoints instructions soak mutations soak-cuts soak-stores soak-rotations soak-moves chaos fuzz alarms test-clients test-stores clients clients-lint clients-bench lint fmt-check clippy doc buf-lint buf-breaking deny fmt needs

help: ## what there is to make
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: needs ## the whole story of a disaster and the way back, on real processes; KEEP=1 leaves the cluster running, SECURE=1 does it over TLS
	@[ -e "$${CARGO_TARGET_DIR:-target}/demo/examples/demo" ] || echo "Compiling DeviceDB and what it stands on: three minutes of processor time, this once." >&2
	@$(CARGO) build $(LOCKED) --profile demo --no-default-features --bins --example demo
	@"$${CARGO_TARGET_DIR:-target}/demo/examples/demo" $(if $(KEEP),--keep) $(if $(SECURE),--secure)

# Debian's etcd, or with ETCD=v3.5.35 that one, built with Go. Neither is installed: Debian's package would start a server.
ETCD :=
ETCD_DIR := $(TOOLS)/etcd$(if $(ETCD),-$(ETCD))
compare: SECONDS := 5
KEYS := 1000000
compare: ROUNDS := 3
compare: needs $(ETCD_DIR)/etcdctl ## DeviceDB beside etcd: make compare ROUNDS=3 SECONDS=5 ONLY=put,get,snapshot ETCD=v3.5.35
	@$(CARGO) build --quiet $(LOCKED) --release --bins --example compare
	@PATH="$(ETCD_DIR):$$PATH" "$${CARGO_TARGET_DIR:-target}/release/examples/compare" --rounds=$(ROUNDS) --seconds=$(SECONDS) --keys=$(KEYS) --only=$(ONLY)

test: needs ## every test, those on real processes included
	$(CARGO) test $(LOCKED) $(FAULTS)
	@$(MAKE) --no-print-directory test-clients

failpoints: needs ## the places at which a test kills a node on purpose, and what happens there
	@$(CARGO) run --quiet $(LOCKED) $(FAULTS) --bin devicedb -- --failpoints

instructions: needs ## what hot paths cost in instructions, against tests/instructions.txt: make instructions [ACCEPT=1]
	@command -v valgrind >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq valgrind >&2; \
	  else echo "valgrind is missing: sudo apt-get install valgrind" >&2; exit 1; fi; }
	@tests/instructions.sh

soak: SEEDS := 1000..5000
soak: needs ## the simulator at length, with seeds that the gate does not play; it says how many and how long: make soak SEEDS=1000..5000
	DEVICEDB_SIM_SEEDS=$(SEEDS) $(CARGO) test $(LOCKED) $(FAULTS) --test sim no_seed -- --nocapture

mutations: SEEDS := 0..100
mutations: needs ## in how many seeds of its scenario each mutation is found: make mutations SEEDS=0..100 [MUTATION=VoteLost]
	DEVICEDB_SIM_SEEDS=$(SEEDS) $(if $(MUTATION),DEVICEDB_SIM_MUTATION=$(MUTATION)) $(CARGO) test $(LOCKED) $(FAULTS) --test sim every_mutation_is_found -- --nocapture

ROUNDS := 3000
soak-cuts: needs ## snapshots of a running cluster, each restored: make soak-cuts ROUNDS=3000
	DEVICEDB_CUT_ROUNDS=$(ROUNDS) $(CARGO) test $(LOCKED) $(FAULTS) --test cluster every_part_of_many -- --nocapture

soak-stores: SEEDS := 1000..3000
soak-stores: needs ## stories of repositories at stores that do their worst: make soak-stores SEEDS=1000..3000
	DEVICEDB_STORE_SEEDS=$(SEEDS) $(CARGO) test $(LOCKED) $(FAULTS) --lib whatever_a_store_does -- --nocapture

soak-rotations: ROTATIONS := 1000
soak-rotations: needs ## nodes get other certificates under load, and no request fails: make soak-rotations ROTATIONS=1000
	DEVICEDB_ROTATIONS=$(ROTATIONS) $(CARGO) test $(LOCKED) $(FAULTS) --test cluster certificates_change_under -- --nocapture

soak-moves: needs ## restores to other addresses, in forty ways, each within five seconds
	DEVICEDB_MOVES=all $(CARGO) test $(LOCKED) $(FAULTS) --test cluster a_cluster_is_restored_to_other -- --nocapture

chaos: SECONDS := 3600
chaos: needs ## faults of real processes, links and disks at length: make chaos SECONDS=3600 [ONLY=LoseDisk,Kill]
	DEVICEDB_CHAOS_SECONDS=$(SECONDS) $(if $(ONLY),DEVICEDB_CHAOS_ONLY=$(ONLY)) $(CARGO) test $(LOCKED) $(FAULTS) --test chaos no_fault -- --nocapture

# cargo-fuzz asks for what rustc only gives a nightly, or whoever says so. Without a sanitizer, which would watch for what `unsafe` could do: there is none.
# The versions are those that the database is built with.
fuzz: SECONDS := 30
DOORS = $(shell awk -F'"' '/^    ."[a-z_]+", [a-z]+::/ { print $$2 }' tests/fuzz/targets/mod.rs)
fuzz: needs $(FUZZ) ## every door for bytes from outside under cargo-fuzz, each so long: make fuzz SECONDS=30 [DOORS=tar]
	@cp Cargo.lock tests/fuzz/cargo/Cargo.lock
	@export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$(CURDIR)/target/fuzz"; cd tests/fuzz/cargo; \
	for door in $(DOORS); do \
	  corpus="$$CARGO_TARGET_DIR/corpus/$$door"; found="$(CURDIR)/tests/fuzz/found/$$door"; mkdir -p "$$corpus" "$$found"; echo "== $$door"; \
	  DEVICEDB_FUZZ_TARGET=$$door DEVICEDB_FUZZ_CORPUS="$$corpus" $(FUZZ) run --fuzz-dir . --sanitizer none doors "$$corpus" -- \
	    -artifact_prefix="$$found/" -max_total_time=$(SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 2>&1 \
	    | sed -E '/^#[0-9]+\s+(NEW|REDUCE|pulse|RELOAD)/d; /NEW_FUNC/d; /Recommended dictionary/,/End of recommended/d' || broken="$${broken-} $$door"; \
	  rmdir --ignore-fail-on-non-empty "$$found"; \
	done; \
	[ -z "$${broken-}" ] || { echo "broken:$$broken; the inputs lie in tests/fuzz/found/, where 'cargo test --test fuzz' plays them"; exit 1; }

alarms: needs $(PROMETHEUS)/promtool ## the alarms in deploy/prometheus: what they do, and a real Prometheus server that scrapes a real cluster
	$(PROMETHEUS)/promtool test rules deploy/prometheus/tests.yaml
	DEVICEDB_PROMETHEUS="$(PROMETHEUS)" $(CARGO) test --quiet $(LOCKED) $(FAULTS) --test alarms

CHROMIUM = $(firstword $(shell command -v chromium chromium-browser google-chrome 2>/dev/null))
console: needs ## the console in a real browser, before a real cluster; pictures are left in target/console
	@[ -n "$(CHROMIUM)" ] || { echo "Chromium is missing: sudo apt-get install chromium" >&2; exit 1; }
	DEVICEDB_CHROMIUM="$(CHROMIUM)" $(CARGO) test --quiet $(LOCKED) $(FAULTS) --test console

# The binaries are those of `make test`: the tests of the cluster build both. `cargo build` would resolve other features of crates than `cargo test` does, and compile
# half of them and the library once more.
test-clients: needs ## the tests of the Python and Go clients, on real clusters
	@$(CARGO) test --quiet $(LOCKED) $(FAULTS) --no-run --test cluster
	@clients/test.sh

# One that speaks S3 and keeps versions of every object, and one that speaks Azure's. The tests of `make test` are played with gofakes3.
STORES = versitygw azurite
store-versitygw = $(VERSITYGW)
store-azurite = $(AZURITE)
test-stores: needs $(foreach store,$(STORES),$(store-$(store))) ## a repository's whole story in versitygw, with versions, and in Azurite: make test-stores [STORES=azurite]
	@$(foreach store,$(STORES),echo "== $(store)"; DEVICEDB_OBJECT_STORE=$(store) DEVICEDB_OBJECT_STORE_BIN="$(store-$(store))" \
	  $(CARGO) test --quiet $(LOCKED) $(FAULTS) --test cluster objects::;) :

clients: ## generates the Python and Go clients from the contract
	@clients/generate.sh

clients-bench: needs ## measures the clients against ddbctl; the ratios stand in clients/README.md
	@$(CARGO) build --quiet $(LOCKED) --release --bins
	@clients/bench.sh

lint: fmt-check clippy doc buf-lint clients-lint deny ## everything that is checked without running

fmt-check: ## the layout of Rust code
	$(CARGO) fmt --check

doc: ## the code's own documentation, private items too, without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps --document-private-items --lib

clippy: ## clippy without a warning
	$(CARGO) clippy $(LOCKED) $(FAULTS) --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --lib --bins -- -D warnings

clients-lint: ## layout, types and mistakes of the clients
	@clients/lint.sh

buf-lint: $(BUF) ## the contract under proto/
	$(BUF) lint
	$(BUF) format --diff --exit-code

buf-breaking: $(BUF) ## the contract against AGAINST, a directory with an older proto/
	$(BUF) breaking --against "$(AGAINST)"

deny: $(DENY) ## licences, sources and, where GitHub answers, advisories of what we depend on
	$(DENY) --locked check bans licenses sources
	@if $(DENY) --locked fetch db >/dev/null 2>&1; then $(DENY) --locked check advisories; \
	else echo "advisories were NOT checked: github.com/RustSec/advisory-db cannot be reached from here"; fi

VERSION = $(shell sed -nE 's/^version = "(.*)"/\1/p;/^version/q' Cargo.toml)
deb: needs ## a Debian package of release binaries, with a systemd unit, below target/
	$(CARGO) build $(LOCKED) --release --bins
	@deploy/deb/build.sh "$${CARGO_TARGET_DIR:-target}/release" "$${CARGO_TARGET_DIR:-target}/devicedb_$(VERSION)_$$(dpkg --print-architecture).deb"

image: needs ## a container image of release binaries, for docker, podman and containerd, below target/
	$(CARGO) build $(LOCKED) --release --bins
	@deploy/image/build.sh "$${CARGO_TARGET_DIR:-target}/release" "$${CARGO_TARGET_DIR:-target}/devicedb-image.tar"

# Kubernetes' own schemas, for each kind that the chart has.
chart: $(HELM) $(KUBERNETES) ## the chart for Kubernetes: checked, rendered to tests/golden/helm/, which tests run, and checked against Kubernetes' schemas
	@mkdir -p tests/golden/helm
	$(HELM) lint --quiet --kube-version $(KUBERNETES_VERSION) --set insecure=true deploy/helm/devicedb
	@render() { $(HELM) template devicedb deploy/helm/devicedb --kube-version $(KUBERNETES_VERSION) "$$@"; }; set -e; \
	render --set insecure=true,replicas=4 >tests/golden/helm/four.yaml; \
	render --set insecure=true,global.replicasBefore=4 --is-upgrade >tests/golden/helm/three-of-four.yaml; \
	render --values deploy/helm/example.yaml >tests/golden/helm/example.yaml; \
	for rendered in tests/golden/helm/*.yaml; do $(KUBERNETES) --strict "$$rendered" || exit 1; done
	@! $(HELM) template devicedb deploy/helm/devicedb --kube-version $(KUBERNETES_VERSION) 2>/dev/null || { echo "a chart without certificates renders without insecure: true" >&2; exit 1; }

site: $(MDBOOK) ## the documents as a site, below target/site/book; every link in it leads somewhere
	@deploy/site/build.sh "$(MDBOOK)"

fmt: $(BUF) ## lays out Rust code and the contract
	$(CARGO) fmt
	$(BUF) format --write

# Compilers of Rust and C are all that building needs; the C one is for zstd and lz4.
needs:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust 1.90 or later, https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq gcc g++ libc6-dev >&2; \
	  else echo "a C compiler is missing: sudo apt-get install gcc g++ libc6-dev" >&2; exit 1; fi; }

$(TOOLS)/etcd/etcdctl:
	@command -v apt-get >/dev/null || { echo "apt-get is missing, and etcd comes from Debian's packages: try ETCD=v3.5.35, which takes Go" >&2; exit 1; }
	@mkdir -p "$(@D)" && cd "$(@D)" && { [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	apt-get download -qq -o APT::Sandbox::User="$$(id -un)" etcd-server etcd-client && \
	for package in *.deb; do dpkg-deb -x "$$package" .; done && rm -f *.deb && mv usr/bin/etcd usr/bin/etcdctl . && touch etcdctl

# Debian's, which is not installed: its package would start a server.
$(PROMETHEUS)/promtool:
	@command -v apt-get >/dev/null || { echo "apt-get is missing, and Prometheus comes from Debian's packages: put prometheus and promtool into $(@D)" >&2; exit 1; }
	@mkdir -p "$(@D)" && cd "$(@D)" && { [ "$$(id -u)" != 0 ] || apt-get update -qq; } && \
	apt-get download -qq -o APT::Sandbox::User="$$(id -un)" prometheus && \
	dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb && mv usr/bin/prometheus usr/bin/promtool . && touch promtool

$(TOOLS)/etcd-%/etcdctl:
	@command -v go >/dev/null || { echo "go is missing, and etcd $* is built with it: install Go 1.26 or later, https://go.dev/dl" >&2; exit 1; }
	@mkdir -p "$(@D)" && cd "$(@D)" && { [ -f go.mod ] || go mod init etcd-$*; } && \
	go get go.etcd.io/etcd/server/v3@$* go.etcd.io/etcd/etcdctl/v3@$* && export CGO_ENABLED=0 && \
	go build -o etcd go.etcd.io/etcd/server/v3 && go build -o etcdctl go.etcd.io/etcd/etcdctl/v3

$(BUF):
	@command -v go >/dev/null || { echo "go is missing, and buf is built with it: install Go 1.26 or later, https://go.dev/dl" >&2; exit 1; }
	GOBIN="$(@D)" GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)

$(FUZZ):
	$(CARGO) install --quiet --debug --locked --root "$(TOOLS)/fuzz-$(FUZZ_VERSION)" cargo-fuzz@$(FUZZ_VERSION)

$(VERSITYGW):
	@command -v go >/dev/null || { echo "go is missing, and versitygw is built with it: install Go 1.26 or later, https://go.dev/dl" >&2; exit 1; }
	GOBIN="$(@D)" GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)

$(AZURITE):
	@command -v npm >/dev/null || { echo "npm is missing, and Azurite comes from its registry: install Node.js 20 or later, https://nodejs.org" >&2; exit 1; }
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$(TOOLS)/azurite-$(AZURITE_VERSION)" azurite@$(AZURITE_VERSION)
	@touch "$@"

$(HELM):
	@command -v go >/dev/null || { echo "go is missing, and helm is built with it: install Go 1.26 or later, https://go.dev/dl" >&2; exit 1; }
	GOBIN="$(@D)" GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)

$(KUBERNETES):
	python3 -m venv "$(@D)/.." && "$(@D)/pip" install --quiet kubernetes-validate==$(KUBERNETES_VALIDATE_VERSION)

$(MDBOOK):
	$(CARGO) install --quiet --debug --locked --root "$(TOOLS)/mdbook-$(MDBOOK_VERSION)" mdbook@$(MDBOOK_VERSION)

$(DENY):
	$(CARGO) install --quiet --debug --locked --root "$(TOOLS)/deny-$(DENY_VERSION)" cargo-deny@$(DENY_VERSION)
