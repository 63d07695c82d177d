"""What went wrong, as one sentence for a person: exceptions with an HTTP status and an exit code.

    LmappsError                  anything a person or a file brought in
    ├── InputError               a value that can be corrected           (400, exit 2)
    │   ├── SettingsError        an option of a command or a setting
    │   ├── DecodingError        temperature, top_p, stop, ...
    │   ├── FieldError           a field of a plugin's form
    │   ├── PluginError          a plugin that is unknown or does not work
    │   ├── DataError            text or records that cannot be read
    │   ├── CheckpointError      a folder that is not a usable checkpoint
    │   ├── NoSuchModel          a model that is not served here          (404)
    │   ├── ModelInUse           a model that cannot be freed now         (409)
    │   ├── ModelTooLarge        more memory than models may take         (507)
    │   ├── PromptTooLong        a prompt that leaves no room for a reply (413)
    │   └── TooLarge             more bytes than a request may have       (413)
    ├── ModelServerError         another server's model that fails        (502, exit 1)
    ├── ReplyError               a reply that has not the form asked for  (502, exit 1)
    ├── DownloadError            a model that cannot be reached           (502, exit 1)
    ├── Busy                     too many requests at once                (429, exit 1)
    │   ├── ShuttingDown         the server ends                          (503)
    │   └── EngineFailed         a model that cannot answer just now      (503, exit 70)
    └── StorageError             disk full, folder not writable           (507, exit 1)
        └── DatabaseFailed       a database that does not answer          (503)
            └── DatabaseFull     one whose disk is full                   (507)

Every message names the value received and the way out: "temperature must be between 0 and 2,
got -1". One that a visitor of the page can meet is a `Sentence`, so that the page can tell it in
their language. Our own mistakes stay what they are: assertions and ordinary exceptions.
"""

from __future__ import annotations

from lmapps.sentence import Sentence


class LmappsError(Exception):
    """Base of every error that is shown to a person as one sentence.

    It is given that sentence, or a text with {names} and their values, which make a `Sentence`.
    """

    status: int = 500
    exit_code: int = 1
    retry_after: int | None = None
    """In how many seconds it is worth trying again, where that is known."""

    @property
    def outward(self) -> str:
        """The sentence for whoever asks a server: not what its operator alone should read."""
        return self.args[0] if self.args else ""

    def __init__(self, told: str = "", /, **values: object) -> None:
        super().__init__(Sentence(told, **values) if values else told)


class InputError(LmappsError):
    """A value from a person or a file that can be corrected."""

    status = 400
    exit_code = 2


class SettingsError(InputError):
    """An option of a command, or a setting, that does not fit."""


class DecodingError(InputError):
    """A decoding setting that does not fit, for example a negative temperature."""


class FieldError(InputError):
    """A value that a plugin's field does not take."""


class PluginError(InputError):
    """A plugin that is unknown, could not be loaded, or failed while it ran."""

    line: int | None = None
    """The line of the plugin's file, where it is known better than from the traceback."""


class DataError(InputError):
    """Text or records that cannot be read."""


class CheckpointError(InputError):
    """A folder that is not a usable checkpoint."""


class NoSuchModel(InputError):
    """A model that is not served here."""

    status = 404


class ModelInUse(InputError):
    """A model that cannot be freed, since it is answering somebody."""

    status = 409


class ModelTooLarge(InputError):
    """A model that does not fit into the memory for models, even alone."""

    status = 507


class PromptTooLong(InputError):
    """A prompt that leaves no room for a reply in the model's context."""

    status = 413


class TooLarge(InputError):
    """A request over the limit of bytes."""

    status = 413


class ModelServerError(LmappsError):
    """Another server, which runs a model, does not answer or fails."""

    status = 502


class ReplyError(LmappsError):
    """A reply that has not the form asked for, for example JSON that was cut at its limit."""

    status = 502


class DownloadError(LmappsError):
    """A model cannot be downloaded: no network, no such index, or it is not given to everybody."""

    status = 502


class Busy(LmappsError):
    """The queue is full: try again later."""

    status = 429

    def __init__(self, told: str, /, retry_after: int = 1, **values: object) -> None:
        super().__init__(told, **values)
        self.retry_after: int = retry_after


class ShuttingDown(Busy):
    """The server ends, or is about to be started again."""

    status = 503
    told = Sentence("the server is shutting down: try again when it is back")

    def __init__(self, told: str = told, /) -> None:
        super().__init__(told)


class EngineFailed(Busy):
    """The thread that runs a model failed. It is started again; where that does not help, the
    server ends with this exit code, so that whoever started it can start it again."""

    status = 503
    exit_code = 70


class StorageError(LmappsError):
    """The disk is full or a folder cannot be written."""

    status = 507


class DatabaseFailed(StorageError):
    """A database that does not answer, cannot be written, or refuses. The sentence says where it
    is and what its driver says."""

    status = 503
    retry_after: int | None = 5

    @property
    def outward(self) -> str:
        return Sentence("the database does not work at the moment: try again in a few seconds")


class DatabaseFull(DatabaseFailed):
    """One whose disk is full: that is not over in a moment."""

    status = 507
    retry_after = None

    @property
    def outward(self) -> str:
        return Sentence("the disk of the database is full: tell who runs this server")
