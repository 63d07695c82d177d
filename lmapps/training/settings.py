"""A person's choices -> `TrainSettings`: everything that decides a training run, validated once."""

from __future__ import annotations

import tomllib
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lmapps.errors import SettingsError
from lmapps.text.tokenizer import TokenizerKind

if TYPE_CHECKING:
    from lmapps.model.config import ModelConfig


def option(default: Any, help: str) -> Any:
    """A field with the text that `lmapps train --help` shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainSettings:
    """One run. An unknown key or a value out of range raises `SettingsError`."""

    data: tuple[str, ...] = option(
        (), "files or folders of text; NAME=FILE gives records to --apps"
    )
    out: str = option("", "folder for the checkpoint, the log and the report")
    apps: tuple[str, ...] = option(
        (), "plugins whose data sets are trained on, e.g. chat,summarize"
    )
    start_from: str = option("", "checkpoint to go on from (option --from)")

    model: str = option("transformer", "body: rnn, gru, lstm or transformer")
    size: str = option("tiny", "the one dial: tiny, small, base or large")
    layers: int = option(0, "number of layers, where the size's does not suit (0 = the size's)")
    width: int = option(0, "hidden width, where the size's does not suit (0 = the size's)")
    context: int = option(256, "longest prompt and reply together, in tokens")
    tokenizer: TokenizerKind = option("bpe", f"kind: {', '.join(get_args(TokenizerKind))}")
    vocab_size: int = option(4096, "the most tokens in the vocabulary")
    dropout: float = option(0.0, "share of activations zeroed in training")

    steps: int = option(0, "optimizer steps to train for")
    tokens: int = option(0, "tokens to train for, instead of steps")
    minutes: float = option(0.0, "minutes to train for, instead of steps")
    batch_tokens: int = option(8192, "tokens in one optimizer step, over all processes")
    micro_batch_tokens: int = option(8192, "tokens in one forward pass; the rest is accumulated")

    lora: int = option(
        0, "rank of low-rank adapters to train instead of all weights; merged when saved (0 = all)"
    )
    mix_data: tuple[str, ...] = option(
        (), "with --apps, text to go on reading, against forgetting (option --mix-data FILES)"
    )
    mix: float = option(0.2, "share of the forward passes that read --mix-data")

    optimizer: str = option("muon", "muon (matrices; AdamW for the rest) or adamw")
    learning_rate: float = option(0.003, "at its highest")
    weight_decay: float = option(0.1, "decoupled, on matrices")
    warmup: float = option(0.02, "share of the run in which the learning rate rises")
    decay: float = option(0.4, "share of the run, at its end, in which it falls to zero")
    clip: float = option(1.0, "largest norm of the gradient")

    evaluations: int = option(10, "how often validation is run, evenly over the run")
    judged: int = option(
        0, "held-out examples of each plugin scored by its metrics at each evaluation"
    )
    problems: tuple[str, ...] = option(
        (), "NAME=FILE: HumanEval- or MBPP-format problems for a plugin; NAME.pass@1 is its metric"
    )
    samples: int = option(1, "of each problem; NAME.pass@K for each K of 1, 10 and 100 up to this")
    best: str = option("loss", "what the best weights have: the lowest loss, or PLUGIN.METRIC")
    patience: int = option(0, "stop after so many evaluations without improvement (0 = never)")
    saves: int = option(10, "how often the state to resume from is written, evenly over the run")
    mixed_precision: str = option("auto", "auto, no or bf16")
    compile: str = option("auto", "torch.compile: auto (a transformer on a GPU), yes or no")
    shard: bool = option(
        False, "split weights, gradients and optimizer state over the processes (FSDP2)"
    )
    save_dtype: str = option("float32", "weights on disk: float32 or bfloat16")
    seed: int = option(0, "decides the weights at the start and the order of the data")

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_choices()
        self._check_numbers()
        if not self.out:
            raise SettingsError("no folder for the checkpoint: give one with --out DIR")
        bounds = [n for n in ("steps", "tokens", "minutes") if getattr(self, n)]
        if len(bounds) > 1:
            raise SettingsError(
                "give one of steps, tokens and minutes, got {names}", names=" and ".join(bounds)
            )
        if self.best != "loss" and not self.judged and ".pass@" not in self.best:
            raise SettingsError(
                f"the best weights by {self.best} need examples to score: give --judged 20"
            )
        for name in ("apps", "lora"):
            if getattr(self, name) and not self.start_from:
                raise SettingsError(f"--{name} fine-tunes a checkpoint: name it with --from DIR")
        if self.problems and not self.apps:
            raise SettingsError("--problems goes with --apps: NAME=FILE with NAME one of them")
        if self.mix_data and not self.apps:
            raise SettingsError("--mix-data goes with --apps; without, give all text as --data")
        if self.lora and self.shard:
            raise SettingsError("give one of --lora and --shard: adapters need little memory")

    def _check_texts(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            _check_text(item, value)
            if isinstance(item.default, tuple):
                object.__setattr__(self, item.name, tuple(value))

    def _check_choices(self) -> None:
        from lmapps.model.config import (
            BODIES,
            SIZES,
        )  # brings torch, which --help must not wait for

        choices = {
            "model": BODIES,
            "size": tuple(SIZES),
            "tokenizer": get_args(TokenizerKind),
            "optimizer": ("muon", "adamw"),
            "mixed_precision": ("auto", "no", "bf16"),
            "compile": ("auto", "yes", "no"),
            "save_dtype": ("float32", "bfloat16"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise SettingsError(
                    "{name} must be one of {known}, got {value!r}",
                    name=name,
                    known=", ".join(known),
                    value=getattr(self, name),
                )

        if not isinstance(self.shard, bool):
            raise SettingsError(f"shard must be true or false, got {self.shard!r}")

    def _check_numbers(self) -> None:
        ranges = {
            "layers": (0, 1000), "width": (0, 100_000), "context": (8, 1_000_000),
            "vocab_size": (16, 2**20), "dropout": (0, 0.9), "steps": (0, 10**9),
            "tokens": (0, 10**13), "minutes": (0, 10**6), "batch_tokens": (8, 10**8),
            "micro_batch_tokens": (8, 10**8), "learning_rate": (0, 10), "weight_decay": (0, 10),
            "warmup": (0, 1), "decay": (0, 1), "clip": (0, 10**6), "evaluations": (1, 10**6),
            "lora": (0, 4096), "mix": (0, 0.99), "samples": (1, 1000),
            "judged": (0, 10**6), "patience": (0, 10**6), "saves": (1, 10**6), "seed": (0, 2**31),
        }  # fmt: skip
        known = {item.name: item for item in fields(self)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingsError(
                    "{name} must be a number, got {value!r}", name=name, value=value
                )
            if type(value) is float and str(known[name].type) == "int":
                if not value.is_integer():
                    raise SettingsError(
                        "{name} must be a whole number, got {value}", name=name, value=value
                    )
                value = int(value)  # 8e3 in a recipe
                object.__setattr__(self, name, value)
            if not low <= value <= high:
                raise SettingsError(
                    "{name} must be between {low} and {high}, got {value}",
                    name=name,
                    low=low,
                    high=high,
                    value=value,
                )

    def check_shape(self, config: ModelConfig) -> None:
        """Raises `SettingsError` where another shape is asked for than that of the checkpoint which
        the run goes on from."""
        its: dict[str, Any] = {
            "model": config.body, "size": None, "layers": config.num_layers,
            "width": config.hidden_size, "context": config.context, "tokenizer": None,
            "vocab_size": config.vocab_size,
        }  # fmt: skip
        for item in fields(self):
            asked = getattr(self, item.name)
            if item.name in its and asked not in (item.default, its[item.name]):
                raise SettingsError(
                    "{name} = {asked!r} is for a new model, and this run goes on from {start}: "
                    "leave it out",
                    name=item.name,
                    asked=asked,
                    start=self.start_from,
                )

    def tokens_at_once(self, processes: int = 1) -> int:
        """In one forward pass of each process, at most."""
        return min(self.micro_batch_tokens, self.batch_tokens // processes)

    def rows_at_once(self, context: int, processes: int = 1) -> int:
        """Rows of `context` tokens in one forward pass of each process."""
        return max(1, self.tokens_at_once(processes) // context)

    def passes(self, tokens: int) -> int:
        """Forward passes in a step, where all processes together have so many tokens in one."""
        return max(1, round(self.batch_tokens / tokens))

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> TrainSettings:
        """Settings from names and values; an unknown name is an error."""
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise SettingsError(
                    "unknown setting {name!r}; known: {known}", name=name, known=", ".join(known)
                )
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_words(self) -> list[str]:
        """The options of `lmapps train` that say the same."""
        words: list[str] = []
        for item in fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            words.append(option_name(item.name))
            if item.name == "apps":
                words.append(",".join(value))
            elif isinstance(value, tuple):
                words += value
            elif not isinstance(value, bool):
                words.append(str(value))
        return words


def option_name(setting: str) -> str:
    """A setting as an option of `lmapps train`."""
    return "--from" if setting == "start_from" else "--" + setting.replace("_", "-")


def read_recipe(file: str | Path) -> dict[str, Any]:
    """The settings in a TOML file. Raises `SettingsError` where it cannot be read."""
    try:
        values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"there is no recipe {file}; check the path") from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"recipe {file} cannot be read: {error}") from None
    for item in fields(TrainSettings):
        if item.name in values:
            _check_text(item, values[item.name])
    return values


def _check_text(item: Field[Any], value: Any) -> None:
    """Raises `SettingsError` where a text, or a list of texts, is none."""
    if isinstance(item.default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SettingsError(
                "{name} must be a list of texts, got {value!r}", name=item.name, value=value
            )
    elif isinstance(item.default, str) and not isinstance(value, str):
        raise SettingsError("{name} must be a text, got {value!r}", name=item.name, value=value)
