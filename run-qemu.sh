#!/usr/bin/env bash
# Launcher, test command, debug server and cargo runner. `run-qemu.sh --help` says how.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
self=$root/run-qemu.sh
target=aarch64-unknown-none-softfloat
oldest_qemu=7.2

usage() {
    cat <<'USAGE'
Usage: run-qemu.sh [OPTION...] [COMMAND]

Commands:
  (none)            set up, build, boot, run the main job; exits 0 if all checks held
  test [FILTER]     set up, run every test (or those on the target whose name contains FILTER)
  gdb [GDB-OPTION...]
                    boot the main job (or --test) halted and attach GDB with the project's commands
  setup             only install what is missing, or say how
  ELF [ARGUMENT...] boot this kernel image with these arguments: how cargo runs bare-metal binaries

Options:
  --smp N           1 to 8 cores (4)
  --engines N       1 to 64 DMA engines behind the modelled SMMU (4)
  --smmu WHICH      qemu: QEMU's SMMU only, no EL2, and four edu devices; model: the modelled one only; both (both)
  --profile NAME    which SMMU the model is: full, terminate-only, forced-stall, no-pri, no-ats, linear-only,
                    non-coherent, small, big, qemu-7.2 or qemu-10 (full)
  --no-its          no ITS: the modelled SMMU's messages reach memory only. Implies --smmu model, as edu wants an ITS
  --device NAME     one more of QEMU's PCI devices, behind QEMU's SMMU
  --lenient         the model does not stop at the first rule of the SMMUv3 that the driver breaks (docs/strict.md)
  --deterministic   count instructions instead of time: two runs with one seed are the same. No disks and no
                    virtio-rng, which QEMU serves in its own time
  --seed S          seed of the main job (1)
  --test NAME       gdb: this test on the target instead of the main job
  --timeout S       seconds until a run counts as hung (120)
  --qemu PATH       this QEMU
  --help            this text

RUN_QEMU_FLAGS holds options for when cargo is the caller.
USAGE
}

die() {
    printf 'run-qemu.sh: %s\n' "$*" >&2
    exit 2
}

is_between() { # VALUE LOW HIGH
    [[ $1 =~ ^[0-9]{1,9}$ ]] && ((10#$1 >= $2 && 10#$1 <= $3))
}

smp=4 engines= smmu=both profile= device= test= strict=true its=true deterministic=false seed=1 timeout=120 qemu=qemu-system-aarch64

read -ra from_environment <<<"${RUN_QEMU_FLAGS:-}"
set -- "${from_environment[@]}" "$@"
while [[ ${1:-} == -* ]]; do
    case $1 in
    --smp | --engines | --smmu | --profile | --seed | --test | --timeout | --qemu | --device) (($# > 1)) || die "option $1 wants a value" ;;
    esac
    case $1 in
    --smp) is_between "$2" 1 8 || die "--smp takes 1 to 8, not '$2'"; smp=$2; shift ;;
    --engines) is_between "$2" 1 64 || die "--engines takes 1 to 64, not '$2'"; engines=$((10#$2)); shift ;;
    --smmu) [[ $2 =~ ^(qemu|model|both)$ ]] || die "--smmu takes qemu, model or both, not '$2'"; smmu=$2; shift ;;
    --profile)
        [[ $2 =~ ^(full|terminate-only|forced-stall|no-pri|no-ats|linear-only|non-coherent|small|big|qemu-7\.2|qemu-10)$ ]] ||
            die "--profile takes the name of a profile (--help lists them), not '$2'"
        profile=$2
        shift
        ;;
    --seed) is_between "$2" 0 999999999 || die "--seed takes 0 to 999999999, not '$2'"; seed=$2; shift ;;
    --timeout) is_between "$2" 1 86400 || die "--timeout takes 1 to 86400 seconds, not '$2'"; timeout=$2; shift ;;
    --test) test=$2; shift ;;
    --qemu) qemu=$2; shift ;;
    --no-its) its=false ;;
    --device) [[ $2 =~ ^[a-z0-9-]+$ ]] || die "--device takes the name of a device, not '$2'"; device=$2; shift ;;
    --lenient) strict=false ;;
    --deterministic) deterministic=true ;;
    --help | -h) usage; exit 0 ;;
    *) die "unknown option '$1' (--help lists them)" ;;
    esac
    shift
