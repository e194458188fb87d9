"""Commands, event records and page requests in words (4.1, 7.3, 8.2)."""

from .fields import Field, address, by_name

SID = Field("StreamID", 63, 32)
SSID = Field("SubstreamID", 31, 12)
STAG = Field("STAG", 15, 0, word=1)
ADDRESS = address("Address", 63, 12, word=1)
VMID, ASID = Field("VMID", 47, 32), Field("ASID", 63, 48)
LEAF = Field("Leaf", 0, word=1)
RANGE = (Field("NUM", 16, 12), Field("SCALE", 24, 20), Field("TG", 11, 10, word=1), LEAF, ADDRESS)
RESPONSE = ("ResponseFailure", "InvalidRequest", "Success", "reserved")
#: Prints its name, and SubstreamID only with SSV.
SSV = Field("SSV", 11)

COMMANDS = {
    0x01: ("CMD_PREFETCH_CONFIG", SID, SSV, SSID),
    0x02: ("CMD_PREFETCH_ADDR", SID, SSV, SSID, ADDRESS),
    0x03: ("CMD_CFGI_STE", SID, LEAF),
    0x04: ("CMD_CFGI_STE_RANGE", SID, Field("Range", 4, 0, word=1)),
    0x05: ("CMD_CFGI_CD", SID, SSID, LEAF),
    0x06: ("CMD_CFGI_CD_ALL", SID),
    0x10: ("CMD_TLBI_NH_ALL", VMID),
    0x11: ("CMD_TLBI_NH_ASID", VMID, ASID),
    0x12: ("CMD_TLBI_NH_VA", VMID, ASID, *RANGE),
    0x13: ("CMD_TLBI_NH_VAA", VMID, *RANGE),
    0x20: ("CMD_TLBI_EL2_ALL",),
    0x21: ("CMD_TLBI_EL2_ASID", ASID),
    0x22: ("CMD_TLBI_EL2_VA", ASID, *RANGE),
    0x23: ("CMD_TLBI_EL2_VAA", *RANGE),
    0x28: ("CMD_TLBI_S12_VMALL", VMID),
    0x2A: ("CMD_TLBI_S2_IPA", VMID, *RANGE),
    0x30: ("CMD_TLBI_NSNH_ALL",),
    0x40: ("CMD_ATC_INV", SID, SSV, SSID, Field("Global", 9), Field("Size", 5, 0, word=1), ADDRESS),
    0x41: ("CMD_PRI_RESP", SID, SSV, SSID, Field("PRGIndex", 8, 0, word=1), Field("Resp", 13, 12, RESPONSE, word=1)),
    0x44: ("CMD_RESUME", SID, STAG, Field("Action", 12, words=("terminate", "retry")), Field("Abort", 13)),
    0x45: ("CMD_STALL_TERM", SID),
    0x46: ("CMD_SYNC", Field("CS", 13, 12, ("no completion signal", "interrupt or MSI", "SEV", "reserved"))),
}

WHERE = (
    Field("Stall", 31, word=1),
    STAG,
    Field("RnW", 35, words=("write", "read"), word=1),
    Field("PnU", 33, words=("unprivileged", "privileged"), word=1),
    Field("InD", 34, words=("data", "instruction"), word=1),
    Field("S2", 39, words=("stage 1", "stage 2"), word=1),
    Field("CLASS", 41, 40, ("CD fetch", "table walk", "input address", "reserved"), word=1),
    Field("InputAddr", 63, 0, word=2),
)
REASON = Field("Reason", 15, 0, word=1)
FETCH = address("FetchAddr", 55, 3, word=3)

EVENTS = {
    0x01: ("F_UUT", REASON, *WHERE[2:5], WHERE[7]),
    0x02: ("C_BAD_STREAMID",),
    0x03: ("F_STE_FETCH", FETCH),
    0x04: ("C_BAD_STE",),
    0x05: ("F_BAD_ATS_TREQ", address("InputAddr", 63, 12, word=2)),
    0x06: ("F_STREAM_DISABLED",),
    0x07: ("F_TRANSL_FORBIDDEN", WHERE[2], WHERE[7]),
    0x08: ("C_BAD_SUBSTREAMID", SSID),
    0x09: ("F_CD_FETCH", FETCH),
    0x0A: ("C_BAD_CD",),
    0x0B: ("F_WALK_EABT", *WHERE[2:], FETCH),
    0x10: ("F_TRANSLATION", *WHERE),
    0x11: ("F_ADDR_SIZE", *WHERE),
    0x12: ("F_ACCESS", *WHERE),
    0x13: ("F_PERMISSION", *WHERE),
    0x20: ("F_TLB_CONFLICT", REASON, *WHERE[2:6], WHERE[7]),
    0x21: ("F_CFG_CONFLICT", REASON),
    0x24: ("E_PAGE_REQUEST", address("InputAddr", 63, 12, word=2)),
    0x25: ("F_VMS_FETCH", FETCH),
}

PAGE_REQUEST = (
    Field("StreamID", 31, 0),
    Field("SSV", 63),
    Field("SubstreamID", 51, 32),
    Field("PRGIndex", 8, 0, word=1),
    Field("Last", 62),
    Field("R", 60),
    Field("W", 61),
    Field("X", 59),
    Field("Priv", 58),
    ADDRESS,
)


def told(fields, words):
    """The fields on one line, without the SubstreamID if it is not valid."""
    ssv = next((field for field in fields if field.name == "SSV"), None)
    hidden = {"SSV"} if ssv is None or ssv.get(words) else {"SSV", "SubstreamID"}
    if any(field.name == "Stall" for field in fields) and not by_name(fields, "Stall").get(words):
        hidden.add("STAG")
    return "  ".join(field.tell(words) for field in fields if field.name not in hidden)


def named(table, kind, words, more=()):
    """An entry whose kind is in its lowest byte."""
    number = words[0] & 0xFF
    if number not in table:
        return f"{kind} {number:#04x}, reserved or not known here: " + " ".join(f"{word:#018x}" for word in words)
    name, *fields = table[number]
    return f"{name}  {told((*more, *fields), words)}".rstrip()


def command(words):
    return named(COMMANDS, "command", words)


def event(words):
    # C_BAD_SUBSTREAMID has a SubstreamID and no SSV.
    number = words[0] & 0xFF
    return named(EVENTS, "event", words, (SID,) if number == 0x08 else (SID, SSV, SSID))


def page_request(words):
    return "page request  " + told(PAGE_REQUEST, words)
