# The only door: what is done to skfs is done with one of these.

GO       ?= go
FUZZTIME ?= 20s
# The race detector needs a C compiler. Where there is none the tests run without.
RACE     := $(shell command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo -race)

.PHONY: all build test lint race explore fuzz posix crash e2e e2e-long availability bench demo clean

all: build

# bin/skfs, and bin/safekit: the same program under the name that scripts use.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/skfs ./cli/skfs
	ln -sf skfs bin/safekit

# Everything that must hold before a change is kept. What follows a part that fails
# runs all the same, and the whole fails.
test:
	$(MAKE) -k lint race explore e2e

# gofmt, vet, staticcheck, the import graph.
lint:
	$(GO) test ./internal/lint

# A test that fails is run once more and named in the summary: a machine that stood
# still for seconds is told apart from a fault that repeats. More than two that fail
# are a fault, and so is a data race.
GOTESTSUM := $(GO) tool gotestsum --rerun-fails=1 --rerun-fails-max-failures=2

race:
	@test -n "$(RACE)" || echo "make: no C compiler: testing without the race detector"
	$(GOTESTSUM) --format standard-quiet --rerun-fails-abort-on-data-race \
		--packages "$$($(GO) list ./... | grep -v -e /internal/lint -e /e2e$$ | tr '\n' ' ')" \
		-- $(RACE) -p 2 -timeout 10m

# What can become of two nodes (docs/automaton.md): more than a million states, and
# automata with one thing wrong each, which have to be noticed. Without the race
# detector, which is for goroutines: these have none, and it takes ten times as long.
explore:
	SKFS_EXPLORE=1 SKFS_HA_WALKS=60 $(GO) test -count=1 -timeout 10m -run 'Explore|Mutants|Walks' ./ha

# Every fuzz target for FUZZTIME.
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

# The suites that ask whether the mount behaves as POSIX says.
posix:
	E2E_LONG=1 $(GO) test -count=1 -v -timeout 60m -run 'Posix|Exercise' ./e2e

# Kills, cut links and power cuts under load, the full number of rounds.
crash:
	E2E_LONG=1 $(GO) test -count=1 -v -timeout 180m -run 'Crash|Chaos|Kill|PowerOff|PowerCut|Postgres' ./e2e

# Hosts in namespaces of this machine; needs root. They run beside nothing else, since
# each test is a small cluster with timeouts that the machine has to keep.
e2e:
	$(GOTESTSUM) --format testname --packages ./e2e -- $(RACE) -count=1 -timeout 30m

e2e-long:
	E2E_LONG=1 $(GO) test -count=1 -v -timeout 300m ./e2e/...

# What docs/availability.md tells: daemons killed, false alarms, mixed faults, and
# keepalived (apt) under the same faults. E2E_MINUTES, E2E_ROUNDS and E2E_FAULTS shorten it.
availability:
	E2E_LONG=1 $(GO) test -count=1 -v -timeout 300m -run 'DaemonKilled|FalseAlarms|MixedFaults|BesideKeepalived' ./e2e

# Figures and ratios, kept in docs/performance.md. Needs root; uses fio and
# PostgreSQL where they are installed.
bench:
	$(GO) run ./bench

# A real job on two hosts, with one of them killed in the middle. Needs root.
demo: build
	./bin/skfs demo

clean:
	rm -rf bin
