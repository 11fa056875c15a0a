"""Files that evaluation reads and writes.

=====================  ============================================================
`task_files`           Task1_<class>.txt and its zip: write them, read them all, strictly
`rows`                 one result file: its name, its rows, what is wrong with them
`escapes`              names that rows or file names cannot hold; image lists
`lint`                 what the DOTA server would reject in a submission
`ap_file`              ap.json, what an evaluation says about itself
=====================  ============================================================
"""
