"""Where elements of DER begin and end, without reading what is in them. Needs the standard library only."""


def inside(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends. Raises IndexError."""
    size, begin = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, begin = int.from_bytes(der[begin : begin + count]), begin + count
    if begin + size > len(der) or size >= 1 << 24:
        raise IndexError
    return begin, begin + size


def after(der: bytes, at: int) -> int:
    """Where the element at `at` ends. Raises IndexError."""
    return inside(der, at)[1]


def elements(data: bytes) -> list[bytes]:
    """The elements that follow each other in `data`; bytes after the last whole element are the last item."""
    found, at = [], 0
    while at < len(data):
        try:
            end = after(data, at)
        except IndexError:
            end = len(data)
        found.append(data[at:end])
        at = end
    return found
