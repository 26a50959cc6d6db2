"""The Bundle-MLLM model: item embeddings, fusion module and the LoRA language model."""
