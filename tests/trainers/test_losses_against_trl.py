"""Values and gradients against TRL's own trainers, on the rows TRL's own collator makes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lpo.trainers.losses import LossInputs, LossSettings, SideIndex, preference_loss


@pytest.fixture(scope="module")
def trl_dpo(tiny_tokenizer, tiny_model, tmp_path_factory) -> Any:
    """TRL's DPO trainer with a policy and another model as its reference, and one batch of four pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [("The keeper", " climbed its stairs every evening.", " fell."),
            ("Write a story.", " Rain.", " Rain fell on the harbour; gulls argued over fish, and nobody came."),
            ("Tell me,", " what do you do when nobody is watching?", " what now? said the captain."),
            ("灯塔", "矗立在石堤的尽头。", "雨落在港口上，海鸥为鱼而争吵。")]
    dataset = Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows])
    arguments = DPOConfig(output_dir=str(tmp_path_factory.mktemp("trl")), per_device_train_batch_size=4, use_cpu=True,
                          gradient_checkpointing=False, report_to="none", bf16=False, max_length=None)
    trainer = DPOTrainer(tiny_model("llama", seed=0), ref_model=tiny_model("llama", seed=1), args=arguments,
                         train_dataset=dataset, processing_class=tiny_tokenizer)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    return SimpleNamespace(trainer=trainer, batch=batch)


def logprobs_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probs of the completion tokens, row after row, from the model's full logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    log_softmax = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    logprobs = log_softmax.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    return logprobs[batch["completion_mask"][:, 1:].bool()]


def inputs_of(trl_dpo: Any) -> LossInputs:
    lengths = trl_dpo.batch["completion_mask"].sum(1).tolist()
    half = len(lengths) // 2
    with torch.no_grad():
        reference_N = logprobs_of(trl_dpo.trainer.ref_model, trl_dpo.batch)
    return LossInputs(logprobs_of(trl_dpo.trainer.model, trl_dpo.batch), SideIndex.from_lengths(lengths[:half]),
                      SideIndex.from_lengths(lengths[half:], start=sum(lengths[:half])), reference_N)


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


