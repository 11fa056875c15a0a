"""What each rule of the lint of result files says, for help texts and documents."""

RULES = {
    "file-name": "a file that is not named Task1_<class>.txt; the server does not read it",
    "nested-folder": "a file in a folder of the zip; the server looks at the top only",
    "extra-file": "a file that the system put into the zip (__MACOSX)",
    "unknown-class": "a result file of a class the task does not have",
    "duplicate-class": "a second file for a class",
    "missing-class": "no result file for a class; the devkit stops there",
    "no-rows": "not a single detection in all files",
    "empty-file": "a note: a class without detections; the devkit's own evaluation stops there",
    "not-text": "a result file that is not UTF-8 text",
    "field-count": "a row with another number of fields",
    "not-a-number": "a field that is not a number",
    "non-finite": "NaN or infinity",
    "patch-name": "rows named by patch instead of image: not merged",
    "unknown-image": "rows of images that are not in the image list",
    "degenerate-quad": "boxes without area, which match nothing",
    "non-convex-quad": "quads that are not convex or cross themselves",
}
