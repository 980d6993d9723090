"""Pretrained models: where they come from (`sources`), GGUF into safetensors (`convert`), loading."""
