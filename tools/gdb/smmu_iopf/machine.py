"""Where everything begins: the statics of the kernel and of the model."""

import gdb

from . import memory, registers

#: The device that EL2 emulates. EL1's view of it is a hole, and QEMU has nothing there: its registers are EL2's memory.
MODEL = 0x0B00_0000


class Smmu:
    """One SMMU that the driver has up."""

    def __init__(self, driver):
        self.driver = driver
        hardware = memory.arc(driver["hardware"])
        self.base = memory.number(hardware["registers"]["__0"]["base"])
        self.is_model = self.base == MODEL

    def __str__(self):
        where = "the model's, read out of EL2's memory" if self.is_model else "QEMU's"
        return f"SMMU at {self.base:#010x} ({where})"

    def read(self, name):
        """The value of a register."""
        register = registers.BY_NAME[name]
        if self.is_model:
            value = model_registers()
            for field in register.model:
                value = value[field]
            return int(value)
        # 32 bits at a time: QEMU loses 64-bit accesses to most registers.
        words = [memory.read32(self.base + register.offset + 4 * n) for n in range(register.bits // 32)]
        return sum(word << 32 * n for n, word in enumerate(words))

    def field(self, register, name):
        """The value of a field of a register."""
        return registers.BY_NAME[register].field(name).get(self.read(register))


def smmus():
    """Every SMMU that the driver has up."""
    devices = memory.static("smmu_iopf::kernel::devices::DEVICES")
    if devices is None:
        raise gdb.GdbError("no symbols of the kernel: give GDB its image, as ./run-qemu.sh gdb does")
    devices = memory.peel(devices)
    if int(devices) == 0:
        raise gdb.GdbError("no SMMU is up yet: let the kernel boot, for instance to a breakpoint")
    return [Smmu(memory.arc(unit["smmu"])) for unit in memory.vec(devices.dereference()["smmus"])]


def kernel():
    """The kernel's structure."""
    static = memory.static("smmu_iopf::kernel::runtime::KERNEL")
    if static is None:
        raise gdb.GdbError("no symbols of the kernel: give GDB its image, as ./run-qemu.sh gdb does")
    booted = memory.once(static)
    if booted is None:
        raise gdb.GdbError("the kernel has not booted yet: let it run, for instance to a breakpoint")
    return booted


def cores():
    """Every core of the kernel, and whether it is on: (core, on). It is off from when it leaves until it is back."""
    states = kernel()["power"]["__0"]
    return [(core, memory.number(states[core]) != 0) for core in range(memory.number(kernel()["cores"]))]


def model_registers():
    """The model's register file."""
    machine = memory.static("smmu_iopf::model::el2::firmware::MACHINE")
    if machine is None:
        raise gdb.GdbError("no symbols of the model: add-symbol-file with its image, as ./run-qemu.sh gdb does")
    return machine["data"]["value"]["smmu"]["registers"]
