"""Features of a frozen part on disk: `format` lays out the files, `store` computes and opens them."""
