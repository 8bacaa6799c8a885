"""The smallest project that takes part in every stage."""

CONFIG = """\
samples: samples.tsv

datasets:
  cells:
    lot: 2
    phantom: {kind: nuclei, seed: 1, shape: [1, 96, 96]}

experiments:
  tiny: {datasets: [cells]}

storage: {chunk: 32, shard: 64, smallest_level: 64}
network: {depth: 1, width: 2, dropout: 0.0}
training: {steps: 5, tile: 44, validate_every: 5, warmup_steps: 0, threads: 1, device: cpu,
  checkpoint_every: 1}
prediction: {tile: 48, device: cpu}
instances: {threshold: 0.5}
evaluation: {iou_thresholds: [0.5], thresholds: [0.5], warping_radius: 2}
"""

SHEET = "sample\tdataset\tsplit\timage\tlabel\n" + "".join(
    f"{name}\tcells\t{split}\timage/{name}.tif\tlabel/{name}.tif\n"
    for name, split in zip("abcd", ("train", "validation", "test", "test"), strict=True)
)