CASES = {
    "sigmoid": ({"loss_types": ["sigmoid"]}, {}),
    "ipo": ({"loss_types": ["ipo"]}, {}),
    "sigmoid_norm": ({"loss_types": ["sigmoid_norm"], "beta": 5.0}, {"beta": 5.0}),
    "sft": ({"loss_types": ["sft"]}, {}),
    "ld_dpo": ({"loss_types": ["sigmoid"], "ld_alpha": 0.3}, {"loss_types": ("ld_dpo",), "ld_alpha": 0.3}),
    "mixture": ({"loss_types": ["sigmoid", "ipo", "sft"], "loss_weights": [1.0, 0.01, 0.2]},
                {"loss_types": ("sigmoid", "ipo", "sft"), "weights": (1.0, 0.01, 0.2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_metrics_are_those_of_trl_dpo(trl_dpo, case, monkeypatch):
    theirs, ours = CASES[case]
    fields = {"loss_weights": [1.0] * len(theirs["loss_types"]), "beta": 0.1, "ld_alpha": None} | theirs
    for name, value in fields.items():
        monkeypatch.setattr(trl_dpo.trainer, name, value)
    trl_dpo.trainer._metrics["eval"].clear()
    model = trl_dpo.trainer.model
    trl_loss = trl_dpo.trainer._compute_loss(model, dict(trl_dpo.batch), return_outputs=False)
    trl_gradients = gradients(model, trl_loss)

    outputs = preference_loss(inputs_of(trl_dpo), LossSettings(**({"loss_types": tuple(theirs["loss_types"])} | ours)))
    torch.testing.assert_close(outputs.loss, trl_loss, rtol=2e-5, atol=1e-6)
    our_gradients = gradients(model, outputs.loss)
    assert (our_gradients - trl_gradients).norm() < 2e-5 * trl_gradients.norm()
    shared = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"] if case != "sft" else []
    for name in [*shared, *(["logps/chosen", "logps/rejected"] if case != "ld_dpo" else [])]:
        (logged,) = trl_dpo.trainer._metrics["eval"][name]
        assert outputs.metrics[name].item() == pytest.approx(logged, rel=2e-5, abs=1e-4), name


def test_label_smoothing_is_that_of_trl(trl_dpo, monkeypatch):
    """TRL smooths `sigmoid` nowhere, but its `aot` on a single pair, where nothing is left to sort, is smoothed DPO."""
    one_pair = {name: values[[1, 5]] for name, values in trl_dpo.batch.items()}
    for name, value in {"loss_types": ["aot"], "loss_weights": [1.0], "label_smoothing": 0.2, "beta": 0.4}.items():
        monkeypatch.setattr(trl_dpo.trainer, name, value)
    model = trl_dpo.trainer.model
    trl_loss = trl_dpo.trainer._compute_loss(model, dict(one_pair), return_outputs=False)
    trl_gradients = gradients(model, trl_loss)
    inputs = inputs_of(SimpleNamespace(trainer=trl_dpo.trainer, batch=one_pair))
    outputs = preference_loss(inputs, LossSettings(beta=0.4, label_smoothing=0.2))
    torch.testing.assert_close(outputs.loss, trl_loss, rtol=2e-5, atol=1e-6)
    our_gradients = gradients(model, outputs.loss)
    assert (our_gradients - trl_gradients).norm() < 2e-5 * trl_gradients.norm()


def per_side(inputs: LossInputs, *, mean: bool) -> list[torch.Tensor]:
    """Summed or mean log-probs of the chosen and of the rejected sides, one side at a time."""
    reduce = torch.mean if mean else torch.sum
    return [torch.stack([reduce(inputs.policy_logprobs_N[sides.token_index_M[sides.side_id_M == side]])
                         for side in range(sides.n_sides)]) for sides in (inputs.chosen, inputs.rejected)]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.15])
@pytest.mark.parametrize(("theirs", "ours"), [
    ("simpo", {"loss_types": ("simpo",), "simpo_gamma": 0.7}),
    ("sigmoid", {"loss_types": ("cpo",), "cpo_alpha": 0.3}),
])
def test_simpo_and_cpo_are_those_of_trl_cpo(trl_dpo, theirs, ours, label_smoothing):
    from trl.experimental.cpo import CPOTrainer

    inputs = inputs_of(trl_dpo)
    trainer: Any = SimpleNamespace(alpha=0.0, loss_type=theirs, beta=2.0, simpo_gamma=0.7,
                                   label_smoothing=label_smoothing,
                                   accelerator=SimpleNamespace(device=torch.device("cpu")))
    losses_P, chosen_P, rejected_P = CPOTrainer.cpo_loss(trainer, *per_side(inputs, mean=theirs == "simpo"))
    nll = -inputs.policy_logprobs_N[inputs.chosen.token_index_M].mean()
    expected = losses_P.mean() + ours.get("cpo_alpha", 0.0) * nll
    outputs = preference_loss(inputs, LossSettings(beta=2.0, label_smoothing=label_smoothing, **ours))
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(outputs.rewards_chosen_P, chosen_P)
    torch.testing.assert_close(outputs.rewards_rejected_P, rejected_P)
    torch.testing.assert_close(*(torch.autograd.grad(loss, inputs.policy_logprobs_N, retain_graph=True)[0]
                                 for loss in (outputs.loss, expected)))


def test_orpo_is_that_of_trl(trl_dpo):
    from trl.experimental.orpo import ORPOTrainer

    inputs = inputs_of(trl_dpo)
    trainer: Any = SimpleNamespace(beta=0.25, accelerator=SimpleNamespace(device=torch.device("cpu")))
    ratios_P = ORPOTrainer.odds_ratio_loss(trainer, *per_side(inputs, mean=True))[0]
    expected = -inputs.policy_logprobs_N[inputs.chosen.token_index_M].mean() - ratios_P.mean()
    outputs = preference_loss(inputs, LossSettings(("orpo",), orpo_lambda=0.25))  # type: ignore[arg-type]
    torch.testing.assert_close(outputs.loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, inputs.policy_logprobs_N, retain_graph=True)[0]
                                 for loss in (outputs.loss, expected)))
