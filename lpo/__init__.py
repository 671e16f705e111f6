"""lpo: preference optimisation for long-form writing.

Importing this package loads neither torch nor a model; each part is imported where it is needed.
"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout the sibling packages (lpo.trainers, lpo.reward, ...) are top-level folders beside this one. Python
# finds ./lpo first when it is started there, even after `pip install .`, so they are made reachable from here.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "trainers").is_dir() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))
del _checkout
