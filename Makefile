# The two commands that matter: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(HOME)/.cache/blyan-target
export BLYAN_CACHE_DIR ?= $(HOME)/.cache/blyan
# Debian's RocksDB where it is installed; without it the crate builds its own, which takes some twenty minutes.
ifneq ($(wildcard /usr/lib/x86_64-linux-gnu/librocksdb.so),)
export ROCKSDB_LIB_DIR ?= /usr/lib/x86_64-linux-gnu
export ROCKSDB_INCLUDE_DIR ?= /usr/include
endif

binary := $(CARGO_TARGET_DIR)/debug/blyan
faultnode := $(CARGO_TARGET_DIR)/debug/blyan-faultnode
venv := $(BLYAN_CACHE_DIR)/venv
pytest := BLYAN_BINARY=$(binary) BLYAN_FAULTNODE=$(faultnode) $(venv)/bin/python -m pytest -q -p no:cacheprovider
# Every cargo call names all targets of the workspace: one set of features, one build of each crate.
scope := --workspace --all-targets --locked

.PHONY: help run test check setup build print-binary venv browser screenshots test-rust test-node chaos chaos-import chaos-cancel chaos-failover chaos-poison chaos-decisions chaos-flips chaos-uploads chaos-adoption chaos-rollback chaos-economy chaos-ledger chaos-tiles storm flips perplexity learn oracle load bench-memory bench-runtime bench-chain bench-ledger bench-compression compare otp-vectors supervisors-long chain-long ledger-long fuzz mutants mutants-core mutants-rules mutants-audit mutants-formats mutants-chain

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: ## set up, build, import the model and serve on http://127.0.0.1:8000 (first time: about ten minutes)
	@echo "==> first run: packages, 120 MB of downloads, a build of some minutes on two cores, an import of under a minute" >&2
	@$(MAKE) -s --no-print-directory build
	@exec $(binary) node $(ARGS)

test: ## set up, build and run every test (first time: about twenty minutes)
	@echo "==> builds all tests, runs them, then starts real nodes on loopback" >&2
	@$(MAKE) -s --no-print-directory test-rust
	@$(MAKE) -s --no-print-directory test-node

check: setup ## formatting and lints
	@$(MAKE) -s --no-print-directory cargo-check

# A make of its own, so that a RocksDB that `setup` has just installed is found; likewise below.
.PHONY: cargo-check
cargo-check:
	cargo fmt --all --check
	cargo clippy $(scope) -- -D warnings
	bash -n deploy/setup.sh

setup: ## Debian packages, ONNX Runtime and the model
	@deploy/setup.sh

build: setup ## build the binaries
	@echo "==> cargo build (some minutes the first time, seconds later)" >&2
	@$(MAKE) -s --no-print-directory cargo-build

.PHONY: cargo-build
cargo-build:
	cargo build --workspace --bins --locked

print-binary: ## everything that `make run` does short of import and serving; prints the binary's path alone
	@$(MAKE) -s --no-print-directory build >&2
	@echo $(binary)

venv: setup
	@test -f $(venv)/.ready-$$(sha256sum tests/requirements.txt | cut -c1-16) || { \
	  echo "==> Python packages for the tests, hashes pinned" >&2; \
	  rm -rf $(venv); python3 -m venv $(venv); \
	  $(venv)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: -r tests/requirements.txt; \
	  touch $(venv)/.ready-$$(sha256sum tests/requirements.txt | cut -c1-16); }

browser: setup
	@deploy/setup.sh tests || echo "==> no browser could be installed: the tests of the web pages are skipped, and say so" >&2

test-rust: build ## unit, property, contract and crash tests of every crate
	@$(MAKE) -s --no-print-directory cargo-test

.PHONY: cargo-test
cargo-test:
	cargo test --workspace --all-targets --locked

# `cargo test` builds examples as tests only, and a binary of an older build may lie in their place.
.PHONY: cargo-examples
cargo-examples:
	cargo build --workspace --examples --locked

test-node: build venv browser ## whole nodes on the real model: chat, clients, faults, kills, damage
	@$(MAKE) -s --no-print-directory cargo-examples
	$(pytest) tests

screenshots: build venv browser ## make docs/images again, from the web pages of a real node
	BLYAN_SCREENSHOTS=docs/images $(pytest) tests/e2e/test_tree_page.py

chaos: build venv ## 1,000 panics under load, windows, stuck runs (about three minutes)
	BLYAN_CHAOS=1000 $(pytest) -s tests/e2e/test_faults.py

chaos-import: build venv ## 200 kills of imports, then with failing syncs (about half an hour)
	BLYAN_CHAOS=200 $(pytest) -s tests/e2e/test_import.py

chaos-cancel: build venv ## 1,000 clients that go away while their request waits, reads or answers (about six minutes)
	BLYAN_CHAOS=1000 $(pytest) -s tests/e2e/test_cancel.py

chaos-failover: build venv ## 500 disturbances of running streams, each like undisturbed (about twenty minutes)
	BLYAN_CHAOS=500 $(pytest) -s tests/e2e/test_failover.py

