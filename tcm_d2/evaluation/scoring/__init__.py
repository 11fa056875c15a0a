"""From detections and ground truth to average precision.

=====================  ============================================================
`annotations`          ground truth, from label files or data set dicts
`protocols`            rules of a protocol; rows and annotations -> arrays
`average_precision`    arrays of a class -> matches, curve, AP
`score`                all classes -> the table that is printed and written as ap.json
`quad_iou`             overlaps of quads, NMS among quads
`ground_truth`         the labels scored as if they were detections: faults in the data
=====================  ============================================================
"""
