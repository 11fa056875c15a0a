"""Evaluation of rotated detections by the rules of the DOTA devkit.

=====================  ============================================================
`dota_evaluator`       Detectron2's evaluator: gathers, merges, writes, scores
`merge`                patches of an image -> the whole image
`files`                result files (Task1_<class>.txt, zip, ap.json): read, written, checked
`scoring`              detections and ground truth -> average precision
`analysis`             what an AP hides: curves, sizes, angles, confusion; files and pictures
=====================  ============================================================
"""
