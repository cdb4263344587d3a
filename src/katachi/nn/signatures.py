"""At run time a signature is nothing. What checkers see of this module is in signatures.pyi."""


def __getattr__(name: str) -> None:
    if name.startswith("_"):
        raise AttributeError(name)
