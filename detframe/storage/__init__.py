"""Files that lie elsewhere: in buckets, on web servers, in shards; opened by address, kept in a bounded cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detframe.lazy import lazily

if TYPE_CHECKING:
    from detframe.storage.addresses import address_of, can_list, is_remote, place_of, public, refuse_address, scheme_of
    from detframe.storage.listings import exists, files_in, forget, names_in, stamp
    from detframe.storage.materialised import here
    from detframe.storage.reading import each_fetched, fetch_ahead, opened
    from detframe.storage.settings import (
        TRUSTED_SECONDS,
        Knowledge,
        Settings,
        knowledge,
        mark_seen,
        storage_folder,
        take,
        using,
        writing_here,
    )
    from detframe.storage.shards import located, member_names, prepare, read_here, stamp_of
    from detframe.storage.tars import INDEX, Shard, index_line, read_headers
else:
    __getattr__ = lazily(
        __name__,
        {
            "addresses": "address_of can_list is_remote place_of public refuse_address scheme_of",
            "listings": "exists files_in forget names_in stamp",
            "materialised": "here",
            "reading": "each_fetched fetch_ahead opened",
            "settings": "TRUSTED_SECONDS Knowledge Settings knowledge mark_seen storage_folder take using writing_here",
            "shards": "located member_names prepare read_here stamp_of",
            "tars": "INDEX Shard index_line read_headers",
        },
    )

__all__ = [
    "INDEX",
    "TRUSTED_SECONDS",
    "Knowledge",
    "Settings",
    "Shard",
    "address_of",
    "can_list",
    "each_fetched",
    "exists",
    "fetch_ahead",
    "files_in",
    "forget",
    "here",
    "index_line",
    "is_remote",
    "knowledge",
    "located",
    "mark_seen",
    "member_names",
    "names_in",
    "opened",
    "place_of",
    "prepare",
    "public",
    "read_headers",
    "read_here",
    "refuse_address",
    "scheme_of",
    "stamp",
    "stamp_of",
    "storage_folder",
    "take",
    "using",
    "writing_here",
]
