"""The model that answers whoever names none -> another one, and back."""

from __future__ import annotations

from contextlib import suppress

from lmapps.engine.models import Models
from lmapps.errors import ModelInUse

SHOW_CHAT = """() => { document.querySelector('[role="tab"]')?.click(); }"""
"""Shows the chat."""


def fresh(models: Models, name: str) -> None:
    """Let a model that nobody uses be loaded anew: its folder may hold better weights by now."""
    with suppress(ModelInUse):
        models.free(models.known(name))


class Switch:
    """The same for every visitor; a restart of the server begins with its first model again."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.before = ""
        """The one that answered before the last change; '' = there was none."""

    @property
    def now(self) -> str:
        return self._models.default

    def to(self, name: str) -> None:
        """Load the model, then let it answer. Raises as `Models.use` does; then nothing has
        changed."""
        self._models.load(name)
        if name != self.now:
            self.before, self._models.default = self.now, name

    def back(self) -> None:
        """To the model before."""
        if self.before:
            self.to(self.before)
