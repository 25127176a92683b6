"""The driver: there is a Neuron device of no known kind, if `pathlib` reads Linux's files."""

import pathlib

DEVICES, PRODUCT = "/proc/devices", "/sys/devices/virtual/dmi/id/product_name"

_plain = pathlib.Path.read_text


def read_text(path, *args, **kwargs):
    if str(path) == PRODUCT:
        raise FileNotFoundError(PRODUCT)
    return "245 neuron\n" if str(path) == DEVICES else _plain(path, *args, **kwargs)


pathlib.Path.read_text = read_text
