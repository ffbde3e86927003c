"""Which items go together: session baskets, decayed counts an item, and scores made of them."""
