"""The registers (6.3 of the SMMUv3 specification), as src/smmuv3/registers has them."""

from . import fields
from .fields import IC_OC, SH, Field, address

NO_YES = ("no", "yes")

CR0 = (
    Field("SMMUEN", 0),
    Field("PRIQEN", 1),
    Field("EVENTQEN", 2),
    Field("CMDQEN", 3),
    Field("ATSCHK", 4),
    Field("VMW", 8, 6),
)
IRQ_CTRL = (Field("GERROR", 0), Field("PRIQ", 1), Field("EVENTQ", 2))
GERROR = (
    Field("CMDQ_ERR", 0),
    Field("EVENTQ_ABT_ERR", 2),
    Field("PRIQ_ABT_ERR", 3),
    Field("MSI_CMDQ_ABT_ERR", 4),
    Field("MSI_EVENTQ_ABT_ERR", 5),
    Field("MSI_PRIQ_ABT_ERR", 6),
    Field("MSI_GERROR_ABT_ERR", 7),
    Field("SFM_ERR", 8),
)
IRQ_CFG0 = (address("ADDR", 55, 2),)
IRQ_CFG1 = (Field("DATA", 31, 0),)
IRQ_CFG2 = (Field("MEMATTR", 3, 0), Field("SH", 5, 4, SH))
QUEUE_BASE = (address("ADDR", 55, 5), Field("LOG2SIZE", 4, 0), Field("ALLOCATE", 62))
PROD = (Field("WR", 19, 0, decimal=True), Field("OVFLG", 31))
CONS = (Field("RD", 19, 0, decimal=True), Field("OVACKFLG", 31))
COMMAND_ERROR = ("none", "illegal command", "abort of the fetch", "ATC invalidation timed out")


class Register:
    """One register. `model` is where the model keeps it."""

    def __init__(self, name, offset, bits, layout, *model):
        self.name, self.offset, self.bits, self.fields, self.model = name, offset, bits, layout, model

    def field(self, name):
        return fields.by_name(self.fields, name)

    def lines(self, value):
        head = f"{self.name:15} {self.offset:#07x} {value:#0{self.bits // 4 + 2}x}  "
        return fields.tell(self.fields, value, head, 27)


