import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from lpo.trainers.losses import LossInputs, LossSettings, SideIndex, preference_loss

PAGE = (Path(__file__).parents[2] / "docs" / "beta.md").read_text(encoding="utf-8")


def program() -> str:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    return source


def test_every_number_that_the_page_computes_stands_on_it():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program(), {})
    prose = " ".join(PAGE.replace(program(), "").split())
    missing = [line for line in printed.getvalue().splitlines() if " ".join(line.split()) not in prose]
    assert not missing


@pytest.mark.parametrize(("loss_type", "beta", "n_tokens", "gap"), [
    ("sigmoid", 0.5, 64, 0.092), ("sigmoid", 0.1, 512, 0.0575), ("sigmoid", 0.1, 2048, 0.01438),
    ("sigmoid_norm", 5.0, 512, 0.589), ("sigmoid_norm", 29.4, 64, 0.1),
])
def test_a_tenth_of_the_pull_is_left_where_the_page_says(loss_type, beta, n_tokens, gap):
    def pull(gap_per_token: float) -> float:
        policy_N = torch.cat([torch.full((n_tokens,), gap_per_token / 2), torch.full((n_tokens,), -gap_per_token / 2)])
        policy_N.requires_grad_()
        inputs = LossInputs(policy_N, SideIndex.from_lengths([n_tokens]),
                            SideIndex.from_lengths([n_tokens], start=n_tokens), torch.zeros(2 * n_tokens))
        loss = preference_loss(inputs, LossSettings((loss_type,), beta=beta)).loss
        return torch.autograd.grad(loss, policy_N)[0][0].item()

    assert pull(gap) / pull(0.0) == pytest.approx(0.1, rel=0.02)


def test_ipo_rests_at_the_gap_the_page_says():
    policy_N = torch.cat([torch.full((64,), 0.05), torch.full((64,), -0.05)])
    inputs = LossInputs(policy_N, SideIndex.from_lengths([64]), SideIndex.from_lengths([64], start=64),
                        torch.zeros(128))
    assert preference_loss(inputs, LossSettings(("ipo",), beta=5.0)).loss.item() == pytest.approx(0, abs=1e-9)


def test_the_likelihood_term_pulls_as_little_as_the_page_says():
    policy_N = torch.zeros(1024, requires_grad=True)
    inputs = LossInputs(policy_N, SideIndex.from_lengths([512]), SideIndex.from_lengths([512], start=512),
                        torch.zeros(1024))
    pulls = [torch.autograd.grad(preference_loss(inputs, LossSettings((name,), beta=0.1)).loss, policy_N)[0][0].item()
             for name in ("sft", "sigmoid")]
    assert pulls[0] / pulls[1] == pytest.approx(0.039, abs=5e-4)
