"""The settings of `rekindle train`: one table of what there is, and a strict reader for it.

A setting that is misspelt, of the wrong type or out of range is never ignored: it is refused with its file and line,
the reason, and the nearest name that exists. `SETTINGS` is the only list of settings; the reader, the command's
`--settings` and the page `docs/configure.md` are made from it. Torch-free.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rekindle.errors import ConfigError
from rekindle.keys import near_names
from rekindle.recipes.toml_lines import Path, lines_of

__all__ = ["RECIPES", "SETTINGS", "Setting", "Settings", "as_toml", "read_settings", "settings_of", "toml_value"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, what it may be, and what it means.

    Attributes:
        name: dotted name; the part before the dot is the table in the file.
        kind: ``integer``, ``number``, ``text``, ``switch`` or ``numbers`` (an array).
        default: the value where nothing is said.
        means: one sentence for people.
        least: smallest value allowed; for an array, of each element.
        above: the value must be greater than this.
        most: largest value allowed.
        below: the value must be less than this.
        words: the texts allowed; empty for any.
        count: length of an array; None for any.
    """

    name: str
    kind: str
    default: Any
    means: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    words: tuple[str, ...] = ()
    count: int | None = None


SETTINGS: Final = (
    Setting("epochs", "integer", 30, "passes over the training data", least=1),
    Setting("batch_size", "integer", 32, "samples per batch", least=1),
    Setting("seed", "integer", 0, "the one number that order, augmentation and first weights follow from", least=0),
    Setting("workers", "integer", 0, "processes that load data; the result does not depend on it", least=0, most=256),
    Setting(
        "precision",
        "text",
        "fp32",
        "fp32, bf16/fp16 in the forward pass, or half weights",
        words=("fp32", "bf16", "fp16", "O0", "O1", "O2", "O3", "bf16-true", "fp16-true"),
    ),
    Setting("accumulate", "integer", 1, "batches whose gradients make one update", least=1),
    Setting("clip_norm", "number", 1.0, "longest gradient; longer ones are scaled down; 0 for never", least=0),
    Setting(
        "ema",
        "number",
        0.0,
        "decay of averaged weights, such as 0.99, which are then evaluated; 0 for none",
        least=0,
        below=1,
    ),
    Setting("out", "text", "runs/NAME", "the run's folder; NAME is that of the recipe or file"),
    Setting("data.name", "text", "digits", "digits, or tensors:FILE with `inputs` and `labels`"),
    Setting("data.classes", "integer", 0, "number of classes; 0 for the largest label and one more", least=0),
    Setting("data.validation", "number", 0.1, "part of the samples kept for validation", above=0, below=1),
    Setting("data.test", "number", 0.2, "part of the samples kept for the final test", above=0, below=1),
    Setting(
        "data.split", "integer", 0, "number that the split follows from; not the seed, so that seeds compare", least=0
    ),
    Setting("data.shift", "integer", 1, "pictures are moved by up to this many pixels at random; 0 for never", least=0),
    Setting("data.drop_last", "switch", False, "leave out a last batch that is shorter"),
    Setting("model.name", "text", "lenet", "lenet, mlp, or package.module:factory"),
    Setting("model.dropout", "number", 0.25, "part of the features dropped in training", least=0, below=1),
    Setting("model.hidden", "numbers", [64, 64], "widths of the hidden layers of an mlp", least=1),
    Setting("optimizer.name", "text", "sgd", "sgd, adam or adamw", words=("sgd", "adam", "adamw")),
    Setting("optimizer.lr", "number", 0.05, "learning rate after the warm-up", above=0),
    Setting("optimizer.momentum", "number", 0.9, "momentum of sgd", least=0, below=1),
    Setting("optimizer.betas", "numbers", [0.9, 0.999], "decays of adam and adamw", least=0, below=1, count=2),
    Setting("optimizer.weight_decay", "number", 5e-4, "weight decay", least=0),
    Setting(
        "schedule.name", "text", "cosine", "how the learning rate goes", words=("cosine", "linear", "step", "constant")
    ),
    Setting("schedule.warmup", "number", 1, "epochs of linear warm-up; never more than half of all", least=0),
    Setting("schedule.every", "integer", 10, "for step: epochs between two steps down", least=1),
    Setting("schedule.gamma", "number", 0.1, "for step: what the rate is multiplied by", above=0, most=1),
    Setting("schedule.floor", "number", 0.0, "lowest learning rate, as a part of optimizer.lr", least=0, most=1),
    Setting("snapshots.save_every", "text", "1 epoch", 'how often: "200 steps", "5 minutes" or "1 epoch"'),
    Setting("snapshots.keep_last", "integer", 3, "snapshots to keep, newest first", least=1),
    Setting(
        "snapshots.keep_every", "integer", 0, "keep each snapshot whose step is a multiple of this; 0 for none", least=0
    ),
    Setting(
        "snapshots.keep_best",
        "text",
        "val_accuracy",
        "keep the best by this metric",
        words=("val_accuracy", "min:val_loss", "none"),
    ),
)
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
_TABLES: Final = {setting.name.split(".")[0] for setting in SETTINGS if "." in setting.name}
_FREE_TABLE: Final = "model.arguments"  # keyword arguments of the user's own factory: any names, any plain values

