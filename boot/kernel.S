// The kernel's entry, its secondaries' entry, and its exception vectors. `arch::entry` gives the operands.
//
// Threads run on SP_EL0, exceptions on SP_EL1, each core on stacks of its own: a thread that overruns its stack meets
// the guard page, and the exception that follows has a stack to be reported on.

.set STACK_SIZE, 0x10000
.set GUARD_SIZE, 0x1000

// Attribute 0 is Device-nGnRE, attribute 1 Normal write-back.
.set MAIR, 0xff04
// 39 bits of address, 4 KiB granule, inner shareable write-back walks, TTBR1 off, 40 bits of physical address.
.set TCR, 25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23) | (2 << 32)
// M, C, I, SA, SA0 and the bits that are one where a feature is missing; WXN.
.set SCTLR, 0x30d0199d | (1 << 19)
.set SCTLR_BOOT, 0x30d0199d

.macro adr_of register, symbol
    adrp \register, \symbol
    add \register, \register, :lo12:\symbol
.endm

// Sets SP_EL1 and SP_EL0 to the stacks of core `index`; leaves SPSel at 0.
.macro set_stacks index, scratch, size
    adr_of \scratch, __stacks_start
    ldr \size, =(2 * (GUARD_SIZE + STACK_SIZE))
    madd \scratch, \index, \size, \scratch
    add \scratch, \scratch, #(GUARD_SIZE >> 12), lsl #12
    add \scratch, \scratch, #(STACK_SIZE >> 12), lsl #12
    msr SPSel, #0
    mov sp, \scratch
    add \scratch, \scratch, #(GUARD_SIZE >> 12), lsl #12
    add \scratch, \scratch, #(STACK_SIZE >> 12), lsl #12
    msr SPSel, #1
    mov sp, \scratch
    msr SPSel, #0
.endm

.section .text.boot, "ax"
.global kernel_start
kernel_start:
    msr DAIFSet, #0xf
    mov x19, x0
    mrs x1, CurrentEL
    cmp x1, #(1 << 2)
    b.ne not_el1
    // ID_AA64ISAR0_EL1.Atomic, before the first line of Rust.
    mrs x1, ID_AA64ISAR0_EL1
    ubfx x1, x1, #20, #4
    cmp x1, #2
    b.lo no_lse
    adr_of x1, __bss_start
    adr_of x2, __bss_end
1:  cmp x1, x2
    b.hs 2f
    stp xzr, xzr, [x1], #16
    b 1b
2:  adr_of x0, boot_table
    ldr x1, =SCTLR_BOOT
    bl mmu_on
    set_stacks xzr, x1, x2
    bl set_vectors
    msr TPIDR_EL1, xzr
    mov x29, xzr
    mov x0, x19
    bl {first_core}
    b .

// PSCI brings a secondary here: x0 is its index. The tables are those that the first core made.
.global kernel_secondary_start
kernel_secondary_start:
    msr DAIFSet, #0xf
    mov x19, x0
    adr_of x0, SECONDARY_TABLE
    ldr x0, [x0]
    ldr x1, =SCTLR
    bl mmu_on
    set_stacks x19, x1, x2
    bl set_vectors
    msr TPIDR_EL1, x19
    mov x29, xzr
    mov x0, x19
    bl {other_core}
    b .

// x0: root table, x1: SCTLR_EL1.
mmu_on:
    mov x2, #MAIR
    msr MAIR_EL1, x2
    ldr x2, =TCR
    msr TCR_EL1, x2
    msr TTBR0_EL1, x0
    isb
    tlbi vmalle1
    dsb nsh
    isb
    msr SCTLR_EL1, x1
    isb
    ret

set_vectors:
    adr_of x1, vectors
    msr VBAR_EL1, x1
    isb
    ret

.ltorg

not_el1:
    adr_of x1, not_el1_message
    b refuse
no_lse:
    adr_of x1, no_lse_message
refuse: // SYS_WRITE0, then SYS_EXIT_EXTENDED with status 1
    mov x0, #0x04
    hlt #0xf000
    adr_of x1, refuse_status
    mov x0, #0x20
    hlt #0xf000
    b .

.section .rodata.boot, "a"
not_el1_message: .asciz "smmu-iopf: entered at another exception level than EL1; boot the model's image for EL2\n"
no_lse_message: .asciz "smmu-iopf: this CPU has no LSE atomics (ID_AA64ISAR0_EL1.Atomic); choose another\n"
.balign 8
refuse_status: .quad 0x20026, 1

// Until the first core has made the real tables: 1 GiB of devices, 1 GiB of RAM, one to one.
.balign 4096
boot_table:
    .quad 0x0060000000000401
    .quad 0x0040000040000705
    .fill 510, 8, 0

// The registers of an interrupted thread; the layout is `arch::exception::Frame`.
.set FRAME_SIZE, 272

.macro save_frame
    sub sp, sp, #FRAME_SIZE
    stp x0, x1, [sp, #0]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x19, [sp, #144]
    stp x20, x21, [sp, #160]
    stp x22, x23, [sp, #176]
    stp x24, x25, [sp, #192]
    stp x26, x27, [sp, #208]
    stp x28, x29, [sp, #224]
    mrs x0, ELR_EL1
    mrs x1, SPSR_EL1
    stp x30, x0, [sp, #240]
    str x1, [sp, #256]
.endm

.macro fatal_vector kind
    .balign 128
    save_frame
    mov x0, sp
    mov x1, #\kind
    bl {exception}
    b .
.endm

// An exception while one is handled: whatever stack that was on is not to be trusted.
.macro nested_vector kind
    .balign 128
    msr TPIDR_EL0, x0
    adr_of x0, emergency_stack_top
    mov sp, x0
    mrs x0, TPIDR_EL0
    b nested_\kind
.endm

.section .text.vectors, "ax"
.balign 2048
vectors:
    // From a thread (SP_EL0).
    fatal_vector 0
    .balign 128
    b interrupt
    fatal_vector 2
    fatal_vector 3
    // From an exception handler (SP_EL1).
    nested_vector 4
    nested_vector 5
    nested_vector 6
    nested_vector 7
    // From EL0: there is nothing there.
    fatal_vector 8
    fatal_vector 9
    fatal_vector 10
    fatal_vector 11
    fatal_vector 12
    fatal_vector 13
    fatal_vector 14
    fatal_vector 15

.macro nested kind
nested_\kind:
    save_frame
    mov x0, sp
    mov x1, #\kind
    bl {exception}
    b .
.endm
    nested 4
    nested 5
    nested 6
    nested 7

// Interrupts do not nest, so only what a call may change is saved.
interrupt:
    sub sp, sp, #176
    stp x0, x1, [sp, #0]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    str x18, [sp, #144]
    stp x29, x30, [sp, #160]
    add x29, sp, #160
    bl {interrupt}
    ldp x29, x30, [sp, #160]
    ldr x18, [sp, #144]
    ldp x16, x17, [sp, #128]
    ldp x14, x15, [sp, #112]
    ldp x12, x13, [sp, #96]
    ldp x10, x11, [sp, #80]
    ldp x8, x9, [sp, #64]
    ldp x6, x7, [sp, #48]
    ldp x4, x5, [sp, #32]
    ldp x2, x3, [sp, #16]
    ldp x0, x1, [sp, #0]
    add sp, sp, #176
    eret

.section .bss.emergency_stack, "aw", @nobits
.balign 16
    .space 0x4000
emergency_stack_top:
