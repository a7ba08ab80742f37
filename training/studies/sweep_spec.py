"""What a sweep searches, and how."""

from typing import Literal

from pydantic import Field, model_validator

from lynceus.spec import Spec


class SweepSpec(Spec):
    """What is searched, and how; the ancestor's space by default.

    Attributes
    ----------
    batch : tuple of int
        Tiles a step: one of these.
    learning_rate, weight_decay : (float, float)
        Between these, evenly in the logarithm. Later phases of a recipe keep their ratio to the first.
    patience : tuple of int
        Looks at the validation tiles without a better figure after which a training ends: one of these.
    sampler : {"tpe", "random"}
        How settings are proposed: by what was good so far (tree-structured Parzen estimator), or not.
    pruner : {"median", "halving", "none"}
        Which trials end early: those below the median of the others at the same step, those outside the best third at
        each rung, or none.
    startup : int
        So many trials are drawn at random, and compared with, before the sampler and the pruner act.
    trials : int
        In all, of all workers together.
    seed : int
        Trial i depends on it, on i, and, unless drawn at random, on the trials before it.
    grace : float
        Seconds without a sign of life after which a trial's worker counts as dead, and its trial is taken up.
    """

    batch: tuple[int, ...] = Field((2, 3, 4, 5, 6, 7, 8), min_length=1)
    learning_rate: tuple[float, float] = (1e-5, 1e-2)
    weight_decay: tuple[float, float] = (1e-6, 1e-2)
    patience: tuple[int, ...] = Field((3, 5, 8), min_length=1)
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "halving", "none"] = "median"
    startup: int = Field(5, ge=1)
    trials: int = Field(30, gt=0)
    seed: int = Field(1, ge=0)
    grace: float = Field(120.0, gt=0)

    @model_validator(mode="after")
    def _ranges_rise(self) -> "SweepSpec":
        if not all(0 < low < high for low, high in (self.learning_rate, self.weight_decay)):
            raise ValueError("learning_rate and weight_decay each need 0 < low < high")
        return self
