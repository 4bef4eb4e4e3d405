"""Seconds of a masked-LM training step of the peer: Hugging Face's XLM-R in PyTorch, beside `step_speed.py`.

    python benchmarks/peer_masked_lm.py size=base,length=512,rows=32 size=base,length=512,rows=32,compile=0

Random weights of the released models' shapes, dropout off as in our pre-training, SDPA attention, bf16 autocast with
fp32 parameters and fused AdamW, gradients clipped to norm 1. `head=all` is the model's own loss, logits at every
position; `head=masked` gathers the 15 % that are scored before the head, which its users would have to write
themselves. Keys: size, length, rows, compile (torch.compile), head, dtype (bfloat16 or float32), dropout.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch
import transformers

SIZES = {"tiny": (128, 2, 4, 512), "base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
DEFAULTS = {
    "size": "base", "length": "512", "rows": "32", "compile": "1", "head": "all", "dtype": "bfloat16", "dropout": "0",
}  # fmt: skip
VOCABULARY, SHARE, WARM, TIMED = 250_002, 0.15, 4, 12


def build(keys: dict[str, str]) -> torch.nn.Module:
    """XLM-R's masked language model with random weights."""
    width, layers, heads, ffn = SIZES[keys["size"]]
    config = transformers.XLMRobertaConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=ffn, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        hidden_dropout_prob=float(keys["dropout"]), attention_probs_dropout_prob=float(keys["dropout"]),
        attn_implementation="sdpa",
    )  # fmt: skip
    return transformers.XLMRobertaForMaskedLM(config)


def measure(text: str) -> dict[str, object]:
    """Times one variant."""
    keys = DEFAULTS | dict(part.split("=", 1) for part in text.split(",") if part)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = build(keys).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    rows, length = int(keys["rows"]), int(keys["length"])
    ids = torch.randint(4, VOCABULARY - 1, (rows, length), device=device)
    scored = max(1, round(SHARE * length))
    at = torch.rand(rows, length, device=device).argsort(1)[:, :scored].sort(1).values
    labels = torch.full_like(ids, -100).scatter(1, at, ids.gather(1, at))
    seen = torch.ones_like(ids)
    autocast = keys["dtype"] == "bfloat16"

    def loss_of() -> torch.Tensor:
        if keys["head"] == "all":
            return model(input_ids=ids, attention_mask=seen, labels=labels).loss
        hidden = model.roberta(input_ids=ids, attention_mask=seen)[0]
        picked = hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[-1]))
        logits = model.lm_head(picked).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits.float(), labels.gather(1, at).flatten())

    forward = torch.compile(loss_of) if keys["compile"] == "1" else loss_of

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = []
    for _ in range(WARM + TIMED):
        began = time.perf_counter()
        loss = step()
        wait()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[WARM:])
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    result = {
        "variant": text, "first_seconds": seconds[0], "seconds": median, "tokens_per_second": rows * length / median,
        "peak_gib": peak, "loss": float(loss),
    }  # fmt: skip
    print(
        f"{text}: {median * 1e3:.1f} ms, {rows * length / median / 1e3:.0f}k tokens/s, first step {seconds[0]:.0f} s, "
        f"peak {peak:.1f} GiB, loss {result['loss']:.3f}",
        flush=True,
    )
    return result


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--output", default="")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    about = {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}
    print(", ".join(about.values()), flush=True)
    results = []
    for text in arguments.variants:
        try:
            results.append(measure(text))
        except Exception as error:  # a variant that does not fit must not cost the others
            print(f"{text}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if arguments.output:
            pathlib.Path(arguments.output).write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
