# Every target with a ## comment shows in `make help`. The work is in scripts/; here are the names for it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
COMPOSE := docker compose -f docker/compose.yaml
FOR ?= 20s
TOPICS ?= catalog-events catalog-events-dlq order-events order-events-dlq

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try

.PHONY: demo
demo: ## See it work in one command: real PostgreSQL, stand-in Kafka (FOR=20s)
	@scripts/install-deps.sh demo
	cargo build --release --locked
	$(TARGET)/release/outbox-relay demo --for $(FOR)

.PHONY: up
up: ## Start PostgreSQL and Kafka for development, without Docker
	@scripts/install-deps.sh test
	@scripts/dev-parts.sh up

.PHONY: down
down: ## Stop them; the data stays in target/dev
	@scripts/dev-parts.sh down

.PHONY: migrate
migrate: build ## Create or update the schema
	scripts/relay.sh migrate up

.PHONY: run
run: build ## Run the relay against the parts that `make up` started
	scripts/relay.sh run

.PHONY: topics-create
topics-create: ## Create the topics (TOPICS="name[:partitions] ...")
	@[[ ! -f $(TARGET)/dev/env ]] || . $(TARGET)/dev/env; \
	  scripts/kafka-topics.sh "$${KAFKA_BOOTSTRAP_SERVERS:?run make up, or set KAFKA_BOOTSTRAP_SERVERS}" $(TOPICS)

.PHONY: health-check
health-check: build ## Check PostgreSQL, schema, Kafka and topics
	@scripts/health-check.sh

.PHONY: monitor-lag
monitor-lag: build ## Show the consumer's lag (LAG_THRESHOLD=1000)
	@scripts/consumer-lag-monitor.sh

##@ Develop

.PHONY: build
build: ## Build the release binary
	@scripts/install-deps.sh build
	cargo build --release --locked

.PHONY: bench
bench: bench-check bench-build ## Relay, polling loop, Debezium and two ceilings drain a backlog in turns (ROWS=1000000 PAYLOAD=300 ROUNDS=3)
	@scripts/bench.sh drain

.PHONY: bench-scenarios
bench-scenarios: bench-check bench-build ## Latency, idle cost, instances, keys, … (SCENARIO="payload latency idle instances keys horizon growing fold")
	@scripts/bench.sh $(SCENARIOS)

# Of bench-scenarios; what is misspelt is told before anything is built.
SCENARIOS = $(or $(SCENARIO),payload latency idle instances keys horizon growing fold)
.PHONY: bench-check
bench-check:
	@scripts/bench.sh --check $(SCENARIOS)

.PHONY: bench-report
bench-report: ## Write the last figures and the chart into docs/
	@$(TARGET)/release/outbox-bench report --results $(TARGET)/bench/results.jsonl --document docs/performance.md --chart docs/performance.svg

.PHONY: bench-build
bench-build: build
	@scripts/install-deps.sh test
	cargo build --release --locked --features bench --bin outbox-bench

.PHONY: bench-pairs
bench-pairs: bench-build ## This build against another one in alternating pairs (OTHER=path/to/outbox-relay ROWS=400000 PAIRS=7)
	@scripts/install-deps.sh test
	@scripts/bench-pairs.sh $(or $(OTHER),$(error OTHER=path of the other build))

.PHONY: bench-relay
bench-relay: build ## Quick: drain a backlog three times in each delivery mode; rate, CPU, memory (ROWS=600000 POISON=0)
	@scripts/install-deps.sh test
	@scripts/bench-drain.sh

.PHONY: bench-cleanup
bench-cleanup: build ## Delete a million rows; a writer's latency with and without the cleaner (ROWS=1000000)
	@scripts/install-deps.sh test
	@scripts/bench-cleanup.sh

.PHONY: bench-replay
bench-replay: build ## Replay a million published events; rate and memory (ROWS=1000000)
	@scripts/install-deps.sh test
	@scripts/bench-replay.sh

.PHONY: bench-convert
bench-convert: build ## Convert a million rows to partitions; the longest insert meanwhile (ROWS=1000000)
	@scripts/install-deps.sh test
	@scripts/bench-convert.sh

.PHONY: test
# One build: with the feature the program differs by switches that do nothing unless FAILPOINTS says so. Most tests wait
# for servers: with one thread for each of two cores, more than half of both was idle.
test: ## Run all tests against a real PostgreSQL and a real Kafka
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --features failpoints --no-run
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-3} scripts/with-parts.sh cargo test --locked --features failpoints

# Without those that look into rows for what only marked rows say.
.PHONY: test-watermark
test-watermark: ## The tests of the promises once more, with relay.tracking = "watermark"
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	TRACKING=watermark scripts/with-parts.sh cargo test --locked --test it -- crash:: exactly_once:: failover:: failures:: ordering:: replay:: resharding:: shutdown:: takeover:: \
	  --skip rows_that_vanish --skip settled_with_their_place --skip recover_marks

