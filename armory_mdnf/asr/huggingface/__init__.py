"""Recognisers of Hugging Face's transformers: CTC models and Whisper, from folders of safetensors."""
