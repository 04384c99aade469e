"""The ready index: every claimable bead in dispatch order, and the same order for the facets that filters name.

Law: a cache of ledger rows. Every change goes through `put` and `drop`, which leave their inverse in the journal, so
that after a failed turn the index equals a rebuild. Facets only speed a filter up; grants are equal without them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from sortedcontainers import SortedList

from ..model import EXCLUDED_TYPES
from ..rules.dispatch import Filter

FACETS_MAX: Final = 64  # lists kept for filters in use; each costs one insertion per ready bead it holds


COMMON: Final = {"rig": "", "issue_type": "task"}  # what most beads have: not worth a set of their own


class Entry(NamedTuple):
    """A claimable bead; the first three fields are its order key."""

    score: int
    created_ns: int
    id: str
    n: int
    issue_type: str
    rig: str


class Facet(NamedTuple):
    """One question a filter can ask: kind is label, convoy, rig or issue_type."""

    kind: str
    value: str


class Part:
    """The entries of one facet, in order."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.order = SortedList(entries)
        self.members = {entry.n for entry in self.order}


class ReadyIndex:
    def __init__(
        self, members_of: Callable[[Facet], Iterable[int]], facets_of: Callable[[int], Iterable[Facet]]
    ) -> None:
        """`members_of` gives the row numbers of a label or convoy, `facets_of` a bead's labels and convoys."""
        self.entries: dict[int, Entry] = {}
        self.order = SortedList()
        self.parts: dict[Facet, Part] = {}
        self.rare: dict[Facet, set[int]] = {}  # members of every rig and issue type but the common ones
        self.journal: list[tuple[Callable[[Entry], None], Entry]] = []
        self.changes = 0
        self._members_of = members_of
        self._facets_of = facets_of

    def __len__(self) -> int:
        return len(self.order)

    def fill(self, entries: Iterable[Entry]) -> None:
        """Start from the ledger's rows."""
        self.entries = {entry.n: entry for entry in entries}
        self.order = SortedList(entry for entry in self.entries.values() if entry.issue_type not in EXCLUDED_TYPES)
        self.parts.clear()
        self.rare.clear()
        for entry in self.entries.values():
            for facet in _rare_facets(entry):
                self.rare.setdefault(facet, set()).add(entry.n)
        self.journal.clear()
        self.changes += 1

    # ------------------------------------------------------------ changes

    def place(self, n: int, entry: Entry | None, relabelled: bool = False) -> None:
        """Make `entry` the bead's place, None takes it out. `relabelled`: look its facets up anew."""
        old = self.entries.get(n)
        if old == entry and not relabelled:
            return
        if old is not None:
            self._drop(old)
            self.journal.append((self._put, old))
        if entry is not None:
            self._put(entry)
            self.journal.append((self._drop, entry))

    def undo(self) -> None:
        """Take back everything since the last `settle`."""
        while self.journal:
            inverse, entry = self.journal.pop()
            inverse(entry)

    def settle(self) -> None:
        self.journal.clear()

    def forget(self, facet: Facet) -> None:
        """A bead joined or left this facet: the next filter builds its list anew."""
        self.changes += 1
        self.parts.pop(facet, None)

    def _put(self, entry: Entry) -> None:
        self.changes += 1
        self.entries[entry.n] = entry
        if entry.issue_type not in EXCLUDED_TYPES:
            self.order.add(entry)
        for facet in _rare_facets(entry):
            self.rare.setdefault(facet, set()).add(entry.n)
        for part in self._parts_of(entry):
            part.order.add(entry)
            part.members.add(entry.n)

    def _drop(self, entry: Entry) -> None:
        del self.entries[entry.n]
        if entry.issue_type not in EXCLUDED_TYPES:
            if self.order[0] is entry:
                self.order.pop(0)
            else:
                self.order.remove(entry)
        for facet in _rare_facets(entry):
            self.rare[facet].discard(entry.n)
            if not self.rare[facet]:
                del self.rare[facet]
        for part in self.parts.values():
            if entry.n in part.members:
                part.order.remove(entry)
                part.members.discard(entry.n)

    def _parts_of(self, entry: Entry) -> list[Part]:
        if not self.parts:
            return []
        facets = [Facet("rig", entry.rig), Facet("issue_type", entry.issue_type), *self._facets_of(entry.n)]
        return [self.parts[facet] for facet in facets if facet in self.parts]

    # ------------------------------------------------------------ questions

    def _part(self, facet: Facet) -> Part:
        part = self.parts.pop(facet, None)
        if part is None:
            part = Part(self._entries_of(facet))
            if len(self.parts) >= FACETS_MAX:
                del self.parts[next(iter(self.parts))]  # the one asked for longest ago
        self.parts[facet] = part
        return part

    def _entries_of(self, facet: Facet) -> Iterable[Entry]:
        if facet.kind in COMMON and facet.value != COMMON[facet.kind]:
            return (self.entries[n] for n in self.rare.get(facet, ()))
        if facet.kind in COMMON:
            return (entry for entry in self.entries.values() if getattr(entry, facet.kind) == facet.value)
        return (self.entries[n] for n in self._members_of(facet) if n in self.entries)

    def first(self) -> Entry | None:
        """The head of the line for a claim without a filter."""
        return self.order[0] if self.order else None

    def candidates(self, asked: Filter) -> Iterator[Entry]:
        """Every entry the filter admits, in dispatch order. Do not change the index while reading."""
        all_of = [self._part(Facet("label", label)) for label in asked.labels_all]
        all_of += [self._part(Facet("rig", asked.rig))] if asked.rig is not None else []
        all_of += [self._part(Facet("convoy", asked.convoy))] if asked.convoy is not None else []
        any_label = [self._part(Facet("label", label)) for label in asked.labels_any]
        kinds = [self._part(Facet("issue_type", kind)) for kind in sorted(set(asked.issue_types))]
        if kinds:
            source: Iterable[Entry] = heapq.merge(*(part.order for part in kinds))
        elif all_of:
            source = min(all_of, key=lambda part: len(part.members)).order
        elif any_label:
            source = _merged(part.order for part in any_label)
        else:
            source = self.order
        for entry in source:
            if (
                (kinds or entry.issue_type not in EXCLUDED_TYPES)
                and all(entry.n in part.members for part in all_of)
                and (not any_label or any(entry.n in part.members for part in any_label))
            ):
                yield entry


def _rare_facets(entry: Entry) -> list[Facet]:
    facets = [Facet("rig", entry.rig)] if entry.rig else []
    if entry.issue_type != "task":
        facets.append(Facet("issue_type", entry.issue_type))
    return facets


def _merged(orders: Iterable[Iterable[Entry]]) -> Iterator[Entry]:
    """One ordered stream without repeats."""
    last = None
    for entry in heapq.merge(*orders):
        if entry != last:
            yield entry
        last = entry
