// Entry, vectors and stage-1 tables of the model's EL2 firmware. src/bin/smmu-model.rs gives the operands.

    .equ TABLE,      3                                          // descriptor of a table or of a page
    .equ BLOCK,      1
    .equ NORMAL,     (1 << 10) | (3 << 8) | (1 << 6) | (1 << 2) // AF, inner shareable, RES1, MAIR_EL2 attribute 1
    .equ DEVICE,     (1 << 10) | (1 << 6)                       // AF, RES1, MAIR_EL2 attribute 0
    .equ READ_ONLY,  1 << 7
    .equ NO_EXECUTE, 1 << 54
    .equ KIB4,       1 << 12
    .equ MIB2,       1 << 21
    .equ GIB,        1 << 30

// Core 0, started by QEMU.
    .section .text.model_start, "ax"
    .global model_start
model_start:
    mov     x19, #0
    ldr     x20, ={start}
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.eq    enter

    mov     w0, #0x04                       // SYS_WRITE0
    adr     x1, 1f
    hlt     #0xf000
    mov     w0, #0x20                       // SYS_EXIT_EXTENDED
    adr     x1, 2f
    hlt     #0xf000
0:  wfe
    b       0b
1:  .asciz  "smmu-model: not entered at EL2; QEMU needs -M virt,virtualization=on\n"
    .balign 8
2:  .quad   0x20026, 1

// Any other core, started by PSCI CPU_ON: x0 is its index.
    .global model_start_secondary
model_start_secondary:
    mov     x19, x0
    ldr     x20, ={start_secondary}

// x19: the core's index. x20: the function that prepares the core, and returns where to enter EL1 and with what in x0.
enter:
    ldr     x0, =vectors
    msr     vbar_el2, x0
    ldr     x0, =0xff04                     // attribute 0: Device-nGnRE; 1: Normal, write-back
    msr     mair_el2, x0
    ldr     x0, =0x80823519                 // T0SZ 25, write-back, inner shareable, 4 KiB, 40 bits, RES1
    msr     tcr_el2, x0
    ldr     x0, =stage1_level1
    msr     ttbr0_el2, x0
    msr     hcr_el2, xzr
    isb
    tlbi    alle2
    dsb     nsh
    isb
    ldr     x0, =0x30cd183d                 // MMU, caches, stack alignment, WXN, RES1
    msr     sctlr_el2, x0
    isb

    ldr     x0, ={STACKS} + {STACK_SIZE}
    mov     x1, #{STACK_SIZE}
    madd    x0, x19, x1, x0
    mov     sp, x0
    cbnz    x19, 1f
    ldr     x0, =model_bss_start
    ldr     x1, =model_bss_end
0:  cmp     x0, x1
    b.hs    1f
    stp     xzr, xzr, [x0], #16
    b       0b
1:  mov     x0, x19
    blr     x20
    msr     elr_el2, x0
    mov     x0, x1
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    eret
    .ltorg

// Only a synchronous exception from EL1 is expected. Anything else is an error in this firmware.
    .macro  fatal_vector number
    .balign 0x80
    mov     x1, sp
    ldr     x2, ={STACKS} + {STACK_SIZE} * ({CORES} + 1)
    mov     sp, x2
    mov     x0, #\number
    b       {fatal}
    .endm

    .section .text.vectors, "ax"
    .balign 0x800
vectors:
    fatal_vector 0
    fatal_vector 1
    fatal_vector 2
    fatal_vector 3
    fatal_vector 4
    fatal_vector 5
    fatal_vector 6
    fatal_vector 7
    .balign 0x80
    b       lower_synchronous
    fatal_vector 9
    fatal_vector 10
    fatal_vector 11
    fatal_vector 12
    fatal_vector 13
    fatal_vector 14
    fatal_vector 15

// EL1's registers x0 to x30 form an array on the stack. The code below is built without floating point.
lower_synchronous:
    sub     sp, sp, #256
    stp     x0, x1, [sp, #16 * 0]
    stp     x2, x3, [sp, #16 * 1]
    stp     x4, x5, [sp, #16 * 2]
    stp     x6, x7, [sp, #16 * 3]
    stp     x8, x9, [sp, #16 * 4]
    stp     x10, x11, [sp, #16 * 5]
    stp     x12, x13, [sp, #16 * 6]
    stp     x14, x15, [sp, #16 * 7]
    stp     x16, x17, [sp, #16 * 8]
    stp     x18, x19, [sp, #16 * 9]
    stp     x20, x21, [sp, #16 * 10]
    stp     x22, x23, [sp, #16 * 11]
    stp     x24, x25, [sp, #16 * 12]
    stp     x26, x27, [sp, #16 * 13]
    stp     x28, x29, [sp, #16 * 14]
    str     x30, [sp, #16 * 15]
    mov     x0, sp
    bl      {trap}
    ldp     x0, x1, [sp, #16 * 0]
    ldp     x2, x3, [sp, #16 * 1]
    ldp     x4, x5, [sp, #16 * 2]
    ldp     x6, x7, [sp, #16 * 3]
    ldp     x8, x9, [sp, #16 * 4]
    ldp     x10, x11, [sp, #16 * 5]
    ldp     x12, x13, [sp, #16 * 6]
    ldp     x14, x15, [sp, #16 * 7]
    ldp     x16, x17, [sp, #16 * 8]
    ldp     x18, x19, [sp, #16 * 9]
    ldp     x20, x21, [sp, #16 * 10]
    ldp     x22, x23, [sp, #16 * 11]
    ldp     x24, x25, [sp, #16 * 12]
    ldp     x26, x27, [sp, #16 * 13]
    ldp     x28, x29, [sp, #16 * 14]
    ldr     x30, [sp, #16 * 15]
    add     sp, sp, #256
    eret
    .ltorg

// EL2's own translation, the same for all cores and never changed: virtual is physical. The first GiB is devices. From
// there to 256 GiB lies whatever memory the board has; software keeps to the ranges that the device tree names.
    .section .data.tables, "aw"
    .balign 4096
stage1_level1:
    .quad   0 * GIB + DEVICE + NO_EXECUTE + BLOCK
    .quad   stage1_level2 + TABLE
    .set    index, 2
    .rept   254
    .quad   index * GIB + NORMAL + NO_EXECUTE + BLOCK
    .set    index, index + 1
    .endr
    .fill   256, 8, 0

// The second GiB, at whose end this image lies: first its text, then what it writes.
stage1_level2:
    .set    index, 0
    .rept   510
    .quad   GIB + index * MIB2 + NORMAL + NO_EXECUTE + BLOCK
    .set    index, index + 1
    .endr
    .quad   {IMAGE} + NORMAL + READ_ONLY + BLOCK
    .quad   stage1_level3 + TABLE

// The first page of each stack's room is its guard.
stage1_level3:
    .set    address, {IMAGE} + MIB2
    .rept   512
    .if     (address >= {STACKS}) && ((address - {STACKS}) % {STACK_SIZE} == 0)
    .quad   0
    .else
    .quad   address + NORMAL + NO_EXECUTE + TABLE
    .endif
    .set    address, address + KIB4
    .endr
