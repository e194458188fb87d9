"""The three queues: their pointers as the SMMU has them, and the entries between (3.5)."""

from . import memory, records

#: The most entries shown that wait, and that were consumed last.
WAITING, CONSUMED = 16, 4


class Queue:
    """One queue. `outgoing`: the SMMU consumes it."""

    def __init__(self, name, title, words, decode, outgoing):
        self.name, self.title, self.words, self.decode, self.outgoing = name, title, words, decode, outgoing

    def entry(self, base, slot):
        return memory.words(base + slot * self.words * 8, self.words)

    def lines(self, smmu):
        base, log2 = smmu.field(f"{self.name}_BASE", "ADDR"), smmu.field(f"{self.name}_BASE", "LOG2SIZE")
        size = 1 << log2
        lap = 2 * size - 1
        prod, cons = smmu.field(f"{self.name}_PROD", "WR") & lap, smmu.field(f"{self.name}_CONS", "RD") & lap
        between = prod - cons & lap
        state = "empty" if between == 0 else "full" if between == size else f"{between} to consume"
        if between > size:
            state = "PROD and CONS make no sense together: more than the whole queue apart"
        yield f"{self.name}, {self.title}: {size} entries at {base:#x}, {state}"
        yield f"  PROD {prod & size - 1} wrap {prod >> log2}   CONS {cons & size - 1} wrap {cons >> log2}{self.flags(smmu)}"
        if between > size:
            return
        for number in range(min(between, WAITING)):
            slot = cons + number & size - 1
            yield f"  [{slot}] {self.decode(self.entry(base, slot))}"
        if between > WAITING:
            yield f"  and {between - WAITING} more"
        for number in range(1, min(size - between, CONSUMED) + 1):
            slot = cons - number & size - 1
            entry = self.entry(base, slot)
            # The driver hands queues over zeroed, and no entry is all zero: this one was never written.
            if any(entry):
                yield f"  [{slot}] consumed: {self.decode(entry)}"

    def flags(self, smmu):
        if self.outgoing:
            return f"   ERR {smmu.field('CMDQ_CONS', 'ERR')}"
        flag, acknowledged = smmu.field(f"{self.name}_PROD", "OVFLG"), smmu.field(f"{self.name}_CONS", "OVACKFLG")
        what = "no overflow" if flag == acknowledged else "overflow, not acknowledged"
        return f"   OVFLG {flag} OVACKFLG {acknowledged}: {what}"


QUEUES = (
    Queue("CMDQ", "commands", 2, records.command, True),
    Queue("EVENTQ", "events", 4, records.event, False),
    Queue("PRIQ", "page requests", 2, records.page_request, False),
)


def lines(smmu):
    """All queues of `smmu`."""
    for queue in QUEUES:
        if queue.name == "PRIQ" and not smmu.field("IDR0", "PRI"):
            yield "PRIQ, page requests: none, this SMMU has no PRI"
        else:
            yield from queue.lines(smmu)
