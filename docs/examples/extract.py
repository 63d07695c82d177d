"""Take an appointment out of a message: the reply is a dataclass, on the page and as JSON."""

from dataclasses import dataclass
from typing import Annotated, Literal

from lmapps import Bounds, Decoding, Passage, plugin

Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


@dataclass
class Appointment:
    who: str
    day: Day | None
    hour: Annotated[int, Bounds(0, 23)] | None
    urgent: bool


@plugin(
    reply=Appointment,
    decoding=Decoding(temperature=0, max_new_tokens=80),
    examples=[["Can you meet Anna on Monday at nine? It can't wait."]],
)
def extract(message: Passage) -> str:
    """Take the appointment out of a message: who, when, and whether it is urgent."""
    return f"Who is to be met, on what day, at what hour, and is it urgent?\n\n{message}"


@extract.dataset
def messages():
    yield {"message": "Lunch with Ben, Friday 12?"}, Appointment("Ben", "Friday", 12, False)
    yield {"message": "Call Mia at 8, urgent!"}, Appointment("Mia", None, 8, True)


@extract.metric
def fields_right(reply: Appointment, reference: Appointment, fields: dict) -> float:
    return sum(vars(reply)[name] == value for name, value in vars(reference).items()) / 4
