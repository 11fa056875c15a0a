"""The one reader of raster files: what a file is, whether it may be opened, its stored values."""
