"""PyTorch's files, read and written without running anything: archives, what they may unfold to, checksums."""

from detframe.torch_files.archive import (
    DAMAGE,
    beginning,
    is_torch_file,
    read_torch_file,
    to_cpu,
    write_torch_file,
)
from detframe.torch_files.limits import check_content
from detframe.torch_files.pickle_scan import check_pickle
from detframe.torch_files.plain import check_plain

__all__ = [
    "DAMAGE",
    "beginning",
    "check_content",
    "check_pickle",
    "check_plain",
    "is_torch_file",
    "read_torch_file",
    "to_cpu",
    "write_torch_file",
]
