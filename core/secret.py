"""A text that must not be seen: passwords of BGP sessions, tokens."""

from __future__ import annotations


class Secret:
    """Holds a text that only `reveal()` shows; ``str``, ``repr``, ``format`` and JSON encoders that fall back to ``str`` do not.

    Not a subclass of ``str``: ``"".join`` and ``json.dumps`` read the characters of a subclass without asking it.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one place that has to write it down."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __bool__(self) -> bool:
        return bool(self._text)
