"""A conversation as a tree of turns: the branch that is shown, the others, and as text or data.

Each turn names the one before it. Trying again, editing a message and correcting a reply add a
turn beside the old one, so that nothing that was said is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args

from lmapps.errors import InputError
from lmapps.fields import Messages
from lmapps.sentence import Sentence
from lmapps.server.store.made import Made, made_from

Author = Literal["person", "model"]
ROLES = ("system", "user", "assistant")
FINISHES = (None, "stop", "length", "cancelled", "error")


class NoSuchConversation(InputError):
    """A conversation or a turn that is not there, or is somebody else's."""

    status = 404


@dataclass(frozen=True)
class Turn:
    """One message."""

    id: str
    parent: str | None
    """The turn before it; None = it is the first."""
    role: str
    content: str
    author: Author
    """Who wrote it: a reply that a person corrected is a person's."""
    finish: str | None = None
    """Why a reply ended; None while it is being written, or where the server died meanwhile."""
    rating: int | None = None
    """1 or -1 where a person said so."""
    made: dict[str, Any] | None = None
    """How a reply was made, as `Made.as_data` tells it."""


@dataclass(frozen=True)
class Conversation:
    """Every turn, in the order in which they were said."""

    id: str
    title: str
    leaf: str | None
    """The last turn of the branch that is shown."""
    turns: Sequence[Turn]

    def path(self, leaf: str | None = None) -> list[Turn]:
        """The turns from the first to `leaf`, or to the conversation's own leaf."""
        known = {turn.id: turn for turn in self.turns}
        path: list[Turn] = []
        place = leaf or self.leaf
        while place is not None:
            if place not in known:
                raise NoSuchConversation(
                    Sentence("this part of the conversation is not there any more")
                )
            path.append(known[place])
            place = known[place].parent
        return path[::-1]

    def versions(self, turn: Turn) -> list[Turn]:
        """The turns that stand at the same place, oldest first, this one included."""
        return [
            other for other in self.turns if other.parent == turn.parent and other.role == turn.role
        ]

    def ends(self, leaf: str | None) -> list[str | None]:
        """Where each branch ends, what goes on from the same turn side by side and the newest last;
        and `leaf`, after all that goes on from it. None = before the first turn."""
        self.path(leaf)  # raises where there is no such turn
        after = dict[str | None, list[str]]()
        for turn in self.turns:
            after.setdefault(turn.parent, []).append(turn.id)
        ends, waiting = list[str | None](), list[str | None]([None])
        while waiting:  # the newest first
            place = waiting.pop()
            if place == leaf or place not in after:
                ends.append(place)
            waiting += after.get(place, ())
        return ends[::-1]

    def made_of(self, turn: Turn) -> Made:
        """How a reply was made; of one that a person wrote, how the one that it corrects was."""
        if turn.made is not None:
            return made_from(turn.made)
        made = [other.made for other in self.versions(turn) if other.made is not None]
        return Made(made_from(made[-1]).fields) if made else Made()

    def as_markdown(self) -> str:
        """The branch that is shown, as a text to read."""
        parts = [f"# {self.title or 'Conversation'}"]
        names = {"user": "You", "assistant": "Model", "system": "System"}
        parts += [f"**{names[turn.role]}**\n\n{turn.content}" for turn in self.path()]
        return "\n\n".join(parts) + "\n"

    def as_data(self) -> dict[str, Any]:
        """Everything, every branch, as JSON has it."""
        turns = [asdict(turn) for turn in self.turns]
        return {"lmapps": "conversation", "title": self.title, "leaf": self.leaf, "turns": turns}


def conversation_from(data: Any) -> Conversation:
    """What `as_data` made. Raises `InputError` with the reason for anything else."""
    if not isinstance(data, dict) or data.get("lmapps") != "conversation":
        raise InputError(
            Sentence("this is no conversation that lmapps exported: export one as JSON first")
        )
    stored = data.get("turns")
    if not isinstance(stored, list) or not stored:
        raise InputError(Sentence("the exported conversation has no turns"))
    turns: list[Turn] = []
    known = set[str]()
    for number, values in enumerate(stored, start=1):
        turn = _turn_from(values, number)
        if turn.parent is not None and turn.parent not in known:
            raise InputError(f"turn {number}: the turn before it, {turn.parent!r}, is not there")
        if turn.id in known:
            raise InputError(f"turn {number}: its id, {turn.id!r}, is that of a turn before it")
        turns.append(turn)
        known.add(turn.id)
    leaf, title = data.get("leaf", ""), data.get("title") or ""
    if leaf is not None and not (isinstance(leaf, str) and leaf in known):
        raise InputError(f"the exported conversation has no turn {str(leaf)[:80]!r} to end in")
    if not _is_text(title):
        raise InputError(f"the exported conversation's title must be a text, got {title!r:.80}")
    return Conversation("", title, leaf, turns)


def as_messages(turns: Sequence[Turn]) -> Messages:
    """Role and content alone: what a plugin is given."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _turn_from(values: Any, number: int) -> Turn:
    names = {item.name for item in fields(Turn)}
    if not isinstance(values, dict) or not {"id", "role", "content"} <= values.keys():
        raise InputError(f"turn {number} must be an object with id, role and content")
    known: dict[str, Any] = {name: value for name, value in values.items() if name in names}
    known["made"] = made_from(known.get("made")).as_data() or None
    turn = Turn(**({"parent": None, "author": "person"} | known))
    texts = [turn.id, turn.content, *(t for t in (turn.parent, turn.finish) if t is not None)]
    if (
        not all(map(_is_text, texts))
        or turn.role not in ROLES
        or turn.author not in get_args(Author)
        or type(turn.rating) not in (int, NoneType)
    ):
        raise InputError(
            f"turn {number}: id, parent, content and finish must be texts, role one of "
            f"{', '.join(ROLES)}, author one of {', '.join(get_args(Author))} and rating a number, "
            f"got {str(values)[:80]!a}"
        )
    if turn.finish not in FINISHES:
        raise InputError(
            f"turn {number}: finish must be one of {', '.join(filter(None, FINISHES))} or null, "
            f"got {turn.finish[:80]!r}"
        )
    return turn


def _is_text(value: Any) -> bool:
    """Whether it is a text that a database can keep: JSON may hold half a character."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
