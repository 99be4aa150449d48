"""Runs CNNs in NumPy: `load` a model file, `plan` it for input shapes, `run` the plan. Needs NumPy only."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.graph import ModelError, UnsupportedOperator
    from engine.model import Model, load
    from engine.model_card import ModelCard
    from engine.plan import Plan

__all__ = ["Model", "ModelCard", "ModelError", "Plan", "UnsupportedOperator", "load"]


def __getattr__(name: str) -> object:
    # Imported at first use: `import engine` and `python -m engine --help` do not wait for NumPy.
    homes = {"ModelCard": "model_card", "ModelError": "graph", "UnsupportedOperator": "graph", "Plan": "plan"}
    if name not in __all__:
        raise AttributeError(f"module 'engine' has no attribute '{name}'")
    return getattr(import_module(f"engine.{homes.get(name, 'model')}"), name)
