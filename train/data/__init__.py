"""The data of a run: three parts of fixed examples, the order in which training visits them, how it changes them."""

from train.data.augment import augmented
from train.data.catalogue import Record, checked, data_root, download, record, records, records_text
from train.data.errors import AbsentDataError, DataError, LibraryError, UnsafeDataError
from train.data.hashes import content_hash, splits_hash
from train.data.images import Images, Part, selected
from train.data.samples import Batches, sample
from train.data.splits import Splits, batch_order, flip_labels, load, num_held_out

__all__ = [
    "AbsentDataError",
    "Batches",
    "DataError",
    "Images",
    "LibraryError",
    "Part",
    "Record",
    "Splits",
    "UnsafeDataError",
    "augmented",
    "batch_order",
    "checked",
    "content_hash",
    "data_root",
    "download",
    "flip_labels",
    "load",
    "num_held_out",
    "record",
    "records",
    "records_text",
    "sample",
    "selected",
    "splits_hash",
]
