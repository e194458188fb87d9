#!/usr/bin/env bash
# Tests the commands of smmu_iopf.py: GDB stops the main job at moments when the state is known, and what each command
# prints is compared with what it has to print there. Time is counted in instructions, so that every run is the same. The
# last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

place=$(mktemp -d) && trap 'rm -rf "$place"' EXIT
output=$place/output
passed=0 failed=0 session=

pass() {
    ((passed += 1))
    printf 'ok    %s: %s\n' "$session" "$*"
}

fail() { # WHAT, with what there was on standard input
    ((failed += 1))
    printf 'FAIL  %s: %s; there was:\n' "$session" "$*"
    sed 's/^/    /'
}

# start NAME LAUNCHER-OPTION...: boots and runs GDB on its commands on standard input. `show COMMAND` among them marks what
# COMMAND prints, its error too.
start() {
    local status
    session=$1
    shift
    {
        cat <<'PYTHON'
python
def show(command):
    gdb.write(f"== {command}\n")
    try:
        gdb.write(gdb.execute(command, to_string=True))
    except gdb.error as error:
        gdb.write(f"error: {error}\n")
    gdb.write("==\n")
end
PYTHON
        sed -E "s/^show (.*)/python show('\1')/"
    } >"$place/commands"
    timeout --kill-after=5 300 ./run-qemu.sh --deterministic "$@" gdb -batch -x "$place/commands" >"$output" 2>&1
    status=$?
    if ((status == 0)); then pass "GDB ends with status 0"; else fail "GDB ended with status $status" <"$output"; fi
    if grep -q Traceback "$output"; then fail "a Python traceback" <"$output"; else pass "no Python traceback"; fi
}

