"""Asks a person at a terminal. Where there is none, the error names what to give instead. Blocking."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import typer

from patchbay.environment import CliError


def secrets(variables: Mapping[str, str], instead: str) -> dict[str, str]:
    """Return secrets by name, each asked for without an echo; `variables` are the names of their variables by name.

    Raises `CliError` without a terminal: it names the variables, and `instead`, another way to give them.
    """
    if variables and not sys.stdin.isatty():
        told = ", ".join(f"{name} (from {variable})" for name, variable in variables.items())
        raise CliError(f"there is no terminal to ask for {told}; set the variable, or give {instead}")
    return {name: str(typer.prompt(f"Secret {name}", hide_input=True)) for name in variables}


def consent(question: str, instead: str) -> None:
    """Go on only if a person says yes. Raises `CliError` without a terminal, `typer.Abort` for a no."""
    if not sys.stdin.isatty():
        raise CliError(f"there is no terminal to ask: {question} Give {instead}")
    typer.confirm(question, abort=True)
