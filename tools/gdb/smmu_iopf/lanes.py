"""The work that waits for cores with time (src/iopf/work.rs)."""

from . import fault_core, machine, memory

PRIORITIES = ("High", "Normal", "Low")

#: Lanes behind each other that are followed; more of them say that something is damaged.
LONGEST = 10_000


def lines():
    """Each core's lists by priority, each lane in them, and its first group."""
    queues = memory.arc(machine.kernel()["work_queues"])
    resting = memory.number(queues["resting"])
    for core, is_on in machine.cores():
        of_core = queues["cores"]["__0"][core]["__0"]
        state = "off" if not is_on else "at rest" if resting >> core & 1 else "up"
        done = {name: memory.number(of_core[name]) for name in ("groups", "turns", "stolen", "handed_over")}
        yield (
            f"core {core}: {state}; lanes: {memory.number(of_core['lanes'])}; groups taken: {done['groups']} in {done['turns']} turns, "
            f"{done['stolen']} of them stolen; lanes handed over: {done['handed_over']}"
        )
        lists = memory.in_lock(of_core["lists"])["__0"]
        for index, priority in enumerate(PRIORITIES):
            listed = lists[index]
            count = int(listed["lanes"])
            if count:
                yield f"  {priority}: {count}, passed over {int(listed['passed'])} times"
            lane = memory.some(listed["first"])
            for _ in range(LONGEST):
                if lane is None:
                    break
                state = fault_core.state_of(lane)
                waiting = memory.in_lock(state["lane"]["__0"])
                yield from lane_lines(state, waiting)
                lane = memory.some(waiting["next"])


def lane_lines(state, waiting):
    """One lane: its stream, how many groups, and the first of them."""
    names = ", ".join(f"{stream:#x}" for stream in fault_core.streams(state))
    count = int(waiting["count"])
    yield f"    StreamID {names}: {count} group{'' if count == 1 else 's'}"
    if count:
        place = memory.boxed(waiting["groups"])[int(waiting["first"])]
        first = memory.peel(memory.some(place), "smmu_iopf::iopf::group::Held")
        slot = memory.boxed(state["slots"])[int(first["slot"])]
        yield f"      {fault_core.group_line(slot, memory.number(slot['word']))}"