done

[[ -z $test || ${1:-} == gdb ]] || die "--test is for gdb (\`test FILTER\` runs tests)"
$its || [[ $smmu != qemu ]] || die "--no-its is about the modelled SMMU, which --smmu qemu leaves out"
$its || smmu=model

# The main job's arguments. The hash over records and answers is kept only where it can be the same again.
main_job=("seed=$seed" "smmu=$smmu")
$deterministic && main_job+=(trace)

# For what a run leaves behind.
place=$(mktemp -d) || die "no temporary directory"
trap 'rm -rf "$place"' EXIT
log=$place/log

# --- Set-up --------------------------------------------------------------------------------------------------------

# install WHAT COMMAND...: installs WHAT by COMMAND where that may be done without asking, else says how.
install() {
    local what=$1
    shift
    ((EUID == 0)) || [[ ${CI:-} == true ]] || die "$what is missing; install it with: $*"
    printf 'run-qemu.sh: installing %s: %s\n' "$what" "$*" >&2
    "$@" >&2 || die "$what could not be installed by: $*"
}

install_package() { # WHAT PACKAGE...
    local what=$1
    shift
    local -a apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q)
    ((EUID == 0)) || apt=(sudo apt-get -q)
    ((EUID == 0)) || [[ ${CI:-} == true ]] || die "$what is missing; install it with: sudo apt-get install $*"
    "${apt[@]}" update >&2 || die "the package lists could not be updated by: ${apt[*]} update"
    install "$what" "${apt[@]}" install -y --no-install-recommends "$@"
}

qemu_is_new_enough() {
    local version
    version=$("$qemu" --version 2>/dev/null | sed -n '1s/.*version \([0-9][0-9.]*\).*/\1/p')
    [[ -n $version && $(printf '%s\n' "$oldest_qemu" "$version" | sort -V | head -n 1) == "$oldest_qemu" ]]
}

gdb_for_aarch64() {
    local gdb
    for gdb in gdb-multiarch aarch64-linux-gnu-gdb gdb; do
        "$gdb" -nx -batch -ex 'set architecture aarch64' 2>&1 | grep 'set to "aarch64"' >/dev/null && echo "$gdb" && return
    done
    return 1
}

setup_rust() {
    command -v cargo >/dev/null || die "cargo is missing; install Rust by rustup: https://rustup.rs"
    command -v cc >/dev/null || install_package "a linker for the host" gcc libc6-dev
    # rust-toolchain.toml names the version; a target of another directory's toolchain would not do.
    cd "$root" || exit 2
    [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] || install "the Rust target $target" rustup target add "$target"
}

setup_qemu() {
    qemu_is_new_enough && return
    [[ $qemu == qemu-system-aarch64 ]] || die "'$qemu' is no QEMU for aarch64 of version $oldest_qemu or newer"
    install_package "QEMU" qemu-system-arm
    qemu_is_new_enough || die "the installed QEMU is older than $oldest_qemu; give a newer one with --qemu PATH"
}

setup_gdb() {
    gdb_for_aarch64 >/dev/null || install_package "a GDB that knows aarch64" gdb-multiarch
}

setup_spin() {
    command -v spin >/dev/null || install_package "the model checker Spin" spin
}

setup_fuzz() {
    command -v c++ >/dev/null || install_package "a C++ compiler, for libFuzzer" g++
}

# --- Build and boot ------------------------------------------------------------------------------------------------

build() { # CARGO-ARGUMENT...
    (cd "$root" && cargo build --quiet --locked --release --target "$target" "$@") || die "the build failed"
}

image() { # NAME
    echo "$(cd "$root" && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$target/release/$1"
}

