"""What the service sells, as data: per model its input rules, its price and its endpoint.

``sora_2.py`` shows an entry; ``built_in.py`` lists the entries that come with this package. Rules
and prices of ``sora-2`` are those of the provider's page ("Input 对象", "定价"). Of the other
models only the names are public, so they are sent unchecked and their price is not known.

A catalogue of your own is a :class:`Catalog`; nothing here can be changed for the whole process.
"""

from aivideo.catalog.catalog import Catalog, default_catalog
from aivideo.catalog.model import IMAGES, VIDEOS, Model
from aivideo.catalog.prices import Flat, PerSecond, Price
from aivideo.catalog.rules import Choice, Rule, Text, URLs, is_name, is_web_url
from aivideo.catalog.sora_2 import SORA_2

__all__ = [
    "IMAGES",
    "SORA_2",
    "VIDEOS",
    "Catalog",
    "Choice",
    "Flat",
    "Model",
    "PerSecond",
    "Price",
    "Rule",
    "Text",
    "URLs",
    "default_catalog",
    "is_name",
    "is_web_url",
]
