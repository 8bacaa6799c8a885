"""gigaseg: from raw microscope files to an evaluated segmentation, whatever the size."""
