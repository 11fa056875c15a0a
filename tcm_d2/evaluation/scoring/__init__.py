"""From boxes and ground truths to average precision."""
