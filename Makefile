SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo build test test-peer lint bench fuzz clean packages

# An ordinary user's PATH often lacks the folder of iptables and nft.
export PATH := $(PATH):/usr/sbin:/sbin

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 30s
# Which fuzz targets, as a regular expression of their names.
FUZZ ?= .
# The race detector needs cgo, which is off where no C compiler is.
RACE := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## Show kube-dns at work in a private network; needs no root (ARGS="--proxy-mode iptables")
	bin/svcproxy demo $(ARGS)

build: ## Build bin/svcproxy, a static program
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/svcproxy

# The first run builds etcd and kube-apiserver, which takes minutes: -v shows that it goes on. The
# kernel and the built programs are inputs that Go's cache of results does not know: -count=1.
test: export SVCPROXY_TEST_LONG := 1
test: packages ## Run all tests; installs the Debian packages that they use where this user may
	@[ -n "$(RACE)" ] || echo "no C compiler: testing without the race detector"
	go vet ./...
	go test $(RACE) -count=1 -timeout 15m -v ./test/controlplane
	go test $(RACE) -count=1 -timeout 15m $$(go list ./... | grep -vE '/test/(controlplane|peer|coredns)$$')

# The first run builds kube-proxy and CoreDNS too.
test-peer: export SVCPROXY_TEST_LONG := 1
test-peer: packages ## Compare svcproxy with the real kube-proxy, packet by packet; run the real CoreDNS behind it
	go test -count=1 -timeout 15m -v ./test/peer
	go test -count=1 -timeout 15m -v ./test/coredns

packages:
	@.ci/packages

lint: ## Check formatting, and the code by go vet and staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { printf 'not formatted by gofmt:\n%s\n' "$$unformatted"; exit 1; }
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...

bench: ## Measure 10,000 Services with 10 endpoints each, from memory to kernel
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./test/bench/...

# Making an input smaller that is merely new would take most of the time: -fuzzminimizetime.
fuzz: ## Fuzz each target, or those that FUZZ matches, for FUZZTIME (30s)
	@grep -rEo --include='*_test.go' '^func Fuzz\w+' . | grep -E '$(FUZZ)' | sort | while IFS=: read -r file target; do \
		go test -run '^$$' -fuzz "^$${target#func }$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$(dirname "$$file")"; \
	done

clean: ## Remove what was built
	rm -rf bin .cache
