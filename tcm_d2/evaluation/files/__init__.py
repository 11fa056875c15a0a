"""Files that evaluation reads and writes.

=====================  ============================================================
`task_files`           Task1_<class>.txt and its zip: write them, read them all, strictly
`rows`                 one result file: its name, its rows, what is wrong with them
`image_ids`            ids with blanks in rows that blanks separate; image lists
`lint`                 what the DOTA server would reject in a submission
`ap_file`              ap.json, what an evaluation says about itself
=====================  ============================================================
"""
