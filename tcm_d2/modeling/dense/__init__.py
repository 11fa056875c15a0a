"""Parts that dense heads are made of."""
