#!/usr/bin/env bash
# The fuzz targets on the inputs that are kept, once each. `tools/fuzz.sh SECONDS` goes on from there with new inputs, for so long
# each, in a copy of the corpus: fuzz/target/corpus. The last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../fuzz" || exit 2
command -v c++ >/dev/null || ../run-qemu.sh setup || exit 2
seconds=${1:-0}
[[ $seconds =~ ^[0-9]{1,6}$ ]] || { echo "tools/fuzz.sh takes seconds, not '$seconds'" >&2; exit 2; }

passed=0 failed=0
cargo build --locked --release || { echo "0 passed, 1 failed"; exit 1; }
for target in registers command_queue tables; do
    corpus=corpus/$target how=(-runs=0)
    if ((seconds > 0)); then
        mkdir -p target/corpus && cp -r "$corpus" target/corpus && corpus=target/$corpus how=("-max_total_time=$seconds")
    fi
    if cargo run --locked --quiet --release --bin "$target" -- -len_control=0 -max_len=1024 -timeout=60 "${how[@]}" "$corpus"; then
        ((passed += 1))
    else
        echo "FAILED  $target"
        ((failed += 1))
    fi
done
echo "$passed passed, $failed failed"
((failed == 0))
