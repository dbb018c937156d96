"""From shards to batches on the device.

The road of a batch:

    ids ---------------> EncodedBatch    reader: the file of each image         (encoded, decode)
    EncodedBatch ------> DecodedBatch    pixels, on a GPU or copied to it       (loader, nvjpeg; side_stream)
    DecodedBatch ------> Batch           augmented                              (loader)
    Batch -------------> Examples        mixed, through the frozen part         (feed)

On a CPU an EncodedBatch becomes a Batch directly: an image is decoded when it is augmented. Threads do all but the last
arrow ahead of the training (`threads`; `cpus`: how many); on a GPU they stop at DecodedBatch. `bad_samples`: images
that cannot be read. With `data.cache` (`decoded`, `decode_cache`, `shared_memory`) the road begins at DecodedBatch,
with features kept on disk (`features/`) at Examples.

The road of the bytes:

    shards, packed where they are missing    (prepare)
    which ids form a batch                   (order, lanes; ids)
    the bytes of an id                       (reader: local shards; remote/: shards at a URL; image_files: other files)
"""