chaos-poison: build venv ## 100 prompts that no step survives, among seven chats each (about five minutes)
	BLYAN_CHAOS=100 $(pytest) -s tests/e2e/test_poison.py

chaos-decisions: build venv ## 100 kills and 100 failing disks under admins' orders, ten segfaults (about twelve minutes)
	BLYAN_CHAOS=100 $(pytest) -s tests/e2e/test_decisions.py

chaos-flips: build venv ## 100 flipped bits of a store, each found before use
	BLYAN_CHAOS=100 $(pytest) -s tests/e2e/test_damage.py

chaos-uploads: build venv ## 200 kills of a node that takes uploads all the time (about six minutes)
	BLYAN_CHAOS=200 $(pytest) -s tests/e2e/test_uploads.py

chaos-adoption: build venv ## 100 kills while the model changes, 80 changes under eight streams (about twelve minutes)
	BLYAN_CHAOS=100 BLYAN_ADOPTIONS=80 $(pytest) -s tests/e2e/test_adoption.py

chaos-chain: setup ## four times 500 kills of appends, uploads, snapshots, restores; every fault at every call of them (about half an hour)
	@$(MAKE) -s --no-print-directory cargo-chaos-chain

.PHONY: cargo-chaos-chain
cargo-chaos-chain:
	BLYAN_CHAOS=500 BLYAN_FAULTS=every cargo test -p blyan-chain --locked --test faults -- --nocapture

chaos-rollback: build venv ## 50 kills of rollbacks, and one of 100,000 blocks and 1 GB under chat, cut twice (about ten minutes)
	@$(MAKE) -s --no-print-directory cargo-examples
	BLYAN_CHAOS=50 BLYAN_GROW_STORE=$(CARGO_TARGET_DIR)/debug/examples/grow_store BLYAN_BLOCKS=100000 BLYAN_BYTES=1000000000 $(pytest) -s tests/e2e/test_rollback.py

chaos-economy: build venv ## 300 kills and 600 panics under chats: every receipt paid once (about twenty minutes)
	BLYAN_CHAOS=300 $(pytest) -s tests/e2e/test_economy.py

chaos-ledger: setup ## 200 kills of a ledger: what was acknowledged is there, once (half a minute)
	BLYAN_KILLS=200 cargo test -p blyan-reward --locked --test kills -- --nocapture

chaos-tiles: setup ## 200 kills of a tile's owner: each delta counted once, the bits of an undisturbed one (half a minute)
	BLYAN_KILLS=200 cargo test -p blyan-tile-owner --locked --test kills -- --nocapture

storm: setup ## the supervision runtime under 10,000 panics and a minute of ten times too many calls
	@$(MAKE) -s --no-print-directory cargo-storm

.PHONY: cargo-storm
cargo-storm:
	BLYAN_PANICS=10000 BLYAN_OVERLOAD_S=60 cargo test -p blyan-supervisors --locked --test storm -- --nocapture

flips: setup ## a million flipped bits of headers, manifests and payloads, each found before use (about ten minutes)
	@$(MAKE) -s --no-print-directory cargo-flips

.PHONY: cargo-flips
cargo-flips:
	BLYAN_FLIPS=1000000 cargo test -p blyan-chain --locked --test chain flips -- --nocapture

fuzz: setup ## random inputs to everything that reads strangers' bytes, 15 minutes a target, one core (ARGS="60 gguf": shorter, one)
	@$(MAKE) -s --no-print-directory cargo-fuzz

# Not built by others: its crates count their edges.
.PHONY: cargo-fuzz
cargo-fuzz:
	fuzz/run.sh $(ARGS)

perplexity: build ## perplexity of the chain's model against the GGUF's fp32, with random and contiguous splits
	$(binary) bench perplexity $(ARGS)

learn: build ## four experts of layer 0 learn one after the other, judged by held-out text (half an hour on two busy cores)
	$(binary) learn --expert layer0.expert3 layer0.expert0 layer0.expert1 layer0.expert2 --text model/data/texts/fit-*.txt \
		--held-out model/data/texts/eval-*.txt --out $(BLYAN_CACHE_DIR)/learned $(ARGS)

oracle: build venv ## reference backend against an independent numpy implementation
	@$(MAKE) -s --no-print-directory cargo-examples
	$(pytest) -s tests/oracle

otp-vectors: ## make the decisions of OTP's supervisors again (needs Debian's erlang-base; a quarter of a minute)
	escript supervisors/tests/otp/otp_vectors.escript > supervisors/tests/otp/vectors.jsonl.new
	mv supervisors/tests/otp/vectors.jsonl.new supervisors/tests/otp/vectors.jsonl

supervisors-long: ## a million trees against the plain model, 800,000 schedules of the handle (about two minutes)
	CORE_TREES=1000000 SCHEDULES=100000 cargo test -p blyan-supervisors --lib --locked -- --nocapture the_core_decides no_reply_is_lost

