"""InsTagger: a causal LM that writes a query's intents (Lu et al. 2024, *#InsTag*)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.digest import digest_json
from models.domains.taggers import Tags, parse_tags
from models.errors import TaggingError

DEFAULT_MODEL: Final = "OFA-Sys/InsTagger"
# The template that InsTagger was trained with (Lu et al. 2024, section 3.4).
BEFORE: Final = (
    "You are a helpful assistant. Please identify tags of user intentions in the following user "
    "query and provide an explanation for each tag. Please respond in the JSON format "
    '{"tag": str, "explanation": str}. Query: '
)
AFTER: Final = " Assistant:"


class InsTagger:
    """Tags by a Hugging Face causal LM prompted as OFA-Sys/InsTagger is; greedy, in batches.

    model: a folder or a name the Hugging Face hub knows. max_prompt_tokens: a longer query loses
    its middle. On a GPU where there is one.
    Raises TaggingError when the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        batch_size: int = 8,
        max_new_tokens: int = 256,
        max_prompt_tokens: int = 1024,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self._loaded: tuple[Any, Any] | None = None

    @property
    def digest(self) -> str:
        settings = [self.max_new_tokens, self.max_prompt_tokens, BEFORE, AFTER]
        return digest_json(["instagger", str(self.model), settings])

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        """Tags of each query; () where the model wrote none that can be read."""
        import torch

        tokenizer, model = self._load()
        prompts = [self._prompt(tokenizer, query) for query in queries]
        tags: list[Tags] = [()] * len(prompts)
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            padded = tokenizer.pad({"input_ids": [prompts[i] for i in batch]}, return_tensors="pt")
            padded = padded.to(model.device)
            with torch.inference_mode():
                written = model.generate(
                    input_ids=padded["input_ids"],
                    attention_mask=padded["attention_mask"],
                    max_new_tokens=self.max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            answers = tokenizer.batch_decode(
                written[:, padded["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for i, answer in zip(batch, answers, strict=True):
                tags[i] = parse_tags(answer)
            if progress is not None:
                progress(len(batch))
        return tags

    def _prompt(self, tokenizer: Any, query: str) -> list[int]:
        ids: list[int] = tokenizer(query, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_prompt_tokens:
            half = self.max_prompt_tokens // 2
            ids = ids[:half] + ids[-half:]
        before = tokenizer(BEFORE)["input_ids"]
        if before and before[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
            before = before[:-1]
        after: list[int] = tokenizer(AFTER, add_special_tokens=False)["input_ids"]
        return [*before, *ids, *after]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(str(self.model), padding_side="left")
                model = AutoModelForCausalLM.from_pretrained(
                    str(self.model), use_safetensors=True, dtype="auto"
                )
            except (OSError, ValueError, KeyError) as error:
                first = str(error).strip().splitlines()[0]
                raise TaggingError(
                    f"tagging model {str(self.model)!r} cannot be loaded: {first} (give a folder "
                    "with a causal LM in safetensors, or use the keyphrase tagger)"
                ) from error
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded = tokenizer, model.to(device).eval()
        return self._loaded
