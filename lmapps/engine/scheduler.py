"""Who runs in the next step: cancel, read prompts in chunks, decode one token for everybody."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from lmapps.engine.counts import Counts
from lmapps.engine.drawing import Drawing
from lmapps.engine.pace import Pace
from lmapps.engine.request import Finish, Request
from lmapps.engine.sampling import logprob_of
from lmapps.engine.slots import Slots
from lmapps.engine.turns import User, in_turn, left_waiting, next_place
from lmapps.errors import Busy, EngineFailed, LmappsError
from lmapps.memory import is_out_of_memory

PREFILL_TOKENS = 512
"""The most prompt tokens read in one step."""
LONGEST_SECONDS = 600.0
"""A person's request, waiting and reply together, takes at most so long."""
USERS_REMEMBERED = 4096


class Scheduler:
    """Requests in, a batch that everybody joins and leaves at any step. One thread only.

    send   called when requests have been told something, before a step that takes its time
    clock  seconds from any beginning; a test may count something else
    """

    def __init__(
        self,
        slots: Slots,
        vocab_size: int,
        send: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self.vocab_size = vocab_size
        self.send = send
        self.clock = clock
        self.waiting: list[Request] = []
        """In the order in which they came."""
        self.reading: Request | None = None
        """The request whose prompt is being read."""
        self.counts = Counts()
        self.pace = Pace()
        self._draw = Drawing(vocab_size, slots.step.threads)
        self._leaving = 0.0
        """Seconds since the last tokens that were taken by those who left."""
        self._turns = 0
        self._last_turn: OrderedDict[User, int] = OrderedDict()

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.reading or self.slots.running)

    def left_waiting(self, arrived: Sequence[Request]) -> list[User]:
        """Whose requests wait for somebody else's end, of those that came too; from any thread."""
        held = Counter(request.user for request in self._holding())
        users = [request.user for request in (*self.waiting, *arrived)]
        return left_waiting(users, held, self.slots.count)

    def step(self) -> None:
        """One round: at most one decoding pass, and as much reading as the pace allows."""
        began = self.clock() - self._leaving
        self._drop_those_at_an_end()
        if self._read_prompts(began):  # a first token does not wait for what follows
            self.send()
        started, self._leaving = self.clock(), 0.0
        logits_BV = self._decode()
        if logits_BV is not None:
            self.counts.passes += 1
            ended = self._sample(logits_BV, self.slots.running)
            self.pace.decoded(len(logits_BV), self.clock() - started)
            for row in reversed(ended):
                self._leave(row)
        self._tell_places()
        self.send()

    def _decode(self) -> npt.NDArray[np.float32] | None:
        """One token further for everybody. Where memory does not suffice, the longest request
        ends, since its state is the largest, and the others go on."""
        while self.slots.running:
            try:
                return _numbers(self.slots.decode())
            except Exception as error:
                if not (is_out_of_memory(error) and self.slots.take_back()):
                    raise
            rows = range(len(self.slots.running))
            largest = max(rows, key=lambda row: self.slots.running[row].length)
            self._give_up(self.slots.leave(largest))
        return None

    def fail(self, error: Exception) -> None:
        """End everything that is under way: nobody is left waiting for a reply."""
        if is_out_of_memory(error):
            self.slots.prefixes.clear()
        if not isinstance(error, LmappsError):
            error = _failed(error)
        under_way, held = [*self._holding(), *self.waiting], len(self.slots.running)
        self.slots.running.clear()
        self.waiting.clear()
        self.reading = None
        for request in under_way:
            if request.finish is None:
                self._end(request, "error", error)
        self.send()
        for row in range(held):  # at last: on a device that has failed this fails too
            self.slots.state.clear(row)

    def _holding(self) -> Iterator[Request]:
        """The requests that have a slot, or will have once their prompt is read."""
        yield from self.slots.running
        if reading := self.reading:  # asked for once: other threads look too
            yield reading

    def _drop_those_at_an_end(self) -> None:
        """Whoever has cancelled, or whose time is over: a reply that takes too long is cut, and
        who has waited for too long is told so."""
        before = self.clock() - LONGEST_SECONDS
        for row in reversed(range(len(self.slots.running))):
            if finish := _due(self.slots.running[row], before):
                self._end(self._leave(row), finish)
        if self.reading and (finish := _due(self.reading, before)):
            self._end(self.reading, finish)
            self.reading = None
        for request in [request for request in self.waiting if _due(request, before)]:
            self.waiting.remove(request)
            if request.cancelled:
                self._end(request, "cancelled")
                continue
            why = Busy(
                "no slot became free in {seconds:g} seconds: try again later",
                seconds=LONGEST_SECONDS,
            )
            self._end(request, "error", why)

    def _read_prompts(self, began: float) -> int:
        """Read in turn, as long as the pace allows; how many tokens were read. A prompt at its end
        gives its first token and joins.

        began  since when those that run wait for their next tokens
        """
        read = 0
        while self.slots.free and (self.reading or self.waiting):
            rows, spent = len(self.slots.running), self.clock() - began
            most = self.pace.tokens(rows, read, spent, PREFILL_TOKENS - read)
            if most < 1 or not (self.reading or self._admit()):
                break
            request = self.reading
            assert request is not None
            logits_V = None
            if request.prefilled == 0:
                self.counts.prompt_tokens += len(request.prompt_ids)
                logits_V = self.slots.open(request)
                self.counts.reused_tokens += request.reused
                if request.reused and logits_V is None:
                    continue  # that took its time
            if logits_V is None:
                before = request.prefilled
                logits_V = self._read(request, most)
                if logits_V is None:
                    continue
                read += request.prefilled - before
            if request.prefilled == len(request.prompt_ids):
                if request.reused < len(request.prompt_ids):
                    self.slots.keep_prompt(request, logits_V)
                if not self._sample(_numbers(logits_V)[None], [request]):
                    self.slots.join(request)
                self.reading = None  # not before: what fails on the way must find it
        return read

    def _read(self, request: Request, most: int) -> torch.Tensor | None:
        """At most so many more tokens of a prompt; None where memory does not suffice."""
        before, started = request.prefilled, self.clock()
        try:
            logits_V = self.slots.prefill(request, most)
            float(logits_V[0])  # a GPU is done only then, and else the next step would seem slow
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.reading = None
            self._give_up(request)
            return None
        tokens = request.prefilled - before
        self.pace.read(tokens, self.clock() - started)
        self.counts.passes += 1
        self.counts.read_tokens += tokens
        if request.prefilled < len(request.prompt_ids):
            request.tell_reading()
        return logits_V

    def _admit(self) -> bool:
        """Begin with the request whose turn it is; False where nobody's is, or its state would not
        find room: then it waits for that, and the others behind it."""
        held = Counter(request.user for request in self._holding())
        users = [request.user for request in self.waiting]
        place = next_place(users, held, self._last_turn, self.slots.count)
        if place is None:
            return False
        lengths = [request.longest for request in (*self._holding(), self.waiting[place])]
        if not self.slots.state.fits(lengths):
            return False
        request = self.reading = self.waiting.pop(place)
        self._turns += 1
        self._last_turn[request.user] = self._turns
        self._last_turn.move_to_end(request.user)
        if len(self._last_turn) > USERS_REMEMBERED:
            self._last_turn.popitem(last=False)
        return True

    def _tell_places(self) -> None:
        if not self.waiting:
            return
        held = Counter(request.user for request in self._holding())
        users = [request.user for request in self.waiting]
        for number, place in enumerate(in_turn(users, held, self._last_turn), start=1):
            self.waiting[place].wait_at(number)

    def _leave(self, row: int) -> Request:
        """Free a row; what it has seen is kept for the next turn."""
        started = self.clock()
        if self.slots.running[row].finish != "error":
            self.slots.keep_reply(row)
        request = self.slots.leave(row)
        self._leaving += self.clock() - started
        return request

    def _sample(self, logits_BV: npt.NDArray[np.float32], requests: Sequence[Request]) -> list[int]:
        """The next id of each request; the rows whose replies are at their end."""
        drawn = zip(requests, self._draw(logits_BV, requests), logits_BV, strict=True)
        return [row for row, one in enumerate(drawn) if self._take(*one)]

    def _take(
        self, request: Request, next_id: int | LmappsError, logits_V: npt.NDArray[np.float32]
    ) -> bool:
        """Give a request its next id; True when its reply is at its end."""
        top = request.decoding.logprobs
        try:
            if isinstance(next_id, LmappsError):
                raise next_id
            told = None if top is None else logprob_of(logits_V[: self.vocab_size], next_id, top)
            ended = request.take(next_id, told)
        except LmappsError as error:  # this request's alone
            self._end(request, "error", error)
            return True
        self.counts.generated_tokens += 1
        if len(request.generated) == 1:
            self.counts.first_token.add(self.clock() - request.arrived)
        if request.finish:
            self.counts.end(request.finish, self.clock())
        return ended

    def _give_up(self, request: Request) -> None:
        """End the one that memory does not suffice for."""
        error = _no_memory(request)
        self.counts.trouble = time.monotonic(), str(error)
        self._end(request, "error", error)

    def _end(self, request: Request, finish: Finish, error: Exception | None = None) -> None:
        request.end(finish, error)
        self.counts.end(finish, self.clock())


def _due(request: Request, before: float) -> Finish | None:
    """How a request ends now: a person's has its time, others as long as they take."""
    if request.cancelled:
        return "cancelled"
    return "length" if request.user is not None and request.arrived < before else None


def _failed(error: Exception) -> LmappsError:
    reason = f"{type(error).__name__}: {error}"
    failure = EngineFailed("the engine failed ({reason}): it goes on, try again", reason=reason)
    failure.__cause__ = error
    return failure


def _no_memory(request: Request) -> Busy:
    """What the request is told that is given up for the others."""
    return Busy(
        "there is not enough memory for a prompt of {tokens} tokens now (after {written} "
        "tokens of the reply): try again later, or a shorter one"
        if request.generated
        else "there is not enough memory for a prompt of {tokens} tokens now: try again "
        "later, or a shorter one",
        tokens=len(request.prompt_ids),
        written=len(request.generated),
    )


def _numbers(logits: torch.Tensor) -> npt.NDArray[np.float32]:
    return logits.float().cpu().numpy()
