"""The rules of "auto" that decide how long a run is: one place for the trainer, and for who estimates beforehand."""


def n_epochs(examples: int) -> int:
    """3, raised (to at most 25) until 100 examples are seen, lowered until at most 25,000 are."""
    if 3 * examples < 100:
        return min(25, -(-100 // max(1, examples)))
    return max(1, min(3, 25_000 // examples))


def batch_size(examples: int) -> int:
    """0.2% of the examples as a power of two, at least 16 and at most 256, never above the examples."""
    wanted = max(1, round(examples * 0.002))
    power = 1 << (wanted - 1).bit_length()
    return max(1, min(examples, max(16, min(256, power))))


def held_out(examples: int, fraction: float) -> int:
    """How many examples of the training file are for validation: at least one of them, and never all."""
    return min(examples - 1, max(1, round(examples * fraction))) if fraction > 0 else 0


def total_steps(examples: int, *, n_epochs: int, batch_size: int, max_steps: int | None) -> int:
    """Optimizer steps of a run; `max_steps`, where given, is their number, however many epochs it takes."""
    return max_steps or n_epochs * -(-examples // batch_size)
