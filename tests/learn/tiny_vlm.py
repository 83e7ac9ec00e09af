"""A vision-language model of about a hundred thousand random weights, as a folder: nothing is downloaded."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from failwise.recover.questions import Answer, question

SIDE = 32
PICTURE_TOKENS = (SIDE // 8 // 2) ** 2
SPECIAL = ["<pad>", "<s>", "<end_of_utterance>", "<unk>", "<fake_token_around_image>", "<image>", "<global-img>"]
PIECES = r" ?[A-Za-z]+|\d| ?[^A-Za-z\d]"
TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build(folder: Path, seed: int = 0) -> str:
    """Write model and processor; returns the folder as a string."""
    torch.manual_seed(seed)
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}),
        _tokenizer(), image_seq_len=PICTURE_TOKENS, chat_template=TEMPLATE,
    )  # fmt: skip
    tokenizer = processor.tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 8, "initializer_range": 0.2,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "initializer_range": 0.05, **ids,
        },
        **ids,
    )  # fmt: skip
    model = Idefics3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.4)  # large enough to be sure of a word, as it is not trained
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Words of questions and answers, and single characters for all else, spaces with the word that they precede."""
    said = [
        question("Push the puck to the goal.", ["top", "robot"], 10),
        Answer("near puck", True, "translation", "x", (0.1,) * 7).text(), "Assistant:", "User:", "wrong_sequence noop",
    ]  # fmt: skip
    splitter = pre_tokenizers.Split(Regex(PIECES), "isolated")
    words = {piece for text in said for piece, _ in splitter.pre_tokenize_str(text)}
    letters = {chr(c) for c in range(32, 127)} | {"\n"}
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *sorted(words | letters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end_of_utterance>",
        unk_token="<unk>", additional_special_tokens=SPECIAL[4:], clean_up_tokenization_spaces=False,
    )  # fmt: skip
