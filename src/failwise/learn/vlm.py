"""Fine-tuning of a vision-language model to say what fails, and the way out: FailSafe's recovery model.

Source: FailSafe (arXiv 2510.01642), supervised fine-tuning of LLaVA-OneVision on questions and answers with pictures.
Here the default is LoRA (arXiv 2106.09685) on the language model. The loss is the answer's alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from failwise.errors import CheckpointError, DataError
from failwise.learn.options import Precision, VLMTraining
from failwise.learn.precision import DTYPES, computing_in
from failwise.learn.progress import TrainingProgress
from failwise.learn.resume import resume_training, save_training
from failwise.learn.vlm_questions import Asked, judge_answers, read_questions, split, stride_of, window_of
from failwise.recover.local import TunedVLM
from failwise.recover.pretrained import check_model, load_model, load_processor, peft
from failwise.recover.vision_language import IGNORED, Asking, VisionLanguage
from failwise.rollout.progress import track

SCRATCH = "training"
SCALE = 2  # of LoRA, over its rank


def train_vlm(data: Path, model: str, out: Path, options: VLMTraining, quiet: bool = False) -> TunedVLM:
    """Fine-tune ``model`` on the questions in ``data``, and write what was learned to ``out``, with its figures.

    A training that was interrupted goes on where it stopped when called again. ``out`` is asked as it is by
    ``failwise.recover.local.LocalVLM``.

    Args:
        data: folder that ``failwise export questions`` wrote.
        model: name on a hub, or folder.
        out: folder.
        options: how it is trained.
        quiet: show no progress.

    Raises:
        DataError: no questions, a picture is missing, all are of one layout, or the loss is not finite.
        CheckpointError: ``model`` is no vision-language model, or ``out`` holds another interrupted training.
        MissingDependencyError: transformers, peft, or what the model's processor needs, is not installed.
    """
    asked = read_questions(data)
    learned, judged = split(asked, options.held_out, options.seed)
    check_model(model)
    if not options.full:
        peft()
    vl = VisionLanguage(None, load_processor(model), Asking(options.frames, options.image_size), model)
    longest = max(len(vl.answer_ids(a.answer.text())) for a in asked)
    vl.asking = Asking(options.frames, options.image_size, answer_tokens=longest + longest // 4 + 8)
    vl.model = prepare(load_model(model, dtype=torch.float32 if options.full else DTYPES[options.precision]), options)
    loss = fit(vl, learned, options, out / SCRATCH, quiet)
    some = np.random.default_rng(options.seed).permutation(len(judged))[: options.judged]
    heard = ask([judged[i] for i in sorted(some.tolist())], vl, quiet)
    about = TunedVLM(
        base=str(Path(model).resolve()) if Path(model).is_dir() else model,
        weights="model" if options.full else "adapter", window=window_of(asked), stride=stride_of(asked),
        frames=options.frames, image_size=options.image_size, answer_tokens=vl.asking.answer_tokens,
        precision=options.precision,
        notes={
            "questions": len(learned), "held_out_layouts": len({a.layout for a in judged}), "final_loss": loss,
            "options": asdict(options), "figures": heard,
        },
    )  # fmt: skip
    _write(vl, about, out)
    return about


def prepare(model: Any, options: VLMTraining) -> Any:
    """The same model with what is to be trained, and nothing else, requiring a gradient."""
    torch.manual_seed(options.seed)
    if not options.full:
        library = peft()
        inside = set(map(id, model.get_decoder().modules()))
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
        config = library.LoraConfig(r=options.rank, lora_alpha=SCALE * options.rank, target_modules=linear)
        model = library.get_peft_model(model, config)
    elif not options.vision_rate:
        for p in _vision(model):
            p.requires_grad_(False)
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def fit(
    vl: VisionLanguage, asked: Sequence[Asked], options: VLMTraining, scratch: Path | None = None, quiet: bool = False
) -> float:
    """Train ``vl.model`` in place, and return the last smoothed loss, nats a token.

    Args:
        vl: with a model that ``prepare`` made ready.
        asked: to learn from.
        options: how it is trained.
        scratch: folder for resumable checkpoints; a training found there goes on.
        quiet: show no progress.

    Raises:
        DataError: nothing to learn from, or the loss is not finite.
        CheckpointError: the checkpoint in ``scratch`` is damaged or of another training.
    """
    if not asked:
        raise DataError("no questions to learn from")
    steps = max(1, math.ceil(options.epochs * len(asked) / options.batch))
    changing = {name: p for name, p in vl.model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(_groups(vl.model, options), weight_decay=0.0)
    peaks = [group["lr"] for group in optimiser.param_groups]
    about = {
        **{k: v for k, v in asdict(options).items() if k not in ("save_every", "judged", "at_once", "checkpointing")},
        "model": vl.name,
        "questions": hashlib.sha256("\n".join(a.name + a.answer.text() for a in asked).encode()).hexdigest()[:16],
    }
    start, smooth = resume_training(scratch, changing, optimiser, about) if scratch else (0, float("nan"))
    with TrainingProgress(steps, start, "vlm", quiet) as progress:
        for step in range(start, steps):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(step, steps, options.warmup)
            torch.manual_seed(options.seed * 1_000_003 + step)  # dropout, if the model has any
            optimiser.zero_grad(set_to_none=True)
            value = backward(
                vl, [asked[i] for i in batch_rows(step, len(asked), options)], options.at_once, options.precision
            )
            if not math.isfinite(value):
                raise DataError(f"the loss is {value} at step {step}; lower the learning rate")
            nn.utils.clip_grad_norm_(changing.values(), 1.0)
            optimiser.step()
            smooth = value if math.isnan(smooth) else 0.9 * smooth + 0.1 * value
            progress.update(step + 1, smooth, raw=value, learning_rate=optimiser.param_groups[0]["lr"])
            last = step + 1 == steps
            if scratch and options.save_every and ((step + 1) % options.save_every == 0 or last):
                save_training(scratch, changing, optimiser, about, step + 1, smooth)
    return smooth


def backward(vl: VisionLanguage, batch: Sequence[Asked], at_once: int, precision: Precision = "float32") -> float:
    """Add the gradient of a batch's mean loss over all answers' tokens, ``at_once`` questions in memory; the loss."""
    vl.model.train()
    answers = [vl.answer_ids(a.answer.text()) for a in batch]
    tokens, total = sum(map(len, answers)), 0.0
    for at in range(0, len(batch), at_once):
        some = slice(at, at + at_once)
        inputs, labels = vl.lesson([a.shown() for a in batch[some]], answers[some])
        with computing_in(precision, next(iter(vl.model.parameters())).device.type):
            scores, wanted = vl.logits(inputs, labels)
        loss = answer_loss(scores, wanted) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def answer_loss(scores_BKV: Tensor, labels_BK: Tensor) -> Tensor:
    """Cross-entropy summed over the tokens that are not ``IGNORED``."""
    return F.cross_entropy(scores_BKV.flatten(0, 1).float(), labels_BK.flatten(), ignore_index=IGNORED, reduction="sum")


def ask(asked: Sequence[Asked], vl: VisionLanguage, quiet: bool = False) -> dict[str, float]:
    """The figures of what the model says itself, word by word, to some questions."""
    answers: Iterator[str] = (vl.say([a.shown()])[0] for a in asked)
    shown = track(answers, total=len(asked), title="held-out questions", quiet=quiet, outcomes=False)
    return judge_answers(asked, list(shown))


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor of the rate: linear warm-up over a share of the steps, then cosine from 1 to 0."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batch_rows(step: int, count: int, options: VLMTraining) -> list[int]:
    """Which questions a step asks: every one once before any a second time, in another order each time."""
    places = range(step * options.batch, (step + 1) * options.batch)
    orders = {p // count: np.random.default_rng((options.seed, p // count)).permutation(count) for p in places}
    return [int(orders[p // count][p % count]) for p in places]


def _vision(model: Any) -> list[nn.Parameter]:
    tower = model.get_encoder(modality="image")
    return [] if tower is model else list(tower.parameters())


def _groups(model: Any, options: VLMTraining) -> list[dict[str, Any]]:
    """What is trained, with its rate."""
    vision = set(map(id, _vision(model))) if options.full else set()
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in vision]
    towers = [p for p in model.parameters() if p.requires_grad and id(p) in vision]
    groups = [{"params": rest, "lr": options.rate}]
    return [*groups, {"params": towers, "lr": options.vision_rate}] if towers else groups


def _write(vl: VisionLanguage, about: TunedVLM, out: Path) -> None:
    folder = out / about.weights
    if about.weights == "adapter":
        vl.model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    else:
        vl.model.save_pretrained(folder)
        vl.processor.save_pretrained(folder)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"nothing was written to {folder}")
    about.write(out)
    rmtree(out / SCRATCH, ignore_errors=True)
