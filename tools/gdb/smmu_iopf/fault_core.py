"""The fault core: which streams are served, and which of their groups are stored (src/iopf)."""

import struct

import gdb

from . import memory
from .fields import Field

STATES = ("Free", "Filling", "Partial", "Pending", "Sending", "Unsent", "Answered", "Answered")
FREE, FILLING, PARTIAL = range(3)

#: A slot's word, as src/iopf/slot.rs has it.
STATE, HELD, RESPONSE = Field("state", 2, 0), Field("held", 3), Field("response", 5, 4)
COUNT, GENERATION = Field("count", 15, 8), Field("generation", 63, 16)
RESPONSES = ("Failure", "Invalid", "Success", "reserved")

#: StoredFault.who and .request.
STREAM, SUBSTREAM, SUBSTREAM_VALID = Field("stream", 31, 0), Field("substream", 51, 32), Field("valid", 52)
ACCESS = ((53, "read"), (54, "write"), (55, "execute"), (56, "privileged"))
TAG, LAST, IS_PAGE = Field("tag", 15, 0), Field("last", 16), Field("page", 17)


def states(smmu):
    """The fault states in the table, each once, with its reference count: (FaultState, references)."""
    seen = set()
    for leaf in memory.boxed(smmu.driver["faults"]["leaves"]):
        slots = memory.once(leaf)
        if slots is None:
            continue
        for address in pointers(slots):
            if address in seen:
                continue
            seen.add(address)
            counted = gdb.Value(address).cast(pointer_type(slots)).dereference()
            yield counted["value"], memory.number(counted["references"])


def state_of(reference):
    """The FaultState that a Ref<FaultState> is to."""
    return memory.peel(reference).dereference()["value"]


def pointer_type(slots):
    """*mut Counted<FaultState>, from the type of a leaf."""
    return memory.peel(slots.dereference()[0]["object"]).type


def pointers(slots):
    """What is in the slots of a leaf. Read at once: there are a thousand."""
    array = slots.dereference().type
    slot = array.target()
    offset = next(field.bitpos // 8 for field in slot.fields() if field.name == "object")
    length = array.range()[1] + 1
    raw = memory.read(int(slots), array.sizeof)
    found = (struct.unpack_from("<Q", raw, index * slot.sizeof + offset)[0] for index in range(length))
    return [address for address in found if address]


def streams(state):
    return [memory.number(stream) for stream in memory.boxed(state["streams"])]


def stored(state):
    """The slots of a state that are not free: (slot, word)."""
    for slot in memory.boxed(state["slots"]):
        word = memory.number(slot["word"])
        if STATE.get(word) != FREE:
            yield slot, word


def counts(counters):
    """NAME N for each of the statistics that is not zero, summed over the cores."""
    per_core = counters["__0"].dereference()[0]["__0"]
    cores = range(per_core.type.range()[1] + 1)
    names = gdb.lookup_type("smmu_iopf::iopf::statistics::Counter").fields()
    sums = {
        field.name.rsplit("::", 1)[-1]: sum(memory.number(per_core[core]["__0"][field.enumval]) for core in cores)
        for field in names
    }
    served = sums.pop("Served")
    for name in ("Records", "Groups", "Inline", "Success"):
        sums[name] += served
    return "  ".join(f"{name} {value}" for name, value in sums.items() if value) or "nothing"


def table_lines(smmu):
    """Every stream that is served, and the sums of `smmu`."""
    found = 0
    for state, references in states(smmu):
        found += 1
        names = ", ".join(f"{stream:#x}" for stream in streams(state))
        words = [word for _, word in stored(state)]
        partial = sum(STATE.get(word) == PARTIAL for word in words)
        gate = memory.number(state["gate"])
        closed = "open" if gate == 0 else "closed" if gate == 1 else f"stopping substream {gate & 0xFFFFF:#x}"
        yield (
            f"StreamID {names}: {memory.variant(state['kind'])}, {closed}, references {references}; "
            f"groups: pending or held {len(words) - partial}, partial {partial}, at most {int(state['limits']['groups'])}"
        )
        yield f"  {counts(state['counters'])}"
    shared = memory.arc(smmu.driver["faults"]["shared"])
    live, slots = memory.number(shared["live"]), memory.number(shared["slots_in_use"])
    yield f"states: in the table {found}, live {live}; group slots in use: {slots}"
    yield f"all streams, ended and unknown ones too: {counts(shared['counters'])}"


def latencies(histogram):
    """How many answers took how many ticks, in the buckets that are not empty, summed over the cores."""
    per_core = histogram["__0"].dereference()[0]["__0"]
    cores = range(per_core.type.range()[1] + 1)
    buckets = range(per_core[0]["__0"].type.range()[1] + 1)
    sums = [sum(memory.number(per_core[core]["__0"][bucket]) for core in cores) for bucket in buckets]
    told = "  ".join(
        f"{'<' if bucket < len(sums) - 1 else '>='}{1 << min(bucket, len(sums) - 2)}: {count}"
        for bucket, count in enumerate(sums)
        if count
    )
    return f"answers measured: {sum(sums)}" + (f"; by ticks {told}" if told else "")


def latency_lines(smmu):
    """The histogram of every stream that is served, and that of `smmu`."""
    for state, _ in states(smmu):
        names = ", ".join(f"{stream:#x}" for stream in streams(state))
        yield f"StreamID {names}: {latencies(state['latencies'])}"
    shared = memory.arc(smmu.driver["faults"]["shared"])
    yield f"all streams, ended ones too: {latencies(shared['latencies'])}"


def group_lines(smmu):
    """Every slot that is not free, of the streams in the table."""
    none = True
    for state, _ in states(smmu):
        for slot, word in stored(state):
            none = False
            yield group_line(slot, word)
            for request in memory.boxed(slot["requests"])[1 : COUNT.get(word)]:
                yield f"    and {request_words(request)}"
    if none:
        yield "no group is stored"


def group_line(slot, word):
    held = "held" if HELD.get(word) else "not held"
    response = f", {RESPONSES[RESPONSE.get(word)]}" if STATES[STATE.get(word)] == "Unsent" else ""
    first = memory.boxed(slot["requests"])[0]
    # The count of a group that is being filled is still with the core that fills it.
    what = request_words(first) if COUNT.get(word) else "no request yet"
    return (
        f"slot {int(slot['index'])}: {STATES[STATE.get(word)]}{response}, {held}, generation {GENERATION.get(word)}, "
        f"requests {COUNT.get(word)}: {what}"
    )


def request_words(request):
    who, tag = memory.number(request["who"]), memory.number(request["request"])
    substream = f" substream {SUBSTREAM.get(who):#x}" if SUBSTREAM_VALID.get(who) else ""
    access = "+".join(name for bit, name in ACCESS if who >> bit & 1) or "no access"
    if IS_PAGE.get(tag):
        target = f"PRGIndex {TAG.get(tag):#x}{' Last' if LAST.get(tag) else ''}"
    else:
        target = f"STAG {TAG.get(tag):#x}"
    return f"StreamID {STREAM.get(who):#x}{substream} {target} {access} at {memory.number(request['address']):#x}"
