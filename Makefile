# SPDX-License-Identifier: Apache-2.0
# The vocabulary; CMake presets do the building (CMakePresets.json), tests/run the testing.
.PHONY: all stage demo test test-long check bench bench-pages fmt fuzz deps assets clean
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

# The page server alone, natively: no KVM is needed. ARGS="--only TEXT --rounds N --strict".
bench-pages: deps stage
	tests/bench/pages/run $(ARGS)

fuzz: deps
	tests/run fuzz

fmt:
	git ls-files '*.c' '*.h' ':!tests/bench/pages/baseline.c' | xargs clang-format-14 -i

clean:
	-tests/kvmhost/kvmhost down
	rm -rf build
