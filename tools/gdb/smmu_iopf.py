"""GDB commands that show the SMMUs and the fault core: `help smmu`, `help iopf`, `help grace` (docs/debugging.md).

`./run-qemu.sh gdb` loads this file. It reads memory only, and never continues or changes the machine.
"""

import os
import sys

import gdb

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from smmu_iopf import fault_core, grace, lanes, machine, memory, queues, registers, tables  # noqa: E402


class Prefix(gdb.Command):
    """A word that commands begin with."""

    def __init__(self, word, help_text, commands):
        self.__doc__ = help_text
        self.word, self.commands = word, commands
        super().__init__(word, gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)

    def invoke(self, argument, _from_tty):
        names = " | ".join(self.commands)
        what = f"no command '{self.word} {argument}'" if argument else "incomplete"
        raise gdb.GdbError(f"{self.word}: {what}; usage: {self.word} {names}")


class Command(gdb.Command):
    """A command that prints what `lines` yields for its arguments."""

    def __init__(self, name, help_text, lines, parameters=()):
        self.__doc__ = help_text
        self.name, self.lines, self.parameters = name, lines, parameters
        super().__init__(name, gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        arguments = gdb.string_to_argv(argument)
        if len(arguments) != len(self.parameters):
            raise gdb.GdbError("usage: " + " ".join((self.name, *self.parameters)))
        try:
            with memory.physical():
                for line in self.lines(*arguments):
                    gdb.write(line + "\n")
        except gdb.GdbError:
            raise
        except gdb.error as error:
            raise gdb.GdbError(f"{self.name}: {error}") from None


def every_smmu(lines, *parsers):
    """`lines` of each SMMU, below its name. `parsers` read the arguments."""

    def all_lines(*arguments):
        arguments = [parse(argument) for parse, argument in zip(parsers, arguments)]
        for smmu in machine.smmus():
            yield str(smmu)
            for line in lines(smmu, *arguments):
                yield "  " + line

    return all_lines


# GDB 13 does not find every inlined method by its name before it has read all the symbols.
gdb.execute("maintenance expand-symtabs", to_string=True)

Prefix("smmu", "What an SMMU has in its registers, its stream table and its queues.", ("regs", "ste SID", "queues"))
Prefix("iopf", "What the fault core has in its table and its groups.", ("table", "groups", "latency", "lanes"))
Command("smmu regs", "The registers of every SMMU, field by field.", every_smmu(registers.lines))
Command(
    "smmu ste",
    "smmu ste SID: the stream table entry of a StreamID in every SMMU, found as the SMMU finds it, and its contexts.",
    every_smmu(tables.stream_lines, tables.stream_id),
    ("SID",),
)
Command("smmu queues", "The queues of every SMMU, and what is in them.", every_smmu(queues.lines))
Command("iopf table", "The streams whose faults are served.", every_smmu(fault_core.table_lines))
Command(
    "iopf groups",
    "The fault groups that are stored: partial, pending, or answered and not let go.",
    every_smmu(fault_core.group_lines),
)
Command("iopf latency", "How long answers took, by stream and in total, in ticks.", every_smmu(fault_core.latency_lines))
Command("iopf lanes", "The groups that wait for a core with time: by core, priority and stream.", lanes.lines)
Command("grace", "The grace periods, what each core says of itself, and what waits to be freed.", grace.lines)
