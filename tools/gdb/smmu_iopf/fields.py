"""Bit fields, and how their values are told in words."""

import textwrap

WIDTH = 110

IC_OC = ("non-cacheable", "write-back", "write-through", "reserved")
SH = ("non-shareable", "reserved", "outer shareable", "inner shareable")
ADDRESS_SIZE = tuple(f"{bits} bits" for bits in (32, 36, 40, 42, 44, 48, 52, 56))
GRANULE = ("4 KiB", "64 KiB", "16 KiB", "reserved")


class Field:
    """Bits HIGH:LOW of a value; `word` is which 64-bit word of a structure they are in."""

    def __init__(self, name, high, low=None, words=None, word=0, shift=None, decimal=None):
        self.name, self.low, self.word = name, high if low is None else low, word
        self.mask = (1 << high - self.low + 1) - 1
        self.words, self.shift = words, shift
        # What is wide is an address or a name, unless told otherwise.
        self.decimal = shift is None and self.mask < 1 << 15 if decimal is None else decimal

    def get(self, value):
        """The field's value; of an address the address."""
        value = value[self.word] if isinstance(value, tuple) else value
        bits = value >> self.low & self.mask
        return bits << self.shift if self.shift is not None else bits

    def tell(self, value):
        """NAME=VALUE, and what that means."""
        value = self.get(value)
        if self.words is not None:
            meaning = self.words[value] if value < len(self.words) else "reserved"
            return f"{self.name}={value} ({meaning})"
        return f"{self.name}={value}" if self.decimal else f"{self.name}={value:#x}"


def address(name, high, low, word=0):
    """A field that holds bits HIGH:LOW of an address."""
    return Field(name, high, low, word=word, shift=low)


def by_name(fields, name):
    return next(field for field in fields if field.name == name)


def tell(fields, value, head="", indent=None):
    """Lines that tell all `fields`, behind `head`."""
    text = "  ".join(field.tell(value).replace(" ", "\0") for field in fields)
    indent = len(head) if indent is None else indent
    lines = textwrap.wrap(text, WIDTH - 2, initial_indent=head, subsequent_indent=" " * indent, break_long_words=False)
    return [line.replace("\0", " ") for line in lines or [head.rstrip()]]
