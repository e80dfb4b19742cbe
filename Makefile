# The only door: what is done to skfs is done with one of these.

GO       ?= go
FUZZTIME ?= 20s
# The race detector needs a C compiler. Where there is none the tests run without.
RACE     := $(shell command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo -race)

.PHONY: all build test lint race fuzz posix crash e2e e2e-long bench demo clean

all: build

# bin/skfs, and bin/safekit: the same program under the name that scripts use.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/skfs ./cli/skfs
	ln -sf skfs bin/safekit

# Everything that must hold before a change is kept. Two packages at a time:
# those of e2e are a small cluster each.
test: lint race

# gofmt, vet, staticcheck, the import graph.
lint:
	$(GO) test ./internal/lint

race:
	@test -n "$(RACE)" || echo "make: no C compiler: testing without the race detector"
	$(GO) test $(RACE) -p 2 -timeout 40m $$($(GO) list ./... | grep -v /internal/lint)

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

# Two hosts in namespaces of this machine; needs root.
e2e:
	$(GO) test -count=1 -timeout 20m ./e2e/...

e2e-long:
	E2E_LONG=1 $(GO) test -count=1 -v -timeout 300m ./e2e/...

# Figures and ratios, kept in docs/performance.md. Needs root; uses fio and
# PostgreSQL where they are installed.
bench:
	$(GO) run ./bench

# A real job on two hosts, with one of them killed in the middle. Needs root.
demo: build
	./bin/skfs demo

clean:
	rm -rf bin
