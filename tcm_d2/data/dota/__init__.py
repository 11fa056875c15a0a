"""DOTA: classes, label files, patches, registration."""
