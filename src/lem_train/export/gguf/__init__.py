"""Models as GGUF files, for llama.cpp and all that is built on it."""
