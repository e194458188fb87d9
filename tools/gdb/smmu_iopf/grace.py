"""Grace periods (src/sync/grace): requests, cores, and what waits."""

from . import machine, memory

#: Links of retired objects that are followed; more of them say that something is damaged.
LONGEST = 10_000


def lines():
    """The domain, each core, the period that runs, and what waits to be freed."""
    domain = memory.arc(machine.kernel()["domain"])
    requested, done = memory.number(domain["requested"]), memory.number(domain["done"])
    yield f"period requested last: {requested}, done last: {done}"
    per_core = domain["cores"]["__0"]
    for core, is_on in machine.cores():
        of_core = per_core[core]["__0"]
        presence, acknowledged = memory.number(of_core["presence"]), memory.number(of_core["acknowledged"])
        where = "present" if presence % 2 else "away (idle or offline)" if is_on else "off"
        behind = "" if acknowledged >= requested or presence % 2 == 0 else f", {requested - acknowledged} behind"
        yield f"  core {core}: {where} (presence {presence}), acknowledged {acknowledged}{behind}"
    keeper = memory.in_lock(domain["keeper"])
    period = memory.some(keeper["running"])
    if period is None:
        yield "no period runs"
    else:
        bits = memory.number(period["holding"])
        cores = ", ".join(f"core {core}" for core in range(bits.bit_length()) if bits >> core & 1) or "no core"
        expedited = ", expedited" if int(period["expedited"]) else ""
        yield f"period {int(period['number'])} runs: held up by {cores}, looked at {int(period['looks'])} times{expedited}"
    counters = domain["counters"]
    counts = {name: memory.number(counters[name]) for name in ("created", "retired", "freed", "leaked", "expedited")}
    pending = counts["retired"] - counts["freed"]
    yield "objects: " + ", ".join(f"{count} {name}" for name, count in counts.items() if name != "expedited")
    yield f"  {counts['created'] - counts['retired']} live, {pending} pending; {counts['expedited']} periods expedited"
    stacked = length(memory.peel(domain["retired"]["head"]))
    waiting = 0 if period is None else length_of(period["retired"])
    due = length_of(keeper["due"]["__0"])
    yield f"  {stacked} for the next period, {waiting} for the one that runs, {due} due"


def length_of(chain):
    """How many objects are in a chain."""
    first = memory.some(chain["head"])
    return 0 if first is None else length(first["pointer"])


def length(link):
    """How many objects follow from a link, itself included."""
    for count in range(LONGEST):
        if int(link) == 0:
            return count
        link = memory.peel(link.dereference()["next"])
    return LONGEST
