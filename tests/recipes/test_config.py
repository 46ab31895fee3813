"""Settings of `rekindle train`: what is refused, in which words, and what is accepted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rekindle.errors import ConfigError
from rekindle.recipes.config import SETTINGS, as_toml, read_settings, settings_of


def refusal(tmp_path, text):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(str(path))
    return str(caught.value).replace(str(tmp_path) + "/", "")


SHOW = "\n  do      rekindle train digits --settings    shows a file with every setting"
REFUSED = [
    ("epoch = 3\n", "my.toml, line 1: unknown setting `epoch`\n  why     nearest: `epochs`"),
    (
        "# mine\n\n[optimizer]\nname = 'sgd'\nlearning_rate = 0.1\n",
        "my.toml, line 5: unknown setting `optimizer.learning_rate`",
    ),
    ("lr = 0.1\n", "my.toml, line 1: unknown setting `lr`\n  why     nearest: `optimizer.lr`"),
    (
        "[optimizer]\nbatch_size = 3\n",
        "my.toml, line 2: unknown setting `optimizer.batch_size`\n  why     nearest: `batch_size`",
    ),
    (
        "[optimizer]\nlr = 0.1\n[optimiser]\nlr = 0.1\n",
        "my.toml, line 3: unknown setting `optimiser`",
    ),
    ("epochs = 0\n", "my.toml, line 1: `epochs` is 0\n  why     wanted: at least 1"),
    ("epochs = 2.5\n", "my.toml, line 1: `epochs` is 2.5\n  why     wanted: a whole number"),
    ("epochs = true\n", "my.toml, line 1: `epochs` is true\n  why     wanted: a whole number"),
    ("\nepochs = '3'\n", 'my.toml, line 2: `epochs` is "3"\n  why     wanted: a whole number'),
    (
        "[optimizer]\nlr = nan\n",
        "my.toml, line 2: `optimizer.lr` is nan\n  why     wanted: a finite number",
    ),
    (
        "ema = 1\n",
        "my.toml, line 1: `ema` is 1\n  why     wanted: at least 0 and less than 1",
    ),
    (
        "optimizer = 'adamm'\n",
        'my.toml, line 1: `optimizer.name` is "adamm"\n  why     nearest: adam; one of: sgd, adam, adamw',
    ),
    (
        "[optimizer]\nname = 'adam'\nbetas = [\n  0.9,\n  1.5,\n]\n",
        "my.toml, line 5: `optimizer.betas[1]` is 1.5\n  why     wanted: at least 0 and less than 1",
    ),
    (
        "model = { name = 'mlp', hidden = [64, 'wide'] }\n",
        'my.toml, line 1: `model.hidden[1]` is "wide"\n  why     wanted: a whole number',
    ),
    (
        "[optimizer]\nbetas = [0.9]\n",
        "my.toml, line 2: `optimizer.betas` is [0.9]\n  why     wanted: an array of 2 numbers, such as [0.9, 0.999]",
    ),
    (
        "[snapshots]\nsave_every = '5 parsecs'\n",
        (
            'my.toml, line 2: `snapshots.save_every` is "5 parsecs"\n'
            '  why     wanted: a number and a unit: "200 steps", "5 minutes" or "1 epoch"'
        ),
    ),
    (
        "model = 'lennet'\n",
        (
            'my.toml, line 1: `model.name` is "lennet"\n'
            "  why     nearest: lenet; lenet, mlp, or package.module:factory for a function of your own"
        ),
    ),
    (
        "data = 3\n",
        (
            "my.toml, line 1: `data` is a table\n"
            '  why     wanted: write it as [data] with its settings below, or as data = "NAME"'
        ),
    ),
    (
        "[data]\nvalidation = 0.5\ntest = 0.5\n",
        (
            "my.toml, line 3: `data.validation` and `data.test` are 0.5 and 0.5\n"
            "  why     wanted: a sum below 1, to leave training data"
        ),
    ),
    (
        "a = 1\nb = \n",
        "my.toml, line 2: not valid TOML: invalid value\n  why     the line reads: b =",
    ),
    (
        "epoch = 1\n[optimizer]\nlr = -1\n",
        (
            "my.toml: 2 settings cannot be meant as written\n"
            "  why     line 1: unknown setting `epoch`; nearest: `epochs`\n"
            "          line 3: `optimizer.lr` is -1; greater than 0"
        ),
    ),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text.strip().replace("\n", " | ") for text, _ in REFUSED])
def test_what_cannot_be_meant_is_refused_with_line_reason_and_nearest_name(tmp_path, text, words):
    said = refusal(tmp_path, text)
    assert said.startswith(words)
    assert said.endswith(SHOW)


def test_a_file_that_is_no_text_and_one_that_is_too_deep_are_refused(tmp_path):
    path = tmp_path / "my.toml"
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        read_settings(str(path))
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"nested too deeply|not valid TOML"):
        read_settings(str(path))


def test_a_misspelt_value_on_the_command_line_is_named_by_its_flag():
    with pytest.raises(ConfigError) as caught:
        settings_of("digits", {"batch_size": 0})
    assert str(caught.value).startswith("--batch-size: `batch_size` is 0\n  why     wanted: at least 1")


def test_the_file_outranks_the_defaults_and_the_command_line_outranks_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nbatch_size = 8\nmodel = 'mlp'\n[optimizer]\nlr = 1\n")
    settings = read_settings(str(path), {"batch_size": 16})
    chosen = {name: settings[name] for name in ("epochs", "batch_size", "model.name", "optimizer.lr", "out", "seed")}
    assert chosen == {
        "epochs": 7,
        "batch_size": 16,
        "model.name": "mlp",
        "optimizer.lr": 1,
        "out": "runs/mine",
        "seed": 0,
    }


def test_a_factory_of_ones_own_may_have_any_arguments(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text("[model]\nname = 'nets.small:build'\narguments = { width = 3, names = ['a'] }\n")
    assert read_settings(str(path)).arguments == {"width": 3, "names": ["a"]}
    assert "`model.arguments` is given for the model `lenet`" in refusal(tmp_path, "[model.arguments]\nwidth = 3\n")


def test_the_settings_written_as_a_file_read_back_the_same(tmp_path):
    path = tmp_path / "again.toml"
    settings = settings_of("digits", {"epochs": 3, "clip_norm": 0.5, "out": 'a "b"\\c\n\u202e'})
    path.write_text(as_toml(settings))
    again = read_settings(str(path))
    assert dict(again.values) == dict(settings.values)
    path.write_text(
        "model = 'a:b'\n[model.arguments]\n'odd key' = { x = [1.5, true] }\n".replace("model = 'a:b'\n", "").replace(
            "[model.arguments]", "[model]\nname = 'a:b'\n[model.arguments]"
        )
    )
    first = read_settings(str(path))
    path.write_text(as_toml(first))
    assert read_settings(str(path)) == first


def test_every_default_is_itself_allowed(tmp_path):
    path = tmp_path / "all.toml"
    path.write_text(as_toml(settings_of("digits")))
    assert dict(read_settings(str(path)).values) == dict(settings_of("digits").values)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_reading_settings_needs_no_torch():
    code = "import sys, rekindle.recipes.config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
