"""The peer of `benchmarks/first_step.py`: the shortest honest Lightning + Hugging Face Llama script.

    python benchmarks/peers/lightning_llama.py TOKENS.npy STEPS MARK VOCABULARY

Windows of 256 from a file of uint16 tokens; writes a line to the file MARK at the end of each step.
"""

import sys

import numpy as np
import pytorch_lightning as L
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTH, BATCH = 256, 8


class Windows(torch.utils.data.Dataset):
    """Windows of LENGTH tokens, one after the other."""

    def __init__(self, path: str) -> None:
        self.tokens = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.tokens) // LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.tokens[index * LENGTH : (index + 1) * LENGTH].astype(np.int64))


class Training(L.LightningModule):
    """Lightning's automatic optimisation of a Llama on next-token loss."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=int(sys.argv[4]), hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
            num_attention_heads=6, max_position_embeddings=LENGTH, tie_word_embeddings=True, use_cache=False,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.model(input_ids=batch, labels=batch).loss
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        with open(sys.argv[3], "a") as mark:
            mark.write(f"step {self.global_step}\n")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)


if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Windows(sys.argv[1]), batch_size=BATCH, shuffle=True)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=int(sys.argv[2]),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Training(), loader)
