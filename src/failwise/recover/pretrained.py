"""Loading of vision-language models: what cannot work is told in one line, before any weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from failwise.errors import CheckpointError, MissingDependencyError

REMEDY = "pip install 'failwise[vlm]'"


def check_model(name: str) -> None:
    """Refuse what cannot be loaded, from its configuration alone.

    Args:
        name: of a model on a hub, or a folder.

    Raises:
        MissingDependencyError: transformers is not installed. CheckpointError: no such model, or none that takes
            pictures and text.
    """
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    except ImportError as error:
        raise MissingDependencyError(f"a VLM in this process needs transformers: {REMEDY}") from error
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name} is no model that transformers can load ({one_line(error)})") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise CheckpointError(
            f"{name} is a {config.model_type!r}, not a vision-language model; take one such as SmolVLM, Qwen2-VL or "
            "LLaVA-OneVision"
        )


def load_processor(name: str) -> Any:
    """A model's processor.

    Raises:
        MissingDependencyError: it needs a library that is not installed, as many need torchvision for their videos.
        CheckpointError: none is there, or it takes no pictures.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        if "torchvision" in str(error).lower():
            raise MissingDependencyError(
                f"the processor of {name} needs torchvision: pip install torchvision (the build that belongs to torch "
                f"{torch.__version__})"
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(f"the processor of {name} cannot be loaded: {one_line(error)}") from error
        raise CheckpointError(f"{name} has no processor that can be loaded ({one_line(error)})") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise CheckpointError(f"{name} has no processor for pictures and text")
    return processor


def load_model(name: str, adapter: Path | None = None, dtype: torch.dtype | None = None) -> Any:
    """A model's weights, from safetensors only, on the accelerator where there is one.

    Args:
        name: of a model on a hub, or a folder.
        adapter: folder of a LoRA adapter.
        dtype: of the weights in memory; None is the one that the model was published in, whatever the machine.

    Raises:
        CheckpointError: no such weights. MissingDependencyError: an adapter, and peft is not installed.
    """
    from transformers import AutoModelForImageTextToText

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype or "auto", use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the weights of {name} cannot be loaded ({one_line(error)})") from error
    if adapter is not None:
        if not (adapter / "adapter_model.safetensors").is_file():
            raise CheckpointError(f"{adapter} holds no adapter_model.safetensors")
        try:
            model = peft().PeftModel.from_pretrained(model, str(adapter))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"the adapter {adapter} does not fit {name} ({one_line(error)})") from error
    return model.to(device)


def peft() -> Any:
    """The library of adapters.

    Raises:
        MissingDependencyError: not installed.
    """
    try:
        import peft as library
    except ImportError as error:
        raise MissingDependencyError(f"LoRA needs peft: {REMEDY}; or train all weights with --full") from error
    return library


def one_line(error: BaseException) -> str:
    """The first words of a message, however many lines it has."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else words[:157] + "..."
