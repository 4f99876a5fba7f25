"""lem: teach a language model in layers, and lose nothing between them."""

__version__ = "0.1.0"
