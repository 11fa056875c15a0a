"""TCM: prompts, context decoders, matching."""
