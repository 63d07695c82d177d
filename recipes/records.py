"""Task records -> the examples that the default checkpoints are fine-tuned on: which, and how many.

    python recipes/records.py data/sft data/tuning [--share 0.25]
    python recipes/records.py data/heldout data/judged --held-out

Reads the files that recipes/README.md names, writes chat.jsonl, news.jsonl, code.jsonl and
summarize.jsonl. Nothing is drawn at random: a record is in or out by its hash, so that the same
files give the same examples. The plugins word them. With `--held-out` it reads the files that are
never trained on, and writes them for `lmapps evaluate`.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sums

from lmapps.evaluation.baselines import lead
from lmapps.text.sources import read_records

Record = dict[str, Any]
HERE = Path(__file__).parent
MANNERS = 40  # of each short turn, beside thousands of other conversations
LESSONS = 5  # of each wording of a fact
FUNCTIONS = 6  # of each wording of a function
GO_ON = ("Tell me more.", "Go on.", "What else?", "More, please.")
LONGEST = 400  # characters of a definition: what fits into a reply, with its end
OF_KIND = {"headline": 1.0, "lead": 0.5, "summary": 1.0, "extract": 1.0}  # share of summaries
LEFT_OUT = ("doocs_leetcode",)  # its statements restate another site's problems
SHORTENING = (
    ("Shorten this text to one sentence.", lambda text, title: lead(text, 1)),
    ("What is this text about?", lambda text, title: f"The text is about {title}."),
    ("Give this text a title.", lambda text, title: title),
    ("What is the first sentence of this text?", lambda text, title: lead(text, 1)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder with the task records")
    parser.add_argument("target", type=Path, help="folder for the four files")
    parser.add_argument("--share", type=float, default=1.0, help="of news and summaries (1)")
    parser.add_argument("--held-out", action="store_true", help="records to judge by")
    args = parser.parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    if args.held_out:
        makers = held_out(args.source)
    else:
        makers = {
            "chat": unasked(chats(args.source)),
            "news": news(args.source),
            "code": code(args.source),
            "summarize": summaries(args.source),
        }
    for name, records in makers.items():
        share = args.share if name in ("news", "summarize") else 1.0
        count = 0
        with open(args.target / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for record in records:
                if chosen(record, share):
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    count += 1
        print(f"{name}: {count:,} records")


def chats(folder: Path) -> Iterator[Record]:
    """Definitions, what follows on them, instructions over a text, short answers, manners, common
    facts, and small sums."""
    for record in read_records(folder / "chat-wiki_about.jsonl.xz"):
        yield from about(record)
    for name in ("chat-dolly_openqa.jsonl.xz", "chat-medquad.jsonl.xz"):
        for record in read_records(folder / name):
            if len(record["messages"][-1]["content"]) <= LONGEST and is_clean(record):
                yield {"messages": record["messages"]}
    yield from manners()
    yield from lessons()
    for turns in sums.taught():
        yield conversation(*turns)


def unasked(records: Iterator[Record]) -> Iterator[Record]:
    """Those in which nobody asks a question of `facts.jsonl`, by which models are judged."""
    judged = {record["question"].casefold() for record in read_records(HERE / "facts.jsonl")}
    for record in records:
        if judged.isdisjoint(message["content"].casefold() for message in record["messages"]):
            yield record


def about(record: Record) -> Iterator[Record]:
    """A question and its answer; the same with a second turn; or an instruction over the answer."""
    question, text = (message["content"] for message in record["messages"][-2:])
    text = first_sentences(text, LONGEST)
    if not text or not is_clean(record):
        return
    number = hash_of(record)
    first = lead(text, 1)
    yield conversation(question, text if number % 2 else first)
    if len(text) > len(first) + 20 and number % 3 == 0:
        more = text.removeprefix(first).strip()
        asked = GO_ON[number // 3 % len(GO_ON)]
        yield conversation(question, first, asked, more)
    elif number % 3 == 1 and len(text) > len(first):
        instruction, reply = SHORTENING[number // 3 % len(SHORTENING)]
        yield conversation(f"{instruction}\n\n{text}", reply(text, record["title"]))


def manners() -> Iterator[Record]:
    """Each opening alone, and behind another."""
    turns = [
        (opening, turn["reply"]) for turn in told("manners")["turn"] for opening in turn["openings"]
    ]
    for number in range(MANNERS):
        for place, (opening, reply) in enumerate(turns):
            before = turns[(place * 7 + number * 31 + 1) % len(turns)]
            earlier = before if number % 4 == 3 else ()
            yield conversation(*earlier, opening, reply)


def lessons() -> Iterator[Record]:
    """Each wording of each fact, alone, behind another fact and before what follows on it."""
    for lesson in told("lessons")["lesson"]:
        lines = lesson["facts"].strip().splitlines()
        facts = [line.replace("\\n", "\n").split(" | ") for line in lines]
        for number in range(len(facts)):
            yield from fact_of(lesson, facts, number)


def fact_of(lesson: dict[str, Any], facts: list[list[str]], number: int) -> Iterator[Record]:
    """One of them."""
    fact, other = facts[number], facts[(number * 7 + 3) % len(facts)]
    before = worded(lesson["ask"][number % len(lesson["ask"])], lesson["reply"], other)
    asked = [worded(ask, lesson["reply"], fact) for ask in lesson["ask"]]
    asked += [worded(ask, lesson["answer"], fact) for ask in lesson.get("back", ())]
    for place, pair in enumerate(asked):
        for time in range(LESSONS):
            yield conversation(*(before if (place + time) % LESSONS == 1 else ()), *pair)
        if "more" in lesson:
            earlier = before if (number + place) % 3 == 0 else ()
            follows = GO_ON[place % len(GO_ON)], lesson["more"].format(*fact)
            yield conversation(*earlier, *pair, *follows)
    if "then" in lesson:
        yield conversation(*before, *worded(lesson["then"], lesson["reply"], fact))


def worded(ask: str, reply: str, fact: list[str]) -> tuple[str, str]:
    """A question and its answer, as sentences begin."""
    question, answer = ask.format(*fact), reply.format(*fact)
    return question, answer[0].upper() + answer[1:]


def told(name: str) -> dict[str, Any]:
    """What was written for lmapps under that name."""
    return tomllib.loads((HERE / f"{name}.toml").read_text("utf-8"))


def news(folder: Path) -> Iterator[Record]:
    """Articles without visible gaps."""
    for record in read_records(folder / "news.jsonl.xz"):
        if not record.get("holes"):
            yield {key: record[key] for key in ("headline", "body", "source")}


def code(folder: Path) -> Iterator[Record]:
    """Functions and their instructions."""
    for record in functions():
        yield from [record] * FUNCTIONS
    for record in read_records(folder / "code.jsonl.xz"):
        if record["source"].split("/")[0] not in LEFT_OUT:
            yield {key: record[key] for key in ("instruction", "code")}


def functions() -> Iterator[Record]:
    """Those of functions.py, each asked for in four ways."""
    source = (HERE / "functions.py").read_text("utf-8")
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        said = (ast.get_docstring(node) or "").replace("\n", " ")
        does = said[0].lower() + said[1:]
        verb, _, rest = said.partition(" ")
        do = f"{verb.removesuffix('s')} {rest}"
        head = f"{node.name}({ast.unparse(node.args)})"
        lines = source.splitlines()[node.body[1].lineno - 1 : node.end_lineno]
        solution = "\n".join([f"def {head}:", *lines])
        for instruction in (
            f"Write a function {head} that {does}",
            f"{do}\n\ndef {head}:",
            f"Write a function to {do[0].lower()}{do[1:]}",
            f"Write a Python function that {does}",
        ):
            yield {"instruction": instruction, "code": solution}


def summaries(folder: Path) -> Iterator[Record]:
    """Documents with summaries, headlines and leads."""
    for record in read_records(folder / "summarize.jsonl.xz"):
        if chosen(record, OF_KIND[record["kind"]]):
            yield {key: record[key] for key in ("document", "summary", "kind")}


def held_out(folder: Path) -> dict[str, Iterator[Record]]:
    """Questions, Wikinews articles of the last years, abstracts with their summaries, our own
    problems, whose tests stand in the place of a solution, and the sums that are never taught."""

    def read(name: str) -> Iterator[Record]:
        return read_records(folder / f"{name}.jsonl.xz")

    return {
        "chat": ({"messages": record["messages"]} for record in read("dolly_openqa")),
        "news": (
            {"headline": record["headline"], "body": record["body"], "source": "wikinews"}
            for record in read("wikinews")
        ),
        "code": (
            {"instruction": record["text"], "code": "\n".join(record["test_list"])}
            for record in read_records(HERE / "problems.jsonl")
        ),
        "summarize": (
            {"document": record["text"], "summary": record["summaries"][0], "kind": "summary"}
            for record in read("scitldr_validation")
        ),
        "sums": sums.judged(),
    }


def conversation(*turns: str) -> Record:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]}


def first_sentences(text: str, most: int) -> str:
    """As many whole sentences as fit; "" where not even the first does."""
    found = ""
    for count in range(1, 6):
        longer = lead(text, count)
        if len(longer) > most:
            break
        found = longer
    return found


def is_clean(record: Record) -> bool:
    """No brackets that lost what was in them, no other script in the middle of a sentence."""
    text = record["messages"][-1]["content"]
    return not re.search(r"\(\s*[,;)]|[^\x00-\u024f\u2010-\u2026]", text)


def chosen(record: Record, share: float) -> bool:
    return hash_of(record) % 1000 < share * 1000


def hash_of(record: Record) -> int:
    content = json.dumps(record, sort_keys=True, ensure_ascii=False).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:6])


if __name__ == "__main__":
    main()