# expect COMMAND[#N] LINE...: the first or the Nth `show COMMAND` printed each LINE, in which ... stands for anything.
# Indentation does not count.
expect() {
    local command=${1%#*} n=1 line printed
    [[ $1 != *#* ]] || n=${1#*#}
    printed=$(awk -v head="== $command" -v n="$n" \
        '/^==/ { on = ($0 == head && ++seen == n); next } on { sub(/^ */, ""); print }' "$output")
    for line in "${@:2}"; do
        if grep -qx -- "$(sed 's/[][\.*^$]/\\&/g; s/\\\.\\\.\\\./.*/g' <<<"$line")" <<<"$printed"; then
            pass "$1: $line"
        else
            fail "$1 did not print: $line" <<<"$printed"
        fi
    done
}

qemu="SMMU at 0x09050000 (QEMU's)"
model="SMMU at 0x0b000000 (the model's, read out of EL2's memory)"

# --- Both SMMUs ----------------------------------------------------------------------------------------------------

start "both SMMUs" <<'COMMANDS'
show smmu regs
show smmu queues
show iopf table
show grace
# The first stall is in the event queue, and nobody has answered it.
tbreak smmu_iopf::iopf::state::FaultState::complete
continue
show smmu regs
show smmu ste 0x100
show smmu ste 256
show smmu ste 0x101
show smmu ste 0x10000
show smmu queues
show iopf table
show iopf groups
show smmu
show smmu rags
show smmu regs 0x100
show smmu ste
show smmu ste edu
show smmu ste -1
show smmu ste 0x100000000
show iopf
show iopf latency
show iopf groups 1
show grace 1
# The second page request of the first group: the first is stored.
tbreak smmu_iopf::iopf::state::FaultState::hold
continue
tbreak smmu_iopf::iopf::state::FaultState::hold
continue
show smmu ste 0x102
show smmu queues
show iopf table
show iopf groups
# Four stalls are held by the handler, and the stream is about to be closed.
tbreak smmu_iopf::kernel::workload::disable::pending_faults
continue
tbreak smmu_iopf::iopf::table::FaultTable::close
continue
show smmu ste 0x100
show iopf table
show iopf groups
show iopf latency
# The stream has ended, and the handler is about to answer the first of them too late.
tbreak smmu_iopf::iopf::group::FaultGroup::respond
continue
show iopf table
show iopf groups
show grace
# A stream has ended, and a core that is parked in a read section keeps its state from being freed.
tbreak smmu_iopf::kernel::workload::disable::parked_reader
continue
tbreak smmu_iopf::iopf::table::FaultTable::close
continue
tbreak smmu_iopf::iopf::table::FaultTable::live
continue
show grace
remove-symbol-file -a 0x7fc00010
show smmu regs
show grace
disconnect
show smmu regs
show grace
COMMANDS

not_up="error: no SMMU is up yet: let the kernel boot, for instance to a breakpoint"
expect "smmu regs" "$not_up"
expect "smmu queues" "$not_up"
expect "iopf table" "$not_up"
expect "grace" "error: the kernel has not booted yet: let it run, for instance to a breakpoint"

expect "smmu regs#2" "$qemu" "$model" \
    "IDR0            0x00000 0x084d769b  S2P=1 (yes)  S1P=1 (yes)  TTF=2 (AArch64)  COHACC=1 (yes)  BTM=0 (no)" \
    "TTENDIAN=2 (little)  STALL_MODEL=0 (stall and terminate)" \
    "TERM_MODEL=0 (abort or RAZ/WI)  ST_LEVEL=1 (linear or 2-level)" \
    "STALL_MODEL=1 (terminate only)  TERM_MODEL=1 (abort)" \
    "IDR1            0x00004 0x054a5210  SIDSIZE=16  SSIDSIZE=8  PRIQS=10  EVENTQS=10  CMDQS=10" \
    "IDR1            0x00004 0x02730010  SIDSIZE=16  SSIDSIZE=0  PRIQS=0  EVENTQS=19  CMDQS=19" \
    "IDR5            0x00014 0x00400075  OAS=5 (48 bits)  GRAN4K=1 (yes)  GRAN16K=1 (yes)  GRAN64K=1 (yes)" \
    "VAX=0 (48 bits)  STALL_MAX=64" \
    "CR0             0x00020 0x0000001f  SMMUEN=1  PRIQEN=1  EVENTQEN=1  CMDQEN=1  ATSCHK=1  VMW=0" \
    "CR0ACK          0x00024 0x0000001f  SMMUEN=1  PRIQEN=1  EVENTQEN=1  CMDQEN=1  ATSCHK=1  VMW=0" \
    "CR0ACK          0x00024 0x0000000d  SMMUEN=1  PRIQEN=0  EVENTQEN=1  CMDQEN=1  ATSCHK=0  VMW=0" \
    "CR1             0x00028 0x00000d75  QUEUE_IC=1 (write-back)  QUEUE_OC=1 (write-back)" \
    "GBPA            0x00044 0x0010...  ABORT=1 (abort while disabled)  UPDATE=0 (complete)" \
    "IRQ_CTRL        0x00050 0x00000007  GERROR=1  PRIQ=1  EVENTQ=1" \
    "STRTAB_BASE_CFG 0x00088 0x00010210  FMT=1 (2-level)  SPLIT=8  LOG2SIZE=16" \
    "EVENTQ_BASE     0x000a0 0x4000000...09  ADDR=0x4...000  LOG2SIZE=9  ALLOCATE=1" \
    "EVENTQ_PROD     0x100a8 0x00000001  WR=1  OVFLG=0" \
    "EVENTQ_CONS     0x100ac 0x00000000  RD=0  OVACKFLG=0" \
    "global errors active: none"

for command in "smmu ste 0x100" "smmu ste 256"; do
    expect "$command" "$qemu" "StreamID 0x100: none, level 1 descriptor 1 covers no such stream (Span=0)" "$model" \
        "STE of StreamID 0x100 at 0x...: V=1 (valid)  Config=5 (stage 1)  EATS=0 (no ATS)" \
        "S1STALLD=0 (contexts may stall)  PPAR=0  MEV=0  STRW=0 (EL1)  SHCFG=1 (as incoming)  S2VMID=0x0" \
        "stage 1: S1ContextPtr=0x...0  S1CDMax=0  S1Fmt=0 (linear)  S1DSS=2 (CD 0 without substream)" \
        "CD of substream 0 at 0x...: V=1 (valid)  AA64=1 (AArch64)  ASID=0x1  ASET=1 (the SMMU's own)" \
        "S=1 (faults stall)  R=1 (recorded)  A=1 (abort)  T0SZ=25  TG0=0 (4 KiB)  EPD0=0 (TTB0 walked)" \
        "TTB0=0x4...000  EPD1=1 (TTB1 not walked)  IPS=5 (48 bits)  IR0=1 (write-back)  OR0=1 (write-back)" \
        "1 of 1 context descriptors are valid"
done
expect "smmu ste 0x101" "STE of StreamID 0x101 at 0x...: V=0 (invalid)  Config=0 (abort, unrecorded)  EATS=0 (no ATS)"
expect "smmu ste 0x10000" "StreamID 0x10000: none, the table has StreamIDs of 16 bits"

expect "smmu queues#2" "$qemu" "EVENTQ, events: 512 entries at 0x4..., empty" \
    "[0] consumed: F_TRANSLATION  StreamID=0x8  Stall=0  RnW=1 (read) ..." \
    "[1] consumed: F_PERMISSION  StreamID=0x8  Stall=0  RnW=0 (write) ..." \
    "PRIQ, page requests: none, this SMMU has no PRI" "$model" \
    "CMDQ, commands: 256 entries at 0x4..., empty" \
    "PROD 8 wrap 0   CONS 8 wrap 0   ERR 0" \
    "[7] consumed: CMD_SYNC  CS=1 (interrupt or MSI)" \
    "[6] consumed: CMD_CFGI_STE  StreamID=0x100  Leaf=1" \
    "EVENTQ, events: 512 entries at 0x4..., 1 to consume" \
    "PROD 1 wrap 0   CONS 0 wrap 0   OVFLG 0 OVACKFLG 0: no overflow" \
    "[0] F_TRANSLATION  StreamID=0x100  Stall=1  STAG=0x40  RnW=1 (read)  PnU=0 (unprivileged)  InD=0 (data)  \
S2=0 (stage 1)  CLASS=2 (input address)  InputAddr=0x4..." \
    "PRIQ, page requests: 512 entries at 0x4..., empty"

# What is answered at once is counted when its batch ends.
expect "iopf table#2" "$qemu" "states: in the table 0, live 0; group slots in use: 0" "$model" \
    "StreamID 0x100: Stall, open, references ...; groups: pending or held 0, partial 0, at most 64" \
    "nothing" "states: in the table 1, live 1; group slots in use: 0"
expect "iopf groups" "no group is stored"

expect "smmu" "error: smmu: incomplete; usage: smmu regs | ste SID | queues"
expect "smmu rags" "error: smmu: no command 'smmu rags'; usage: smmu regs | ste SID | queues"
expect "smmu regs 0x100" "error: usage: smmu regs"
expect "smmu ste" "error: usage: smmu ste SID"
expect "smmu ste edu" "error: smmu ste: 'edu' is no StreamID; it wants a number, such as 0x100"
expect "smmu ste -1" "error: smmu ste: -1 is no StreamID; they have 32 bits"
expect "smmu ste 0x100000000" "error: smmu ste: 0x100000000 is no StreamID; they have 32 bits"
expect "iopf" "error: iopf: incomplete; usage: iopf table | groups | latency | lanes"
expect "iopf latency" "StreamID 0x100: answers measured: 0" "all streams, ended ones too: answers measured: 0"
expect "iopf groups 1" "error: usage: iopf groups"
expect "grace 1" "error: usage: grace"

expect "smmu ste 0x102" "STE of StreamID 0x102 at 0x...: V=1 (valid)  Config=5 (stage 1)  EATS=1 (ATS and PRI)" \
    "S1STALLD=1 (stall disabled)  PPAR=1  MEV=0  STRW=0 (EL1)  SHCFG=1 (as incoming)  S2VMID=0x0" \
    "stage 1: S1ContextPtr=0x...0  S1CDMax=8  S1Fmt=1 (2-level, 4 KiB)  S1DSS=0 (terminate without substream)" \
    "CD of substream 1 at 0x...: V=1 (valid)  AA64=1 (AArch64)  ASID=0x1  ASET=1 (the SMMU's own)" \
    "CD of substream 2 at 0x...: V=1 (valid)  AA64=1 (AArch64)  ASID=0x2  ASET=1 (the SMMU's own)" \
    "2 of 256 context descriptors are valid"
expect "smmu queues#3" "EVENTQ, events: 512 entries at 0x4..., empty" \
    "... page request  StreamID=0x102  SubstreamID=0x1  PRGIndex=0  Last=0  R=1  W=0  X=0  Priv=0  Address=0x..."
expect "iopf table#3" \
    "StreamID 0x102: Page, open, references ...; groups: pending or held 0, partial 1, at most 64"
expect "iopf groups#2" \
    "slot 0: Partial, not held, generation 1, requests 1: StreamID 0x102 substream 0x1 PRGIndex 0x0 read at 0x..."

expect "smmu ste 0x100#2" "STE of StreamID 0x100 at 0x...: V=1 (valid)  Config=0 (abort, unrecorded)  EATS=0 (no ATS)"
expect "iopf table#4" "StreamID 0x100: Stall, open, references ...; groups: pending or held 4, partial 0, at most 64" \
    "Records 4  Groups 4  Deferred 4" "states: in the table 1, live 1; group slots in use: 4"
expect "iopf groups#3" \
    "slot 0: Pending, held, generation 1, requests 1: StreamID 0x100 STAG 0x... write at 0x4...00000" \
    "slot 1: Pending, held, generation 1, requests 1: StreamID 0x100 STAG 0x... write at 0x4...01000" \
    "slot 2: Pending, held, generation 1, requests 1: StreamID 0x100 STAG 0x... write at 0x4...02000" \
    "slot 3: Pending, held, generation 1, requests 1: StreamID 0x100 STAG 0x... write at 0x4...03000"

expect "iopf latency#2" "StreamID 0x100: answers measured: 0" \
    "all streams, ended ones too: answers measured: 4474; by ticks ..."

expect "iopf table#5" "states: in the table 0, live 1; group slots in use: 4"
expect "iopf groups#4" "no group is stored"
expect "grace#2" "core 0: present (presence ...), acknowledged ..." "no period runs" \
    "1 live, 0 pending; ... periods expedited"
expect "grace#3" "core 0: present (presence ...), acknowledged ..." \
    "core ...: present (presence ...), acknowledged ..., 1 behind" \
    "period ... runs: held up by core ..., looked at ... times..." "0 live, 1 pending; ... periods expedited" \
    "0 for the next period, 1 for the one that runs, 0 due"

expect "smmu regs#3" "error: no symbols of the model: add-symbol-file with its image, as ./run-qemu.sh gdb does"
expect "grace#4" "period ... runs: held up by core ..., looked at ... times..."
expect "smmu regs#4" "error: no machine: start it with ./run-qemu.sh gdb"
expect "grace#5" "error: no machine: start it with ./run-qemu.sh gdb"

# --- QEMU's SMMU alone ---------------------------------------------------------------------------------------------

start "QEMU's SMMU alone" --smmu qemu --smp 1 <<'COMMANDS'
tbreak smmu_iopf::kernel::workload::edu::run
continue
show smmu regs
show smmu queues
show iopf table
show grace
file
show smmu regs
show grace
COMMANDS

expect "smmu regs" "$qemu" "CR0ACK          0x00024 0x0000000d  SMMUEN=1  PRIQEN=0  EVENTQEN=1  CMDQEN=1  ATSCHK=0  VMW=0"
expect "smmu queues" "$qemu" "EVENTQ, events: 512 entries at 0x4..., empty" \
    "PROD 0 wrap 0   CONS 0 wrap 0   OVFLG 0 OVACKFLG 0: no overflow"
expect "iopf table" "$qemu" "states: in the table 0, live 0; group slots in use: 0"
expect "grace" "core 0: present (presence 1), acknowledged ..." "no period runs" "0 live, 0 pending; 0 periods expedited"
no_symbols="error: no symbols of the kernel: give GDB its image, as ./run-qemu.sh gdb does"
expect "smmu regs#2" "$no_symbols"
expect "grace#2" "$no_symbols"

# --- Cores that are off, and groups that wait --------------------------------------------------------------------------

start "a test on the target" --smmu qemu --smp 3 \
    --test cores::with_every_other_core_off_the_first_serves_all_by_priority <<'COMMANDS'
show iopf lanes
# Cores 1 and 2 are off, and streams of three priorities have reported faults.
tbreak smmu_iopf::iopf::work::WorkQueues::counts
continue
show iopf lanes
show iopf lanes 1
show grace
# All were served, and both cores are back.
tbreak smmu_iopf::iopf::work::WorkQueues::counts
continue
show iopf lanes
show grace
COMMANDS

expect "iopf lanes" "error: the kernel has not booted yet: let it run, for instance to a breakpoint"
expect "iopf lanes#2" \
    "core 0: up; lanes: 4; groups taken: 0 in 0 turns, 0 of them stolen; lanes handed over: 0" \
    "High: 1, passed over 0 times" \
    "StreamID 0x3: 3 groups" \
    "slot 0: Pending, held, generation 1, requests 1: StreamID 0x3 STAG 0x0 read at 0x3000" \
    "Normal: 2, passed over 0 times" \
    "StreamID 0x2: 1 group" \
    "slot 0: Pending, held, generation 1, requests 1: StreamID 0x2 STAG 0x0 read at 0x2000" \
    "StreamID 0x4: 1 group" \
    "slot 0: Pending, held, generation 1, requests 1: StreamID 0x4 STAG 0x0 read at 0x4000" \
    "Low: 1, passed over 0 times" \
    "StreamID 0x1: 2 groups" \
    "slot 0: Pending, held, generation 1, requests 1: StreamID 0x1 STAG 0x0 read at 0x1000" \
    "core 1: off; lanes: 0; ..." "core 2: off; lanes: 0; ..."
expect "iopf lanes 1" "error: usage: iopf lanes"
expect "grace" "core 0: present (presence ...), acknowledged ..." \
    "core 1: off (presence ...), acknowledged ..." "core 2: off (presence ...), acknowledged ..."
expect "iopf lanes#3" "core 0: up; lanes: 0; groups taken: 7 in 4 turns, 0 of them stolen; lanes handed over: 0" \
    "core 1: at rest; lanes: 0; groups taken: 0 in 0 turns, ..." "core 2: at rest; ..."
expect "grace#2" "core 1: away (idle or offline) (presence ...), acknowledged ..."

printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && passed > 0))