# What a recipe changes in the defaults.
RECIPES: Final[Mapping[str, Mapping[str, Any]]] = {"digits": {"out": "runs/digits"}}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one training, checked.

    Attributes:
        values: dotted name -> value, for every name in `SETTINGS`.
        arguments: keyword arguments for a model factory of the user's own.
    """

    values: Mapping[str, Any]
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return the value of a setting by its dotted name."""
        return self.values[name]


@dataclass(frozen=True, slots=True)
class _Problem:
    where: str
    text: str
    help: str


def read_settings(path: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a TOML file of settings.

    Args:
        path: the file.
        overrides: dotted name -> value from the command line; they outrank the file.

    Raises:
        ConfigError: it is not TOML, or a setting in it cannot be meant as written; every such line is named.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        raw = file.read(1_000_001)
    if len(raw) > 1_000_000:
        raise ConfigError(f"{path}: more than 1,000,000 bytes", why="this is no file of settings", do=_SHOW)
    try:
        text = raw.decode()
        tree = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text", why="TOML files are UTF-8", do=_SHOW) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_words(path, str(error)), why=_syntax_cause(text, str(error)), do=_SHOW) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply", why="this is no file of settings", do=_SHOW) from None
    lines = lines_of(text)

    def where(place: Path) -> str:
        while place not in lines:  # the short form `data = "digits"` has no line for `data.name`
            place = place[:-1]
        return f"line {lines[place]}"

    stem = os.path.splitext(os.path.basename(path))[0]
    return _checked(path, tree, where, overrides or {}, {"out": os.path.join("runs", stem)})


