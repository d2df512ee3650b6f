"""One gradient a row: the same as each row has alone and as Opacus' own wrapper gives, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from client.per_drawing import forget, per_drawing_gradients, rows_of
from common.errors import TrainingError

ROWS = 5


class Net(nn.Module):
    """A frozen convolution, a trained one, and two trained linear layers, the last of which is passed twice."""

    def __init__(self, *, frozen_first: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.first.requires_grad_(not frozen_first)
        self.second = nn.Conv2d(3, 4, 3, stride=2)
        self.third = nn.Linear(16, 6)
        self.fourth = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        x = torch.tanh(self.third(x.flatten(2).reshape(len(x), -1, 16)))
        out: Tensor = self.fourth(torch.tanh(self.fourth(x)))
        return out


@pytest.fixture(params=[True, False], ids=["frozen first", "all trained"])
def net(request: pytest.FixtureRequest) -> Net:
    return Net(frozen_first=request.param)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS, 2, 9, 9, generator=torch.Generator().manual_seed(1))


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def rows(net: nn.Module, x: Tensor) -> list[Tensor]:
    parameters = trained(net)
    with per_drawing_gradients(net):
        net(x).square().sum().backward()
        assert all(parameter.grad is None for parameter in parameters), "nothing is summed"
        return [rows_of(parameter).clone() for parameter in parameters]


def test_each_row_is_the_gradient_that_it_has_alone(net: Net, x: Tensor) -> None:
    found = rows(net, x)
    for row in range(ROWS):
        alone = torch.autograd.grad(net(x[row : row + 1]).square().sum(), trained(net))
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-6)


def test_they_are_what_opacus_finds(net: Net, x: Tensor) -> None:
    found = rows(net, x)
    net.train()  # else Opacus records nothing
    wrapped = GradSampleModule(net, batch_first=True, loss_reduction="sum")
    wrapped(x).square().sum().backward()
    for ours, parameter in zip(found, trained(net), strict=True):
        torch.testing.assert_close(ours, vars(parameter)["grad_sample"], rtol=1e-5, atol=1e-6)


def test_nothing_is_left_behind_whatever_happens(net: Net, x: Tensor) -> None:
    before = [parameter.requires_grad for parameter in net.parameters()]
    with per_drawing_gradients(net):
        net(x).square().sum().backward()
        hook = net.fourth.register_forward_pre_hook(_breaks)
        with pytest.raises(RuntimeError, match="no more"):
            net(x)
        hook.remove()
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    assert not any(hasattr(parameter, "grad_sample") for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not net.training


def test_without_gradients_nothing_is_watched(net: Net, x: Tensor) -> None:
    with per_drawing_gradients(net), torch.no_grad():
        assert not net(x).requires_grad


def test_what_was_forgotten_cannot_be_taken_for_the_next_step(net: Net, x: Tensor) -> None:
    parameters = trained(net)
    with per_drawing_gradients(net):
        net(x).square().sum().backward()
        forget(parameters)
        with pytest.raises(KeyError):
            rows_of(parameters[0])


def test_a_layer_whose_rows_cannot_be_told_apart_is_refused() -> None:
    with (
        pytest.raises(TrainingError, match="cannot be trained privately") as caught,
        per_drawing_gradients(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    ):
        pass
    assert caught.value.got == "BatchNorm1d"


def _breaks(_layer: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
    raise RuntimeError("no more")
