"""Which weights learn, and when: all, the upper ones, ever more from the top down, or low-rank changes alone."""

from typing import Literal, cast

from pydantic import Field
from torch import nn

from lynceus.bodies import stages
from lynceus.network import Network
from lynceus.spec import Spec
from training.fitting.lora import LowRank, add_low_rank, folded_state


class StrategySpec(Spec):
    """Which weights learn.

    Attributes
    ----------
    train : {"all", "partial", "dynamic", "lora"}
        Everything; the upper stages of the body with all that follows it; the same, but with stages joining from
        the top down as the run goes; or low-rank changes of every layer, with the last layers in full.
    layers : int
        Stages of the body that learn with "partial", from the top: 4 leaves the stem as it is, 0 the whole body.
    frozen_until, thawed_by : float
        With "dynamic": shares of the run at which the first stage joins, and at which all have.
    rank : int
        Of the low-rank changes.
    alpha : float
        They are multiplied by `alpha / rank`.
    """

    train: Literal["all", "partial", "dynamic", "lora"] = "all"
    layers: int = Field(3, ge=0)
    frozen_until: float = Field(0.1, ge=0, le=1)
    thawed_by: float = Field(0.5, ge=0, le=1)
    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)


class Strategy:
    """A strategy at work on one network.

    Build it before the optimiser and before a checkpoint is loaded: low-rank adaptation adds parameters. Call
    `at_step` before every step.

    Parameters
    ----------
    spec : StrategySpec
        Which weights learn.
    network : Network
        Changed in place: weights that never learn lose their gradient.
    """

    def __init__(self, spec: StrategySpec, network: Network) -> None:
        self.spec = spec
        self.network = network
        self.stages = stages(network.backbone)  # from the tile upwards
        if spec.train == "lora":
            _adapt(network, spec)
        elif spec.train == "partial":
            for stage in self._frozen(spec.layers):
                _set_learning(stage, False)

    def parameters(self) -> list[nn.Parameter]:
        """All that learn at some time of the run, for the optimiser."""
        if self.spec.train == "dynamic":  # what is frozen at this step joins later
            return list(self.network.parameters())
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def at_step(self, step: int, steps: int) -> None:
        """Set what learns in this step, and keep the norms of what does not as they are.

        Parameters
        ----------
        step, steps : int
            The step that follows, from 0, and the steps of the run.
        """
        if self.spec.train == "lora":
            _hold_norms(self.network)
        elif self.spec.train != "all":
            learning = self.learning(step, steps)
            for number, stage in enumerate(reversed(self.stages)):
                if self.spec.train == "dynamic":
                    _set_learning(stage, number < learning)
                if number >= learning:
                    for module in stage:
                        _hold_norms(module)

    def learning(self, step: int, steps: int) -> int:
        """How many stages of the body learn in a step, counted from the top."""
        if self.spec.train == "partial":
            return min(self.spec.layers, len(self.stages))
        if self.spec.train != "dynamic":
            return len(self.stages)
        first, last = self.spec.frozen_until * steps, max(self.spec.thawed_by, self.spec.frozen_until) * steps
        if step < first:
            return 0
        joined = 1.0 if last == first else (step - first) / (last - first)
        return min(1 + int(joined * (len(self.stages) - 1)), len(self.stages))

    def finished(self, network: Network) -> Network:
        """A network with plain weights, as `Network(spec)` has them.

        Parameters
        ----------
        network : Network
            The one of this strategy or a copy of it, such as the averaged one.

        Returns
        -------
        Network
            The same one, unless low-rank changes had to be folded in.
        """
        if self.spec.train != "lora":
            return network
        plain = Network(network.spec)
        plain.load_state_dict(folded_state(network))
        plain.train(network.training).to(next(network.parameters()).device)
        learns = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(learns[name])
        return plain

    def _frozen(self, learning: int) -> list[list[nn.Module]]:
        return self.stages[: max(len(self.stages) - learning, 0)]


def _adapt(network: Network, spec: StrategySpec) -> None:
    """Low-rank changes everywhere but in the last layers, which are often new and learn in full."""
    network.requires_grad_(False)
    last = [network.rpn.head.cls_logits, network.rpn.head.bbox_pred, network.roi_heads.box_predictor]
    parts = [network.backbone, network.rpn.head.conv, network.roi_heads.box_head]
    for part in parts:
        add_low_rank(part, spec.rank, spec.alpha / spec.rank)
        for layer in part.modules():
            if isinstance(layer, LowRank):
                layer.lora_down.requires_grad_(True)
                layer.lora_up.requires_grad_(True)
    for layer in last:
        cast(nn.Module, layer).requires_grad_(True)


def _set_learning(stage: list[nn.Module], learning: bool) -> None:
    for module in stage:
        module.requires_grad_(learning)


def _hold_norms(module: nn.Module) -> None:
    """Statistics of layers that do not learn stay those that their weights were learned with."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
