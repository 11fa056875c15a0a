"""A page to try a detector with: ``tcm-d2 serve``; needs the extra ``serve``."""
