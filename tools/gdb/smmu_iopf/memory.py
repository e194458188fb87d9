"""Reading physical memory, and taking Rust's wrappers off values.

All reads go to physical addresses, which are the kernel's and the model's virtual ones as well: both map memory one to
one. So it does not matter which core GDB has selected, nor at which exception level that one is.
"""

import contextlib
import struct

import gdb


@contextlib.contextmanager
def physical():
    """Has QEMU take the addresses that GDB asks for as physical ones."""
    set_physical(True)
    try:
        yield
    finally:
        # Silent if QEMU is gone: what made it go was reported.
        with contextlib.suppress(gdb.GdbError):
            set_physical(False)


def set_physical(on):
    try:
        reply = gdb.execute(f"maintenance packet Qqemu.PhyMemMode:{int(on)}", to_string=True)
    except gdb.error:
        raise gdb.GdbError("no machine: start it with ./run-qemu.sh gdb") from None
    if '"OK"' not in reply:
        raise gdb.GdbError("the machine at the other end is no QEMU: it cannot show physical memory")


def read(address, size):
    try:
        return bytes(gdb.selected_inferior().read_memory(address, size))
    except gdb.MemoryError:
        raise gdb.GdbError(f"no memory to read at {address:#x}") from None


def read32(address):
    return struct.unpack("<I", read(address, 4))[0]


def words(address, count):
    """`count` 64-bit words."""
    return struct.unpack(f"<{count}Q", read(address, 8 * count))


def static(name):
    """The static `name`, or None if no image that GDB knows has it."""
    for objfile in gdb.objfiles():
        # Which of the two it is depends on how the compiler split the crate.
        symbol = objfile.lookup_global_symbol(name) or objfile.lookup_static_symbol(name)
        if symbol is not None:
            return symbol.value()
    return None


def is_struct(value):
    return value.type.strip_typedefs().code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION)


def peel(value, wanted=None):
    """Takes off wrappers with one field of any size, until a value of the type `wanted`, or a plain one, is left."""
    while is_struct(value) and str(value.type) != str(wanted):
        fields = [field for field in value.type.fields() if field.type.sizeof]
        if len(fields) != 1:
            raise gdb.GdbError(f"{value.type} is not built as expected: other sources than the image's?")
        value = value[fields[0]]
    return value


def number(value):
    """The number in an atomic, a newtype, a cell, or several of them."""
    return int(peel(value))


def arc(value):
    """What an Arc points to."""
    return value["ptr"]["pointer"].dereference()["data"]


def in_lock(value):
    """What is in an IrqLock, whoever holds it."""
    lock = value["__0"]
    return peel(lock["data"], lock.type.template_argument(0))


def once(value):
    """What is in a Once, or None if it has not been made yet."""
    complete = 2
    return peel(value["data"], value.type.template_argument(0)) if number(value["status"]) == complete else None


def some(value):
    """What is in an Option, or None."""
    variant = value[[field for field in value.type.fields() if not field.artificial][0]]
    return variant["__0"] if variant.type.fields() else None


def variant(value):
    """The name of an enum's variant without fields."""
    return str(value).rsplit("::", 1)[-1]


def vec(value):
    """The elements of a Vec."""
    start = peel(value["buf"]["inner"]["ptr"]).cast(value.type.template_argument(0).pointer())
    return [start[index] for index in range(int(value["len"]))]


def boxed(value):
    """The elements of a Box<[T]>."""
    return [value["data_ptr"][index] for index in range(int(value["length"]))]
