"""Numbers on a device -> numbers here, without waiting for what the device was given since."""

from __future__ import annotations

import torch


class Reading:
    """The loss of a step and the norm of its gradient.

    On a GPU both are copied behind the step's own work, and read when somebody asks, a step later:
    by then the next step is queued, and the device never stands still.
    """

    def __init__(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.step = step
        later = loss.device.type == "cuda"  # of other devices nobody could say when it is there
        self._loss, self._norm = (
            number.detach().to("cpu", non_blocking=later) for number in (loss, norm)
        )
        self._copied = None
        if later:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    @property
    def loss(self) -> float:
        return self._read(self._loss)

    @property
    def norm(self) -> float:
        return self._read(self._norm)

    def _read(self, number: torch.Tensor) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return float(number)
