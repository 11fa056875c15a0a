"""What an evaluation knows beside the AP.

=====================  ============================================================
`numbers`              AP by size, shape and angle; confusion between classes
`result`               one evaluation as one structure
`export`               its files: JSON and CSV
`plots`                its pictures
=====================  ============================================================
"""
