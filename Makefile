# SPDX-License-Identifier: Apache-2.0
# The vocabulary; CMake presets do the building (CMakePresets.json), tests/run the testing.
.PHONY: all stage install demo test test-long check bench bench-net bench-pages fmt docs cov fuzz deps assets clean
.DELETE_ON_ERROR:

all: stage

deps:
	tests/deps

# What is installed, in build/stage: bin/fcvm runs from there.
stage:
	@[ -f build/release/build.ninja ] || cmake --preset release > build-release.log || { cat build-release.log; exit 1; }
	@rm -f build-release.log
	cmake --build build/release -j 2
	cmake --install build/release > /dev/null

PREFIX ?= /usr/local
install: deps stage
	cmake --install build/release --prefix "$(PREFIX)" > /dev/null

# Firecracker, kernel, root file system and the tests' images, in build/.
assets: stage
	tests/assets

demo: deps stage assets
	tests/demo

test: deps
	tests/run

test-long: deps
	tests/run long

check:
	tests/check/run

bench: deps stage assets
	tests/bench/run

# A VM's network, natively, against ip and nft. ARGS="--rounds N".
bench-net: deps stage
	tests/bench/net/run $(ARGS)

# The page server alone, natively: no KVM is needed. ARGS="--only TEXT --rounds N --strict".
bench-pages: deps stage
	tests/bench/pages/run $(ARGS)

fuzz: deps
	tests/run fuzz

# The manual page, build/stage/share/man/man1/fcvm.1; the rest of docs/ is read as it is.
docs: deps stage
	tests/check/run documented
	man -l build/stage/share/man/man1/fcvm.1 > /dev/null

# What of the C code the tests without a guest run: build/cov/summary.
cov: deps
	tests/cov

fmt:
	git ls-files '*.c' '*.h' ':!tests/bench/pages/baseline.c' | xargs clang-format-14 -i

clean:
	-tests/kvmhost/kvmhost down
	rm -rf build
