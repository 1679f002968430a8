"""Recipes: named defaults, which the command line can still change."""

import sys

import pytest

import HE_diff_general
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.settings import read_command_line

STAGES = [SS_diff.Settings, HE_diff_general.Settings, Diff_Seg.Settings]


def parsed(monkeypatch, settings, *words):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return read_command_line(settings)


@pytest.mark.parametrize("settings", STAGES)
def test_the_paper_is_the_default(monkeypatch, settings):
    assert parsed(monkeypatch, settings) == settings() == settings.of("paper")


@pytest.mark.parametrize("settings", STAGES)
def test_improved_is_what_the_table_says_and_nothing_else(monkeypatch, settings):
    improved, paper = parsed(monkeypatch, settings, "--recipe", "improved"), settings()
    values = {"recipe": "improved", **settings.improved}
    assert {name: getattr(improved, name) for name in values} == values
    assert all(getattr(improved, n) == getattr(paper, n) for n in vars(paper) if n not in values)
    improved.check()


def test_what_is_given_goes_before_the_recipe(monkeypatch):
    settings = parsed(monkeypatch, SS_diff.Settings, "--learning-rate", "3e-5", "--recipe=improved", "--ema", "0")
    assert (settings.learning_rate, settings.ema, settings.initial_weights) == (3e-5, 0, "pytorch")
    assert SS_diff.Settings.of("improved", ema=0.5).ema == 0.5


def test_help_shows_the_defaults_of_the_recipe(run_script_file):
    paper = run_script_file("GenSelfDiff/pretrain/SS_diff.py", "--help").stdout
    improved = run_script_file("GenSelfDiff/pretrain/SS_diff.py", "--recipe", "improved", "--help").stdout
    assert "(default: cosine)" in improved and "(default: cosine)" not in paper


def test_unknown_recipe_is_named(run_script_file):
    done = run_script_file("GenSelfDiff/downstream_train/Diff_Seg.py", "--recipe", "best", check=False)
    assert done.returncode == 2 and "invalid choice 'best'" in done.stderr
