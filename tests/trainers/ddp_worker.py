"""A small training, started by torchrun or alone. Arguments: folder, batch size per process, `lora` or `full`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from peft import LoraConfig
from tiny_models import make_model, make_tokenizer

from lpo.trainers import MetricsFile, StepDPOConfig, StepDPOTrainer

PAIRS = (1, 3, 2, 2, 1, 3, 2, 2)  # of each document: processes get unequal numbers of pairs and of trees
STEP = " The lighthouse stood"
ROWS = [
    {"prompt": f"Write about {i}.", "prefix": STEP * step, "chosen": STEP + " at the end" * (i % 3),
     "rejected": " and so on" * (1 + i % 4), "step": step, "chosen_ends": i % 2 == 0}
    for i, pairs in enumerate(PAIRS) for step in range(pairs)
]

if __name__ == "__main__":
    folder, batch_size, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    args = StepDPOConfig(
        output_dir=str(folder / "train"), num_train_epochs=2, per_device_train_batch_size=batch_size, logging_steps=1,
        learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", save_steps=2, eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=2, disable_tqdm=True, max_pack_tokens=48,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None)
    adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"]) if kind == "lora" else None
    trainer = StepDPOTrainer(make_model(), args=args, train_dataset=ROWS, eval_dataset=ROWS[:8],
                             processing_class=make_tokenizer(), peft_config=adapter,
                             callbacks=[MetricsFile(folder / "metrics.jsonl")])
    trainer.train()
    if trainer.is_world_process_zero():
        weights = [p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]
        torch.save(torch.cat(weights), folder / "weights.pt")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # a process that leaves early can take the other's connection with it
        torch.distributed.destroy_process_group()