ALL = (
    Register("IDR0", 0x00, 32, (
        Field("S2P", 0, words=NO_YES),
        Field("S1P", 1, words=NO_YES),
        Field("TTF", 3, 2, ("reserved", "AArch32", "AArch64", "AArch32 and AArch64")),
        Field("COHACC", 4, words=NO_YES),
        Field("BTM", 5, words=NO_YES),
        Field("HTTU", 7, 6, ("none", "Access flag", "Access flag and dirty state", "tables too")),
        Field("HYP", 9, words=NO_YES),
        Field("ATS", 10, words=NO_YES),
        Field("NS1ATS", 11, words=("split-stage ATS", "no split-stage ATS")),
        Field("ASID16", 12, words=("8 bits", "16 bits")),
        Field("MSI", 13, words=NO_YES),
        Field("SEV", 14, words=NO_YES),
        Field("ATOS", 15, words=NO_YES),
        Field("PRI", 16, words=NO_YES),
        Field("VMW", 17, words=NO_YES),
        Field("VMID16", 18, words=("8 bits", "16 bits")),
        Field("CD2L", 19, words=NO_YES),
        Field("VATOS", 20, words=NO_YES),
        Field("TTENDIAN", 22, 21, ("mixed", "reserved", "little", "big")),
        Field("STALL_MODEL", 25, 24, ("stall and terminate", "terminate only", "stall only")),
        Field("TERM_MODEL", 26, words=("abort or RAZ/WI", "abort")),
        Field("ST_LEVEL", 28, 27, ("linear", "linear or 2-level")),
    ), "ids", "idr0"),
    Register("IDR1", 0x04, 32, (
        Field("SIDSIZE", 5, 0),
        Field("SSIDSIZE", 10, 6),
        Field("PRIQS", 15, 11),
        Field("EVENTQS", 20, 16),
        Field("CMDQS", 25, 21),
        Field("ATTR_PERMS_OVR", 26, words=NO_YES),
        Field("ATTR_TYPES_OVR", 27, words=NO_YES),
        Field("REL", 28),
        Field("QUEUES_PRESET", 29, words=NO_YES),
        Field("TABLES_PRESET", 30, words=NO_YES),
        Field("ECMDQ", 31, words=NO_YES),
    ), "ids", "idr1"),
    Register("IDR3", 0x0C, 32, (
        Field("HAD", 2, words=NO_YES),
        Field("PBHA", 3, words=NO_YES),
        Field("XNX", 4, words=NO_YES),
        Field("PPS", 5, words=("PASID as STE.PPAR says", "always with PASID")),
        Field("MPAM", 7, words=NO_YES),
        Field("FWB", 8, words=NO_YES),
        Field("STT", 9, words=NO_YES),
        Field("RIL", 10, words=NO_YES),
        Field("BBML", 12, 11, ("level 0", "level 1", "level 2")),
    ), "ids", "idr3"),
    Register("IDR5", 0x14, 32, (
        Field("OAS", 2, 0, fields.ADDRESS_SIZE),
        Field("GRAN4K", 4, words=NO_YES),
        Field("GRAN16K", 5, words=NO_YES),
        Field("GRAN64K", 6, words=NO_YES),
        Field("VAX", 11, 10, ("48 bits", "52 bits", "56 bits")),
        Field("STALL_MAX", 31, 16, decimal=True),
    ), "ids", "idr5"),
    Register("IIDR", 0x18, 32, (
        Field("Implementer", 11, 0),
        Field("Revision", 15, 12),
        Field("Variant", 19, 16),
        Field("ProductID", 31, 20),
    ), "ids", "iidr"),
    Register("AIDR", 0x1C, 32, (Field("ArchMinorRev", 3, 0), Field("ArchMajorRev", 7, 4)), "ids", "aidr"),
    Register("CR0", 0x20, 32, CR0, "cr0"),
    Register("CR0ACK", 0x24, 32, CR0, "cr0ack"),
    Register("CR1", 0x28, 32, (
        Field("QUEUE_IC", 1, 0, IC_OC),
        Field("QUEUE_OC", 3, 2, IC_OC),
        Field("QUEUE_SH", 5, 4, SH),
        Field("TABLE_IC", 7, 6, IC_OC),
        Field("TABLE_OC", 9, 8, IC_OC),
        Field("TABLE_SH", 11, 10, SH),
    ), "cr1"),
    Register("CR2", 0x2C, 32, (Field("E2H", 0), Field("RECINVSID", 1), Field("PTM", 2), Field("REC_CFG_ATS", 3)), "cr2"),
    Register("GBPA", 0x44, 32, (
        Field("ABORT", 20, words=("bypass while disabled", "abort while disabled")),
        Field("UPDATE", 31, words=("complete", "under way")),
    ), "gbpa_written"),
    Register("IRQ_CTRL", 0x50, 32, IRQ_CTRL, "irq_ctrl"),
    Register("IRQ_CTRLACK", 0x54, 32, IRQ_CTRL, "irq_ctrlack"),
    Register("GERROR", 0x60, 32, GERROR, "gerror"),
    Register("GERRORN", 0x64, 32, GERROR, "gerrorn"),
    Register("GERROR_IRQ_CFG0", 0x68, 64, IRQ_CFG0, "gerror_msi", "address"),
    Register("GERROR_IRQ_CFG1", 0x70, 32, IRQ_CFG1, "gerror_msi", "data"),
    Register("GERROR_IRQ_CFG2", 0x74, 32, IRQ_CFG2, "gerror_msi", "attributes"),
    Register("STRTAB_BASE", 0x80, 64, (address("ADDR", 55, 6), Field("RA", 62)), "strtab_base"),
    Register("STRTAB_BASE_CFG", 0x88, 32, (
        Field("FMT", 17, 16, ("linear", "2-level")),
        Field("SPLIT", 10, 6),
        Field("LOG2SIZE", 5, 0),
    ), "strtab_base_cfg"),
    Register("CMDQ_BASE", 0x90, 64, QUEUE_BASE, "commands", "base"),
    Register("CMDQ_PROD", 0x98, 32, PROD[:1], "commands", "prod"),
    Register("CMDQ_CONS", 0x9C, 32, (Field("RD", 19, 0, decimal=True), Field("ERR", 30, 24, COMMAND_ERROR)), "commands", "cons"),
    Register("EVENTQ_BASE", 0xA0, 64, QUEUE_BASE, "events", "base"),
    Register("EVENTQ_IRQ_CFG0", 0xB0, 64, IRQ_CFG0, "event_msi", "address"),
    Register("EVENTQ_IRQ_CFG1", 0xB8, 32, IRQ_CFG1, "event_msi", "data"),
    Register("EVENTQ_IRQ_CFG2", 0xBC, 32, IRQ_CFG2, "event_msi", "attributes"),
    Register("PRIQ_BASE", 0xC0, 64, QUEUE_BASE, "page_requests", "base"),
    Register("PRIQ_IRQ_CFG0", 0xD0, 64, IRQ_CFG0, "page_request_msi", "address"),
    Register("PRIQ_IRQ_CFG1", 0xD8, 32, IRQ_CFG1, "page_request_msi", "data"),
    Register("PRIQ_IRQ_CFG2", 0xDC, 32, (*IRQ_CFG2, Field("LO", 31, words=("when it becomes non-empty", "on each Last"))), "page_request_msi", "attributes"),
    Register("EVENTQ_PROD", 0x100A8, 32, PROD, "events", "prod"),
    Register("EVENTQ_CONS", 0x100AC, 32, CONS, "events", "cons"),
    Register("PRIQ_PROD", 0x100C8, 32, PROD, "page_requests", "prod"),
    Register("PRIQ_CONS", 0x100CC, 32, CONS, "page_requests", "cons"),
)

BY_NAME = {register.name: register for register in ALL}


def lines(smmu):
    """Every register of `smmu`, and what follows from two of them together."""
    values = {register.name: smmu.read(register.name) for register in ALL}
    for register in ALL:
        yield from register.lines(values[register.name])
    for name in ("CR0", "IRQ_CTRL"):
        if values[name] != values[name + "ACK"]:
            yield f"{name}: an update is under way"
    active = values["GERROR"] ^ values["GERRORN"]
    names = [field.name for field in GERROR if field.get(active)]
    yield "global errors active: " + (", ".join(names) or "none")