def settings_of(recipe: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a recipe that comes with rekindle, with overrides from the command line.

    Raises:
        ConfigError: an override cannot be meant as written.
    """
    return _checked("", {}, lambda _: "", overrides or {}, RECIPES[recipe])


def toml_value(value: Any) -> str:
    """Return a plain value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {toml_value(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def as_toml(settings: Settings) -> str:
    """Return the settings as a file that `read_settings` reads back to the same values, with a comment on each."""
    lines: list[str] = []
    table = ""
    for setting in SETTINGS:
        head, _, tail = setting.name.rpartition(".")
        if head != table:
            lines += ["", f"[{head}]"]
            table = head
        line = f"{tail} = {toml_value(settings[setting.name])}"
        lines.append(f"{line:<32} # {setting.means}")
    if settings.arguments:
        lines += [
            "",
            f"[{_FREE_TABLE}]",
            *(f"{_toml_key(k)} = {toml_value(v)}" for k, v in settings.arguments.items()),
        ]
    return "\n".join(lines) + "\n"


_SHOW = "rekindle train digits --settings    shows a file with every setting"


def _checked(
    path: str, tree: Mapping[str, Any], where: Any, overrides: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Settings:
    values = {setting.name: setting.default for setting in SETTINGS} | dict(defaults)
    arguments: Mapping[str, Any] = {}
    problems: list[_Problem] = []
    for place, value in _settings_in(tree):
        name = ".".join(map(str, place))
        if name == _FREE_TABLE and isinstance(value, dict):
            arguments = value
            continue
        setting = _BY_NAME.get(name)
        problem = _unknown(name) if setting is None else _fault(setting, value)
        if problem is None:
            values[name] = value
        else:
            text, help_, *index = problem
            problems.append(_Problem(where((*place, *index)), text, help_))
    for name, value in overrides.items():
        problem = _fault(_BY_NAME[name], value)
        if problem is not None:
            flag = "--" + name.rpartition(".")[2].replace("_", "-")
            problems.append(_Problem(flag, problem[0], problem[1]))
        values[name] = value
    if not problems:
        problems.extend(_combinations(values, arguments, tree, where))
    if problems:
        raise _error(path, problems)
    return Settings(values, arguments)


def _settings_in(tree: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yield (path, value) of every setting; `data = "digits"` is short for `data.name = "digits"`."""
    for key, value in tree.items():
        if key in _TABLES and isinstance(value, str):
            yield (key, "name"), value
        elif key in _TABLES and isinstance(value, dict):
            yield from (((key, inner), content) for inner, content in value.items())
        else:
            yield (key,), value


def _unknown(name: str) -> tuple[str, str]:
    if name in _TABLES:
        return f"`{name}` is a table", f'write it as [{name}] with its settings below, or as {name} = "NAME"'
    names = [setting.name for setting in SETTINGS]
    tail = name.rpartition(".")[2]
    near = [] if "." in name else [f"[{table}]" for table in near_names(name, _TABLES)]
    near += [full for full in names if full.rpartition(".")[2] == tail]  # right name, wrong table
    near += [full for full in near_names(name, names) if full not in near]
    tails = {full.rpartition(".")[2]: full for full in names}
    near += [tails[found] for found in near_names(tail, tails) if tails[found] not in near]
    near += [_FREE_TABLE] if "arg" in tail else []
    help_ = f"nearest: {', '.join(f'`{found}`' for found in near[:4])}" if near else ""
    return f"unknown setting `{name}`", help_


def _fault(setting: Setting, value: Any) -> tuple[str, str] | tuple[str, str, int] | None:
    """Return what is wrong with a value and what would be right, None where it is fine.

    A third element is the index of the array element at fault.
    """
    if setting.kind == "numbers":
        if not isinstance(value, list) or not value or (setting.count and len(value) != setting.count):
            count = f"{setting.count} numbers" if setting.count else "numbers"
            return (
                f"`{setting.name}` is {_shown(value)}",
                f"an array of {count}, such as {toml_value(setting.default)}",
            )
        for index, element in enumerate(value):
            wrong = _number_fault(setting, element)
            if wrong:
                return f"`{setting.name}[{index}]` is {_shown(element)}", wrong, index
        return None
    if setting.kind in ("integer", "number"):
        wrong = _number_fault(setting, value)
        return (f"`{setting.name}` is {_shown(value)}", wrong) if wrong else None
    if setting.kind == "switch":
        return None if isinstance(value, bool) else (f"`{setting.name}` is {_shown(value)}", "true or false")
    if not isinstance(value, str):
        return f"`{setting.name}` is {_shown(value)}", "a text in quotes"
    if setting.words and value not in setting.words:
        near = near_names(value, setting.words)
        listed = f"one of: {', '.join(setting.words)}"
        return f"`{setting.name}` is {_shown(value)}", f"nearest: {near[0]}; {listed}" if near else listed
    return _text_fault(setting, value)


def _number_fault(setting: Setting, value: Any) -> str:
    whole = setting.kind == "integer" or setting.name == "model.hidden"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return "a whole number" if whole else "a number"
    bounds = [
        (setting.least is None or value >= setting.least, f"at least {setting.least}"),
        (setting.above is None or value > setting.above, f"greater than {setting.above}"),
        (setting.most is None or value <= setting.most, f"at most {setting.most}"),
        (setting.below is None or value < setting.below, f"less than {setting.below}"),
    ]
    if not math.isfinite(value):
        return "a finite number"
    if setting.name in ("seed", "data.split") and value >= 2**63:
        return "less than 2^63"
    if all(holds for holds, _ in bounds):
        return ""
    named = [setting.least is not None, setting.above is not None, setting.most is not None, setting.below is not None]
    return " and ".join(words for (_, words), is_set in zip(bounds, named, strict=True) if is_set)


def _text_fault(setting: Setting, value: str) -> tuple[str, str] | None:
    fault = f"`{setting.name}` is {_shown(value)}"
    if setting.name == "snapshots.save_every" and not _is_interval(value):
        return fault, 'a number and a unit: "200 steps", "5 minutes" or "1 epoch"'
    if setting.name == "data.name" and value != "digits" and not (value.startswith("tensors:") and value[8:]):
        return fault, "digits, or tensors:FILE with the path of a file that holds `inputs` and `labels`"
    if setting.name == "model.name" and value not in ("lenet", "mlp"):
        module, colon, factory = value.partition(":")
        if not (colon and factory.isidentifier() and all(part.isidentifier() for part in module.split("."))):
            near = near_names(value, ("lenet", "mlp"))
            words = "lenet, mlp, or package.module:factory for a function of your own"
            return fault, f"nearest: {near[0]}; {words}" if near else words
    if setting.name == "out" and (not value or "\0" in value):
        return fault, "the path of a folder"
    return None


def _is_interval(text: str) -> bool:
    number, _, unit = text.strip().partition(" ")
    try:
        amount = float(number)
    except ValueError:
        return False
    units = {"step", "steps", "second", "seconds", "minute", "minutes", "hour", "hours", "epoch", "epochs"}
    counted = unit.startswith(("step", "epoch"))
    return math.isfinite(amount) and amount > 0 and unit in units and (not counted or amount == int(amount))


def _combinations(
    values: Mapping[str, Any], arguments: Mapping[str, Any], tree: Mapping[str, Any], where: Any
) -> Iterator[_Problem]:
    """Yield what is wrong with settings that are fine one by one."""

    def place(name: str) -> str:
        head, _, tail = name.rpartition(".")
        inside = tree.get(head) if head else tree
        written = isinstance(inside, dict) and tail in inside
        return where((head, tail) if head else (tail,)) if written else ""

    if values["data.validation"] + values["data.test"] >= 1:
        text = f"`data.validation` and `data.test` are {values['data.validation']} and {values['data.test']}"
        yield _Problem(place("data.test") or place("data.validation"), text, "a sum below 1, to leave training data")
    if arguments and values["model.name"] in ("lenet", "mlp"):
        text = f"`{_FREE_TABLE}` is given for the model `{values['model.name']}`"
        yield _Problem(
            where(("model", "arguments")), text, "they are for a factory of your own: package.module:factory"
        )


def _error(path: str, problems: list[_Problem]) -> ConfigError:
    if len(problems) == 1:
        problem = problems[0]
        place = ", ".join(part for part in (path if not problem.where.startswith("--") else "", problem.where) if part)
        first = f"{place}: {problem.text}" if place else problem.text
        wanted = problem.help if problem.help.startswith("nearest") or not problem.help else f"wanted: {problem.help}"
        return ConfigError(first, why=wanted, do=_SHOW)
    rows = [f"{p.where + ': ' if p.where else ''}{p.text}{'; ' + p.help if p.help else ''}" for p in problems]
    subject = path or "the settings"
    return ConfigError(
        f"{subject}: {len(problems)} settings cannot be meant as written", why="\n          ".join(rows), do=_SHOW
    )


def _syntax_words(path: str, message: str) -> str:
    reason, _, place = message.partition(" (at ")
    place = place.rstrip(")")
    line = place.split(",")[0] if place.startswith("line") else "at its end"
    return f"{path}, {line}: not valid TOML: {reason[:1].lower()}{reason[1:]}"


def _syntax_cause(text: str, message: str) -> str:
    _, _, place = message.partition("(at line ")
    number = place.split(",")[0]
    lines = text.splitlines()
    if not number.isdigit() or int(number) > len(lines):
        return ""
    return f"the line reads: {lines[int(number) - 1].strip()[:100]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    text = toml_value(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _toml_key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key) else _toml_text(key)


def _toml_text(text: str) -> str:
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(named.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'
