"""Files that lie elsewhere: in buckets, on web servers, in shards; opened by address, kept in a bounded cache."""

from detframe.storage.addresses import address_of, can_list, is_remote, place_of, public, scheme_of
from detframe.storage.listings import exists, files_in, forget, names_in, stamp
from detframe.storage.materialised import here
from detframe.storage.reading import TRUSTED_SECONDS, opened
from detframe.storage.settings import Knowledge, Settings, knowledge, storage_folder, take, using

__all__ = [
    "TRUSTED_SECONDS",
    "Knowledge",
    "Settings",
    "address_of",
    "can_list",
    "exists",
    "files_in",
    "forget",
    "here",
    "is_remote",
    "knowledge",
    "names_in",
    "opened",
    "place_of",
    "public",
    "scheme_of",
    "stamp",
    "storage_folder",
    "take",
    "using",
]
