"""Train on your own pairs: JSON lines with `prompt`, `chosen` and `rejected`, as TRL has them.

Optional columns: `prefix` (text of the answer that both sides continue), `chosen_ends` and `rejected_ends` (false: the
answer goes on after this side), `step`, `group`. Run it again after an interruption and it goes on where it was.

    python examples/train_step_dpo.py --data examples/data/pairs.jsonl --output runs/my-pairs
"""

import argparse
from pathlib import Path

from peft import LoraConfig

from lpo.llm.demo import resolve_model
from lpo.storage import read_jsonl
from lpo.trainers import MetricsFile, StepDPOConfig, StepDPOTrainer, latest_complete

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="demo:gemma-3-270m", help="a demo model, a Hugging Face name or a folder")
parser.add_argument("--data", type=Path, required=True, help="a file of JSON lines")
parser.add_argument("--output", type=Path, required=True, help="checkpoints, metrics and the adapter go here")
parser.add_argument("--chat-template", default="tokenizer", help="for prompts that are messages: 'tokenizer', 'plain' "
                                                                 "(for base models) or a .jinja file")
parser.add_argument("--epochs", type=float, default=1)
options = parser.parse_args()

trainer = StepDPOTrainer(
    model=resolve_model(options.model),
    args=StepDPOConfig(
        output_dir=str(options.output), num_train_epochs=options.epochs, learning_rate=1e-4, beta=0.1, seed=0,
        per_device_train_batch_size=1, gradient_accumulation_steps=2,  # two documents a step, each with all its pairs
        logging_steps=1, save_steps=10,
        chat_template=options.chat_template,
    ),
    train_dataset=read_jsonl(options.data),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),  # None trains all weights
    callbacks=[MetricsFile(options.output / "metrics.jsonl")],
)
for row in trainer.rejected_rows:
    print(f"left out {row.id}: {row.reason} ({row.detail})")

checkpoint = latest_complete(options.output)
trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
trainer.save_model(str(options.output / "final"))
print(f"the adapter is in {options.output / 'final'}")
