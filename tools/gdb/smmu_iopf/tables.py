"""Stream table entries and context descriptors (5.2, 5.4), found as the SMMU finds them: from its registers."""

import gdb

from . import fields, memory
from .fields import IC_OC, SH, Field, address

ENTRY_BYTES = 64
#: The values of STE.Config, with what reads on from there: stage 1 in bit 0, stage 2 in bit 1.
CONFIG = ("abort, unrecorded",) + ("reserved",) * 3 + ("bypass", "stage 1", "stage 2", "stages 1 and 2")

STE = (
    Field("V", 0, words=("invalid", "valid")),
    Field("Config", 3, 1, CONFIG),
    Field("EATS", 29, 28, ("no ATS", "ATS and PRI", "split-stage ATS", "reserved"), word=1),
    Field("S1STALLD", 27, words=("contexts may stall", "stall disabled"), word=1),
    Field("PPAR", 18, word=1),
    Field("MEV", 19, word=1),
    Field("STRW", 31, 30, ("EL1", "reserved", "EL2", "reserved"), word=1),
    Field("SHCFG", 45, 44, ("non-shareable", "as incoming", "outer shareable", "inner shareable"), word=1),
    Field("S2VMID", 15, 0, word=2),
)
STAGE1 = (
    address("S1ContextPtr", 51, 6),
    Field("S1CDMax", 63, 59),
    Field("S1Fmt", 5, 4, ("linear", "2-level, 4 KiB", "2-level, 64 KiB")),
    Field("S1DSS", 1, 0, ("terminate without substream", "bypass without substream", "CD 0 without substream"), word=1),
    Field("S1CIR", 3, 2, IC_OC, word=1),
    Field("S1COR", 5, 4, IC_OC, word=1),
    Field("S1CSH", 7, 6, SH, word=1),
)
STAGE2 = (
    address("S2TTB", 51, 4, word=3),
    Field("S2T0SZ", 37, 32, word=2),
    Field("S2SL0", 39, 38, word=2),
    Field("S2TG", 47, 46, fields.GRANULE, word=2),
    Field("S2PS", 50, 48, fields.ADDRESS_SIZE, word=2),
    Field("S2AA64", 51, word=2),
    Field("S2S", 57, words=("terminate", "stall"), word=2),
    Field("S2R", 58, words=("unrecorded", "recorded"), word=2),
)
CD = (
    Field("V", 31, words=("invalid", "valid")),
    Field("AA64", 41, words=("AArch32", "AArch64")),
    Field("ASID", 63, 48),
    Field("ASET", 47, words=("shared with the cores", "the SMMU's own")),
    Field("S", 44, words=("faults terminate", "faults stall")),
    Field("R", 45, words=("unrecorded", "recorded")),
    Field("A", 46, words=("RAZ/WI", "abort")),
    Field("T0SZ", 5, 0),
    Field("TG0", 7, 6, fields.GRANULE),
    Field("EPD0", 14, words=("TTB0 walked", "TTB0 not walked")),
    address("TTB0", 51, 4, word=1),
    Field("EPD1", 30, words=("TTB1 walked", "TTB1 not walked")),
    Field("IPS", 34, 32, fields.ADDRESS_SIZE),
    Field("IR0", 9, 8, IC_OC),
    Field("OR0", 11, 10, IC_OC),
    Field("SH0", 13, 12, SH),
    Field("TBI0", 38),
    Field("AFFD", 35),
    Field("HA", 43),
    Field("HD", 42),
    Field("MAIR0", 31, 0, word=3),
    Field("MAIR1", 63, 32, word=3),
)


def stream_id(text):
    """A StreamID from a command line."""
    try:
        value = int(text, 0)
    except ValueError:
        raise gdb.GdbError(f"smmu ste: '{text}' is no StreamID; it wants a number, such as 0x100") from None
    if not 0 <= value < 1 << 32:
        raise gdb.GdbError(f"smmu ste: {text} is no StreamID; they have 32 bits")
    return value


def stream_lines(smmu, stream):
    """The entry of a stream in the table of `smmu`, and what it leads to."""
    bits = smmu.field("STRTAB_BASE_CFG", "LOG2SIZE")
    if stream >> bits:
        yield f"StreamID {stream:#x}: none, the table has StreamIDs of {bits} bits"
        return
    entry = smmu.field("STRTAB_BASE", "ADDR")
    if smmu.field("STRTAB_BASE_CFG", "FMT") == 1:
        split = smmu.field("STRTAB_BASE_CFG", "SPLIT")
        upper, stream_low = stream >> split, stream & (1 << split) - 1
        descriptor, = memory.words(entry + 8 * upper, 1)
        span = descriptor & 0x1F
        if span == 0 or stream_low >> span - 1:
            yield f"StreamID {stream:#x}: none, level 1 descriptor {upper} covers no such stream (Span={span})"
            return
        entry = (descriptor & 0xF_FFFF_FFFF_FFC0) + ENTRY_BYTES * stream_low
    else:
        entry += ENTRY_BYTES * stream
    ste = memory.words(entry, 8)
    head = f"STE of StreamID {stream:#x} at {entry:#x}: "
    yield from fields.tell(STE, ste, head, 4)
    config = fields.by_name(STE, "Config").get(ste)
    if not fields.by_name(STE, "V").get(ste) or config < 4:
        return
    if config & 2:
        yield from fields.tell(STAGE2, ste, "stage 2: ", 4)
    if config & 1:
        yield from fields.tell(STAGE1, ste, "stage 1: ", 4)
        yield from context_lines(ste, config)


def context_lines(ste, config):
    """The valid contexts that the stream has, and how many more there is room for."""
    if config & 2:
        yield "  contexts: not shown, they lie behind stage 2"
        return
    count = 1 << fields.by_name(STAGE1, "S1CDMax").get(ste)
    valid = 0
    for substream, at in context_addresses(ste):
        cd = memory.words(at, 8)
        if fields.by_name(CD, "V").get(cd):
            valid += 1
            yield from fields.tell(CD, cd, f"  CD of substream {substream} at {at:#x}: ", 4)
    yield f"  {valid} of {count} context descriptors are valid"


def context_addresses(ste):
    """Each substream for which there is a context descriptor, and where that is (5.2 S1Fmt, 5.3)."""
    table, bits, layout = (fields.by_name(STAGE1, name).get(ste) for name in ("S1ContextPtr", "S1CDMax", "S1Fmt"))
    # Without substreams S1Fmt is ignored.
    split = {1: 6, 2: 10}.get(layout) if bits else None
    if split is None:
        for substream in range(1 << bits):
            yield substream, table + ENTRY_BYTES * substream
        return
    for upper, descriptor in enumerate(memory.words(table, 1 << max(bits - split, 0))):
        if descriptor & 1:
            for lower in range(1 << min(bits, split)):
                yield upper << split | lower, (descriptor & 0xF_FFFF_FFFF_F000) + ENTRY_BYTES * lower
