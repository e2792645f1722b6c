# One line a verb: each calls `cargo xtask`, whose --help tells more. ARGS are passed on, e.g.
#   make run ARGS="--smp 4 --kernel linux"

CARGO := $(shell command -v cargo 2>/dev/null || echo /usr/bin/cargo)
XTASK := $(CARGO) xtask
ARGS  ?=

.PHONY: run test bench conform build image check doc gdb setup clean

run: setup          # boot Debian from a disk that keeps what one changes, to a shell
	@$(XTASK) run $(ARGS)
test: setup         # everything that must pass
	@$(XTASK) test $(ARGS)
bench: setup        # speed beside Linux 7.2
	@$(XTASK) bench $(ARGS)
conform: setup      # Linux's self-tests on Keel and on Linux
	@$(XTASK) conform $(ARGS)
build: setup        # the kernel
	@$(XTASK) build $(ARGS)
image: setup        # the guest's roots
	@$(XTASK) image $(ARGS)
check: setup        # format, lints, layers, unsafe, stack: all but tests
	@$(XTASK) check $(ARGS)
gdb: setup          # the kernel under gdb
	@$(XTASK) gdb $(ARGS)
doc: setup          # the documentation
	@$(XTASK) doc $(ARGS)
setup: | $(CARGO)   # what is missing on this machine
	@$(XTASK) setup
clean:              # what was built
	@$(XTASK) clean $(ARGS)

# Only where there is no cargo at all: Debian's, with what links its first program.
/usr/bin/cargo:
	@if ! command -v apt-get >/dev/null; then echo "cargo is missing: install Rust 1.96 or later (https://rustup.rs)"; exit 1; fi
	@if [ "$$(id -u)" != 0 ]; then echo "cargo is missing. Type:"; \
	  echo "  sudo apt-get install --no-install-recommends cargo-web rustc-web rust-web-src gcc libc6-dev ca-certificates"; exit 1; fi
	apt-get -q update
	DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends cargo-web rustc-web rust-web-src gcc libc6-dev ca-certificates