# Fewer random trees, no syncs to a disk and no kills: a mutant's tests take about a second.
mutate = CORE_TREES=3000 TMPDIR=$(or $(wildcard /dev/shm),/tmp) cargo mutants --timeout $(or $(mutant_s),30) -o $(CARGO_TARGET_DIR)/$@
security := actors/security_orchestrator/src

mutants: mutants-core mutants-rules mutants-audit mutants-formats mutants-chain ## change each decision of the core, the rules and the audit log, and each check of bytes and chain: some test must fail (about two hours)

mutants-core: cargo-mutants
	$(mutate) -p blyan-supervisors -f 'supervisors/src/core/*.rs' -f supervisors/src/policy.rs --cargo-arg=--lib -- -- core:: policy::

mutants-rules: cargo-mutants
	$(mutate) -p blyan-security -f '$(security)/core/*.rs' --cargo-arg=--lib -- -- core::

mutants-audit: cargo-mutants
	$(mutate) -p blyan-security -f '$(security)/audit/*.rs' --cargo-arg=--lib --cargo-arg=--test=audit -- -- --skip core:: --skip kill::

# Of these the mutants that make a check or a step a constant.
constant := with (true|false|Ok\(\(\)\))( |$$)
formats := actors/formats/src
chain := actors/chain/src

mutants-formats: cargo-mutants
	$(mutate) -p blyan-formats -f $(formats)/merkle.rs -f '$(formats)/canonical/*.rs' -F '$(constant)' --cargo-arg=--lib -- -- canonical:: merkle:: block::

mutants-chain: mutant_s = 120
mutants-chain: cargo-mutants
	BLYAN_CHAIN_OPERATIONS=500 $(mutate) -p blyan-chain -f $(chain)/core/draft.rs -f '$(chain)/verify/*.rs' -f '$(chain)/snapshot/*.rs' -f $(chain)/store/leftovers.rs -F '$(constant)' --cargo-arg=--test=chain --cargo-arg=--test=faults -- -- contract:: publish rules:: snapshots store:: verif versions:: a_restore_is_not_undone

.PHONY: cargo-mutants
cargo-mutants:
	@command -v cargo-mutants >/dev/null || { echo "cargo-mutants is missing; install it: cargo install cargo-mutants --locked" >&2; exit 1; }

chain-long: ## 100,000 random blocks, valid and not, against a plain list (some minutes)
	BLYAN_CHAIN_OPERATIONS=100000 cargo test -p blyan-chain --test chain --locked -- --nocapture the_index_agrees

ledger-long: ## a million random transfers beside a plain model (some seconds)
	BLYAN_LEDGER_OPERATIONS=1000000 cargo test -p blyan-reward --test model --locked -- --nocapture

bench-memory: build venv ## what a second replica costs
	$(pytest) -s tests/e2e/test_memory.py

bench-runtime: setup ## asks, tells and restarts beside actix, tokio, ractor and kameo (about two minutes; ARGS=--json for the samples)
	@$(MAKE) -s --no-print-directory cargo-bench-runtime

.PHONY: cargo-bench-runtime
cargo-bench-runtime:
	cargo bench -p blyan-supervisors --profile dev --locked --bench runtime -- $(ARGS)

bench-chain: setup ## the chain's own work beside raw signatures, raw RocksDB and SHA-256 (ARGS=--quick, half a minute, has 10^5 blocks for 10^6)
	@$(MAKE) -s --no-print-directory cargo-bench-chain

.PHONY: cargo-bench-chain
cargo-bench-chain:
	cargo bench -p blyan-chain --profile dev --locked --bench payloads
	cargo bench -p blyan-chain --profile dev --locked --bench chain -- $(ARGS)

bench-ledger: setup ## durable transfers a second beside Postgres, which it does not install (four minutes)
	@$(MAKE) -s --no-print-directory cargo-bench-ledger

.PHONY: cargo-bench-ledger
cargo-bench-ledger:
	@bench=$$(cargo bench -p blyan-reward --profile dev --locked --bench ledger --no-run --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1); \
	test -n "$$bench" || { echo "the bench could not be built: cargo bench -p blyan-reward --profile dev --bench ledger --no-run says why" >&2; exit 1; }; \
	python3 loadtests/ledger/bench.py $$bench $(ARGS)

bench-compression: setup ## compressed deltas of an expert: ratio, speed, and the loss beside uncompressed ones (two to five minutes)
	@$(MAKE) -s --no-print-directory cargo-bench-compression

.PHONY: cargo-bench-compression
cargo-bench-compression:
	cargo bench -p blyan-tile-owner --profile dev --locked --bench compression

load: build ## a chat load over HTTP, SSE and WebSocket against a node that runs on port 8000
	$(CARGO_TARGET_DIR)/debug/blyan-loadtests run loadtests/scenarios/chat.toml $(ARGS)

compare: build ## against llama.cpp, which the first run builds (a part: ARGS="decode --threads 1 --pairs 3")
	python3 loadtests/compare/compare.py $(or $(ARGS),all) --binary $(binary)