.PHONY: chaos
chaos: ## Faults against every promise (SEED=1 MINUTES=5 MODE=both KILLS=100 BROKERS=3 TRACKING=mixed HOSTILE=1 REMAKE=1)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test chaos -- --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5) --mode $(or $(MODE),both) $(if $(KILLS),--kills $(KILLS)) $(if $(RATE),--rate $(RATE)) $(if $(BROKERS),--brokers $(BROKERS)) $(if $(TRACKING),--tracking $(TRACKING)) $(if $(HOSTILE),--hostile) $(if $(REMAKE),--remake)

.PHONY: hostile
hostile: ## Rows, topics and databases of strangers against every promise (SEED=1 MINUTES=60)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test it --no-run
	HOSTILE_SEED=$(or $(SEED),1) HOSTILE_SECONDS=$$(( $(or $(MINUTES),60) * 60 )) scripts/with-parts.sh cargo test --locked --test it -- hostile:: --nocapture

.PHONY: hostile-commands
hostile-commands: ## Every command line in every format, among odd rows, broken streams and signals (SEED=1)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test it --no-run
	COMMANDS_ALL=1 $(if $(SEED),COMMANDS_SEED=$(SEED)) scripts/with-parts.sh cargo test --locked --test it -- every_command:: --nocapture

.PHONY: hostile-faults
hostile-faults: ## Known mistakes switched back on, one at a time: does the judge find them? (SECONDS=120 SEED=1)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	SECONDS_PER_FAULT=$(or $(SECONDS),120) SEED=$(or $(SEED),1) scripts/hostile-faults.sh

.PHONY: hostile-load
hostile-load: ## A hundred keys with bad rows among a thousand: rate and delay of the others (ROWS_PER_KEY=100 BINARY=target/release/outbox-relay ONLY=exactly-once/watermark)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test it --no-run
	HOSTILE_ROWS=$(or $(ROWS_PER_KEY),100) $(if $(ONLY),HOSTILE_ONLY=$(ONLY)) $(if $(BINARY),OUTBOX_TEST_BINARY=$(abspath $(BINARY))) scripts/with-parts.sh cargo test --locked --test it -- hostile::a_hundred --ignored --nocapture

.PHONY: hostile-records
hostile-records: ## Records of strangers, and what else happens to the consumer (SEED=1 MINUTES=30)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test it --no-run
	HOSTILE_SEED=$(or $(SEED),1) HOSTILE_SECONDS=$$(( $(or $(MINUTES),30) * 60 )) scripts/with-parts.sh cargo test --locked --test it -- hostile_records:: --nocapture

.PHONY: hostile-records-load
hostile-records-load: ## 100,000 records under members that flap; freshness beside records of strangers (SEED=1 RECORDS=100000 MINUTES=2)
	@scripts/install-deps.sh test
	@scripts/kafka.sh fetch >/dev/null
	cargo test --locked --test it --no-run
	HOSTILE_SEED=$(or $(SEED),1) HOSTILE_RECORDS=$(or $(RECORDS),100000) HOSTILE_SECONDS=$$(( $(or $(MINUTES),2) * 60 )) \
	  scripts/with-parts.sh cargo test --locked --test it -- hostile_records:: --ignored --nocapture --test-threads 1

.PHONY: check
check: ## Formatting, lints and documentation, as CI does
	cargo fmt --check
	@$(MAKE) --no-print-directory lint docs

.PHONY: hooks
hooks: ## Let git check formatting, the rules of the tree and commit subjects before each commit
	git config core.hooksPath .githooks

.PHONY: fmt
fmt: ## Format the code
	cargo fmt

.PHONY: lint
lint: ## Clippy, warnings are errors
	cargo clippy --all-targets --locked --features bench -- -D warnings

.PHONY: docs
docs: ## Build the API documentation, warnings are errors
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --locked

.PHONY: deny
deny: ## Licences, advisories and sources of the dependencies (needs cargo-deny)
	cargo deny --locked check

.PHONY: clean
clean: ## Stop the development parts and remove all build output and data
	@[[ ! -d $(TARGET)/dev ]] || scripts/dev-parts.sh remove
	cargo clean

##@ Docker

.PHONY: docker-build
docker-build: ## Build the image
	$(COMPOSE) build relay

.PHONY: docker-up
docker-up: ## Start PostgreSQL, Kafka, Kafka UI (http://localhost:9099) and the relay in containers
	$(COMPOSE) up --build --detach --wait

.PHONY: docker-down
docker-down: ## Stop the containers and remove their data
	$(COMPOSE) down --volumes