# compose KERNEL-ELF ARGUMENT...: puts the command that boots it into `command`.
compose() {
    local elf=$1 machine=virt,gic-version=3 arguments=arg=smmu-iopf argument
    shift
    for argument in "$@"; do arguments+=,arg=${argument//,/,,}; done
    # For the model's image, which has the kernel's command line.
    arguments+=${profile:+,arg=profile=$profile}${engines:+,arg=engines=$engines}
    ! $strict || [[ $smmu == qemu ]] || arguments+=,arg=strict
    [[ $smmu == model ]] || machine+=,iommu=smmuv3
    local -a images=(-kernel "$elf") devices=(${device:+-device "$device"})
    # As many as the tests want engines, where there is no model with its own.
    local edu edus=1
    [[ $smmu != qemu ]] || edus=4
    if $its; then
        for ((edu = 0; edu < edus; edu++)); do devices+=(-device edu,dma_mask=0xffffffffffffffff); done
    else
        machine+=,its=off
    fi
    # New disks for each boot: several may run at a time.
    if [[ $smmu != model ]] && ! $deterministic; then
        local disk
        for disk in disk nvme; do
            rm -f "$place/$disk" && truncate -s 16M "$place/$disk" || die "no disk image in $place"
            devices+=(-drive "if=none,id=$disk,format=raw,file=${place//,/,,}/$disk")
        done
        devices+=(-device nvme,drive=nvme,serial=smmu-iopf
            -device virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on
            -device virtio-rng-pci,disable-legacy=on,iommu_platform=on)
    fi
    if [[ $smmu != qemu ]]; then
        machine+=,virtualization=on
        images=(-kernel "$(image smmu-model)" -device "loader,file=${elf//,/,,}")
    fi
    command=("$qemu" -machine "$machine" -cpu neoverse-n1 -smp "$smp" -m 1G "${images[@]}"
        -nic none -display none -monitor none -serial stdio -no-reboot
        "${devices[@]}" -semihosting-config "enable=on,target=native,$arguments")
    ! $deterministic || command+=(-icount shift=4,sleep=off)
}

# boot KERNEL-ELF ARGUMENT...: QEMU's exit status is the kernel's, 124 after a hang.
boot() {
    local status
    local -a command
    compose "$@"
    timeout --foreground --kill-after=5 "$timeout" "${command[@]}" </dev/null
    status=$?
    if ((status == 124 || status == 137)); then
        printf 'run-qemu.sh: hung: no end after %s s (--timeout)\n' "$timeout" >&2
        return 124
    fi
    return $status
}

build_for_boot() {
    build --bin smmu-iopf
    [[ $smmu == qemu ]] || build --bin smmu-model
}

# --- Commands ------------------------------------------------------------------------------------------------------

run_main_job() {
    setup_rust
    setup_qemu
    build_for_boot
    boot "$(image smmu-iopf)" "${main_job[@]}"
}

passed=0 failed=0 left_out=0

not_run() { # [REASON]
    printf 'not run with --smmu %s%s\n' "$smmu" "${1:+: $1}"
    ((left_out += 1))
}

# The tests of driver:: in a log that did not run, each with a tab and the reason: what the machine lacks, or which one they want. Where
# there are both SMMUs only the latter is a reason.
reasons() {
    awk -v smmu="$smmu" '
        /^not / { lack = $0; sub(/^not [^:]*: /, "", lack) }
        /^test driver::.* \.\.\. ignored, / {
            name = $2; sub(/.* ignored, /, "")
            if (/^it wants/ || smmu != "both") print name "\t" (lack == "" ? $0 : lack)
        }
        /^test |^on / { lack = "" }'
}

# host_tests COMMAND...: runs a host test suite and counts what it says it ran.
host_tests() {
    local status p f
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r p f < <(sed -nE 's/^test result: [^ ]+ ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p
                             s/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$log" |
        awk '{p += $1; f += $2} END {print p + 0, f + 0}')
    # A suite that failed without saying which test did, by not building for instance, is one failure.
    ((status == 0 || f > 0)) || f=1
    ((passed += p, failed += f))
}

# The kernel image with the tests, built; nothing if it can't be.
test_image() {
    (cd "$root" && cargo test --locked --release --target "$target" --test target --no-run --message-format=json) |
        sed -n '/"kind":\["test"\]/s/.*"executable":"\([^"]*\)".*/\1/p'
}

# One boot a test: a test that panics, faults or hangs fails by its name, and the rest go on. Those of driver:: begin with a reset of the
# SMMU, so one boot does for all unless it ends early; they have one core, with which the model goes on when it is looked at. With
# --smmu qemu they run on QEMU's SMMU, as far as it has what they need.
target_tests() { # FILTER
    local elf names name cores reason together= lacking=
    elf=$(test_image)
    if [[ -z $elf ]] || ! names=$(boot "$elf" --list --format terse); then
        printf 'test target ... FAILED (no list of tests)\n'
        ((failed += 1))
        return
    fi
    if ! grep -q ': test' <<<"$names"; then
        printf 'test target ... FAILED (the list of tests is empty)\n'
        ((failed += 1))
    fi
    if [[ -z $1 || $1 == driver::* ]] && smp=1 timeout=600 boot "$elf" "${1:-driver::}" >"$log" 2>&1; then
        together=$(sed -nE 's/^test (driver::.*) \.\.\. ok\r?$/\1/p' "$log")
        lacking=$(sed 's/\r$//' "$log" | reasons)
    fi
    while read -r name; do
        printf 'test target::%s ... ' "$name"
        [[ $name == driver::* ]] && cores=1 || cores=$smp
        if grep -qxF -- "$name" <<<"$together"; then
            printf 'ok\n'
            ((passed += 1))
        elif reason=$(grep -F -- "$name"$'\t' <<<"$lacking"); then
            not_run "${reason#*$'\t'}"
        elif ! smp=$cores boot "$elf" --exact "$name" >"$log" 2>&1; then
            printf 'FAILED\n'
            sed 's/^/    /' "$log"
            ((failed += 1))
        elif ! grep -q "^test $name \.\.\. ignored" "$log"; then
            printf 'ok\n'
            ((passed += 1))
        elif [[ $smmu == both ]] && ! grep -q "^test $name \.\.\. ignored, it wants" "$log"; then
            printf 'FAILED (the machine lacks what it ought to have)\n'
            ((failed += 1))
        else
            not_run
        fi
    done < <(sed -n 's/: test\r\?$//p' <<<"$names" | grep -F -- "$1")
}

run_tests() {
    setup_rust
    setup_qemu
    build_for_boot
    if [[ -z ${1:-} ]]; then
        host_tests cargo test --locked --no-fail-fast
        host_tests tools/loom.sh
    fi
    target_tests "${1:-}"
    ((left_out == 0)) || printf '\n%d not run with --smmu %s\n' "$left_out" "$smmu"
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    ((failed == 0 && passed > 0))
}

run_gdb() { # GDB-OPTION...
    local gdb elf
    local -a command symbols=() arguments=("${main_job[@]}")
    setup_rust
    setup_qemu
    setup_gdb
    gdb=$(gdb_for_aarch64) || die "no GDB that knows aarch64"
    build_for_boot
    elf=$(image smmu-iopf)
    if [[ -n $test ]]; then
        elf=$(test_image)
        [[ -n $elf ]] || die "the build failed"
        arguments=(--exact "$test")
    fi
    compose "$elf" "${arguments[@]}"
    # A session of its own: an interrupt from the terminal is for GDB.
    setsid "${command[@]}" -S -gdb "unix:${place//,/,,}/gdb,server=on,wait=off" </dev/null &
    machine=$!
    trap 'kill "$machine" 2>/dev/null; rm -rf "$place"' EXIT
    until [[ -S $place/gdb ]]; do
        kill -0 "$machine" 2>/dev/null || die "QEMU ended before GDB could attach"
        sleep 0.05
    done
    [[ $smmu == qemu ]] || symbols=(-ex "with confirm off -- add-symbol-file '$(image smmu-model)'")
    "$gdb" -q -nx "$elf" "${symbols[@]}" -x "$root/tools/gdb/smmu_iopf.py" \
        -ex "target remote $place/gdb" "$@"
}

case ${1:-} in
'') run_main_job ;;
test) run_tests "${2:-}" ;;
gdb) shift; run_gdb "$@" ;;
setup) setup_rust; setup_qemu; setup_gdb; setup_spin; setup_fuzz ;;
*)
    [[ -f $1 ]] || die "unknown command '$1' (--help lists them)"
    # A list of tests goes to a program: the EL2 image, which introduces itself, has no part in it.
    [[ " ${*:2} " != *" --list "* ]] || smmu=qemu
    [[ $smmu == qemu ]] || build --bin smmu-model
    boot "$@"
    ;;
esac
